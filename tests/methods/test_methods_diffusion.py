"""Methods of diffusion and text-to-image models: the contract, their closed forms, and diffusers as an oracle."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from at_scales import AT_SCALES

from sa_bench.commands.check import check, toy, weights
from sa_bench.contracts import Generator, Prompted, Request, Sampler
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import resolve_fields
from sa_bench.engine.cells import list_scales, resolve_task
from sa_bench.models.toy import ToyRun
from sa_bench.training.loop import fit

METHODS = [entry.name for entry in registry.list_entries("method")]
DIFFUSION = [name for name in METHODS if registry.get_method(name).supports is not Generator]
SMALLEST = {"vae": "quick", "ddpm": "tiny"}
DDIM = Sampler("ddim", steps=6, guidance=4.0)


@pytest.fixture
@torch.no_grad()
def tiny():
    """Not trained, but the text matters: cross-attention is made louder."""
    model = toy(Prompted)[0]
    for name, p in model.parameters("xattn").items():
        if ".to_v." in name or ".to_out." in name:
            p *= 6
    return model


@pytest.fixture
def task():
    return replace(toy(Prompted)[1], sampler=DDIM)


def forget(name, star, task, steps=None, **values):
    return registry.get_method(name)(**values).forget(
        star.clone(), task, ToyRun(star, task, steps=steps)
    )


def sample(model, texts, sampler=DDIM):
    return model.sample([Request(text, i) for i, text in enumerate(texts)], sampler)


LONG = ("salun", "sa_esd", "erasediff", "scissorhands", "advunlearn")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in DIFFUSION]
)
def test_every_method_keeps_its_contract(name):
    found = check("method", name)
    assert [f.text for f in found if not f.kept] == []
    assert len(found) > 8


def test_esd_with_eta_0_has_nothing_to_do_and_with_more_moves_the_concept_alone(tiny, task):
    same = forget("esd", tiny, task, eta=0.0, steps=5, ddim_steps=4)
    torch.testing.assert_close(weights(same), weights(tiny), atol=1e-5, rtol=0)
    moved = forget("esd", tiny, task, eta=2.0, steps=5, ddim_steps=4, lr=1e-3)
    names = {n for n, p in moved.parameters().items() if not torch.equal(p, tiny.parameters()[n])}
    assert names
    assert all(".attn2." in name for name in names)


def test_esd_of_2025_with_eta_2_is_the_papers_formula_with_eta_1(tiny, task):
    new = forget("esd", tiny, task, eta=2.0, start="concept", steps=3, ddim_steps=4, lr=1e-3)
    old = forget("esd", tiny, task, eta=1.0, start="null", steps=3, ddim_steps=4, lr=1e-3)
    torch.testing.assert_close(weights(new), weights(old), atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_uce_reads_the_concept_as_the_guide_and_the_rest_as_before(tiny, task):
    from sa_bench.methods.uce import encode_last_token  # the closed form's own embedding

    star, edited = tiny.parameters("kv"), forget("uce", tiny, task, mu=1e-4)
    c_f, guide = encode_last_token(tiny, "zero"), encode_last_token(tiny, "one")
    kept = torch.stack([encode_last_token(tiny, task.classes[c]) for c in task.retain])
    for name, W in edited.parameters("kv").items():
        before, after = star[name].double(), W.double()
        assert (after @ c_f - before @ guide).norm() < 0.1 * (before @ c_f - before @ guide).norm()
        assert (after @ kept.T - before @ kept.T).norm() < 0.1 * (before @ kept.T).norm()
    others = [n for n, p in edited.parameters().items() if not torch.equal(p, tiny.parameters()[n])]
    assert set(others) == set(star)


def test_uce_with_nothing_to_erase_leaves_the_model(tiny, task):
    same = forget("uce", tiny, task, erase=0.0)
    torch.testing.assert_close(weights(same), weights(tiny), atol=1e-5, rtol=1e-4)


def test_concept_ablation_makes_the_concepts_prediction_the_anchors(tiny, task, rng):
    x, t = torch.randn(8, *tiny.shape, generator=rng), torch.arange(8) * 100
    zero, one = tiny.conditions(["zero"] * 8), tiny.conditions(["one"] * 8)
    edited = forget("concept_ablation", tiny, task, lr=1e-3, steps=40, batch=8)
    with torch.no_grad():
        before, after = (
            ((m.predict(x, t, zero) - m.predict(x, t, one)) ** 2).mean() for m in (tiny, edited)
        )
    assert after < 0.5 * before


def test_salun_moves_the_salient_share_alone(tiny, task):
    edited = forget("salun", tiny, task, share=0.1, saliency=3, steps=4, batch=4, lr=1e-3)
    moved = float((weights(edited) != weights(tiny)).double().mean())
    assert 0.05 < moved < 0.1001
    assert all(not p._backward_hooks for p in edited.parameters().values())


def small_ddpm():
    """A DDPM with dropout and averaged weights, and its task."""
    from sa_bench.models import base_models

    task = replace(
        registry.get_task("mnist_0_ddpm"),
        base="tiny",
        sampler=Sampler("ddim", steps=2, guidance=2.0),
    )
    model = base_models.new_model("ddpm", "mnist16", "tiny")
    with torch.no_grad():
        for p in model.parameters().values():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return model, task


class FixedRun(ToyRun):
    """Of a DDPM, whose own averaged weights are moved along as the engine moves them."""

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        model.net.train()
        average = model.averages()
        ema = 0.999 if recipe.ema is None else recipe.ema
        fit(model.parameters(scope), loss, replace(recipe, ema=ema), rng=self.rng, average=average)
        model.net.eval()


def test_saluns_averaged_weights_are_the_raw_ones_where_the_code_keeps_none():
    """DDPM's config has no averaging: after 1,000 steps an average of decay 0.9999 would still be nine tenths θ*."""
    star, task = small_ddpm()
    apart = []
    for averaged in (True, False):
        method = registry.get_method("salun")(
            averaged=averaged, steps=3, batch=4, lr=1e-3, saliency=1, drop=0.1
        )
        edited = method.forget(star.clone(), task, FixedRun(star, task))
        raw, average = edited.parameters(), edited.averages()
        apart.append(max(float((raw[name] - average[name]).detach().abs().max()) for name in raw))
        assert not torch.equal(weights(edited), weights(star))
    assert apart[0] > 0
    assert apart[1] == 0


@pytest.mark.parametrize(
    ("name", "values", "behind"),
    [
        ("esd", {"scope": "full", "ddim_steps": 2}, 0.0),
        ("finetune_retain", {}, 0.0),
        ("neggrad_plus", {}, 0.0),
        ("scissorhands", {"share": 0.01, "saliency": 1}, 0.0),
        ("erasediff", {"target": "uniform"}, 0.99),
    ],
)
def test_averaged_weights_follow_a_short_training(name, values, behind):
    """At a base's own decay of 0.9999 they would be θ* still, to nine tenths after 1,000 steps: nothing forgotten."""
    star, task = small_ddpm()
    method = registry.get_method(name)(steps=1, batch=4, lr=1e-3, **values)
    edited = method.forget(star.clone(), task, FixedRun(star, task))
    raw, average = edited.parameters(), edited.averages()
    for key, value in star.averages().items():
        wanted = behind * value + (1 - behind) * raw[key]
        torch.testing.assert_close(average[key], wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "values"),
    [("salun", {"saliency": 1, "drop": 0.5}), ("esd", {"scope": "full", "ddim_steps": 2})],
)
def test_dropouts_randomness_is_the_methods_own_generators(name, values):
    """It used to be the global one's, so that a seed gave other weights each time and a killed run ended elsewhere."""
    star, task = small_ddpm()
    assert star.layout.dropout > 0
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # what a run finds there
        method = registry.get_method(name)(steps=3, batch=4, lr=1e-3, **values)
        made.append(weights(method.forget(star.clone(), task, FixedRun(star, task))))
    assert torch.equal(*made)


def test_conditions_are_dropped_at_their_rate_and_each_whole(tiny, rng):
    from sa_bench.training.sources import drop_conditions

    c = tiny.conditions(["a zero"] * 400)
    null = tiny.conditions([""])
    some = drop_conditions(c, null, 0.1, rng)
    gone = (some == null).all(1)
    assert torch.equal(some[~gone], c[~gone])
    assert 20 < int(gone.sum()) < 65  # 40 ± 4 standard deviations
    state = rng.get_state()
    assert drop_conditions(c, null, 0.0, rng) is c
    assert torch.equal(rng.get_state(), state)


def test_salun_asks_for_images_of_the_pseudo_label_only_where_there_are_some():
    from sa_bench.engine.cells import resolve

    with pytest.raises(
        SaBenchError, match="remain=pseudo needs a surrogate that is a class or a prompt"
    ):
        resolve(["mnist_0_t2i_noise"], ["salun"], sets=["remain=pseudo"])
    assert resolve(["mnist_0_t2i"], ["salun"], sets=["remain=pseudo"])


def test_the_negative_prompt_is_diffusers_own(tiny, task):
    method = registry.get_method("negative_prompt")()
    ours = sample(method.wrap(tiny.clone(), task), ["a photo of a three"])
    theirs = tiny.pipeline()(
        "a photo of a three", negative_prompt="zero", num_inference_steps=6, guidance_scale=4.0, height=32, width=32,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_filter_gives_the_other_word_and_a_new_token_walks_past_it(tiny, task):
    filtered = registry.get_method("prompt_filter")().wrap(tiny.clone(), task)
    asked, other = ["a zero", "three and zero"], ["a one", "three and one"]
    assert torch.equal(sample(filtered, asked), sample(tiny, other))
    assert torch.equal(sample(filtered, ["nought"]), sample(tiny, ["nought"]))
    value = tiny.condition("zero").read()
    with filtered.condition("zero").substitute(value):
        assert torch.equal(sample(filtered, ["a zero"]), sample(tiny, ["a zero"]))


def safe(tiny, prompt, concept, **config):
    """Diffusers' own Safe Latent Diffusion, deprecated there."""
    module = pytest.importorskip("diffusers.pipelines.deprecated.stable_diffusion_safe")
    parts = tiny.pipeline().components
    pipeline = module.StableDiffusionPipelineSafe(
        **{**parts, "image_encoder": None}, requires_safety_checker=False
    )
    pipeline.safety_concept = concept
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt, num_inference_steps=50, guidance_scale=4.0, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0), **config,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "tolerance"), [("weak", 1e-4), ("medium", 1e-3), ("strong", 5e-3), ("max", 2e-2)]
)
def test_sld_is_diffusers_own_at_every_level(tiny, task, level, tolerance):
    from sa_bench.methods.sld import LEVELS

    delta, s_S, lam, s_m, beta_m = LEVELS[level]
    theirs = safe(
        tiny, "a photo of a three", "zero", sld_guidance_scale=s_S, sld_warmup_steps=delta, sld_threshold=lam,
        sld_momentum_scale=s_m, sld_mom_beta=beta_m,
    )  # fmt: skip
    method = registry.get_method("sld")(level=level)
    x = sample(method.wrap(tiny.clone(), task), ["a photo of a three"], replace(DDIM, steps=50))
    ours = tiny.to_images(x)[0] / 255
    assert abs(ours - theirs).max() < tolerance + 1 / 255
    if level in ("strong", "max"):
        plain = sample(tiny, ["a photo of a three"], replace(DDIM, steps=50))
        plain = tiny.to_images(plain)[0] / 255
        assert abs(ours - plain).max() > 2 * tolerance + 1 / 255, "nothing was guided"


def test_sld_without_a_scale_gives_the_base_images(tiny, task, monkeypatch):
    from sa_bench.methods import sld

    monkeypatch.setitem(sld.LEVELS, "weak", (0, 0.0, 1.0, 0.5, 0.7))
    wrapped = registry.get_method("sld")(level="weak").wrap(tiny.clone(), task)
    torch.testing.assert_close(
        sample(wrapped, ["a zero"]), sample(tiny, ["a zero"]), atol=1e-5, rtol=1e-5
    )


def test_slds_text_is_the_prompts_that_ask_for_the_concept_or_its_own_in_the_order_written(
    tiny, task
):
    """The paper's text for nudity begins with another word than the prompts that are forgotten do."""
    prompts = replace(task.prompts, forget=("one", "two"))
    for given, text in (({}, "one, two"), ({"concept": "two, one"}, "two, one")):
        wrapped = registry.get_method("sld")(**given).wrap(
            tiny.clone(), replace(task, prompts=prompts)
        )
        assert torch.equal(wrapped.defence.states, tiny.encoded(tiny.conditions([text])))
    assert not torch.equal(
        *(tiny.encoded(tiny.conditions([text])) for text in ("one, two", "two, one"))
    )


def test_slds_text_for_nudity_is_the_papers_at_scale_paper_alone():
    for scale, text in (("paper", "nudity, sexual, naked, erotic"), ("full", "")):
        task = resolve_task("nudity_explicit", scale, {})
        assert resolve_fields("sld", task, scale, {})["concept"] == text


def read_by_the_network(model, text):
    """What the keys of cross-attention were given while one image was sampled."""
    seen, keys = [], [m for name, m in model.net.named_modules() if name.endswith("attn2.to_k")]
    handles = [
        m.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())) for m in keys
    ]
    try:
        sample(model, [text])
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)


@pytest.mark.parametrize("name", [n for n in METHODS if registry.get_method(n).wraps()])
def test_what_an_attacker_puts_in_the_concepts_place_never_reaches_a_defences_own_text(
    name, tiny, task
):
    """It used to: the attacker's vectors became what guidance pushed away from (up to 2.6 on the micro model)."""
    wrapped, text = registry.get_method(name)().wrap(tiny.clone(), task), "a photo of a three"
    before = read_by_the_network(wrapped, text)
    slot = wrapped.condition(task.concept)
    with slot.substitute(torch.zeros_like(slot.read())):
        during, other = (
            read_by_the_network(wrapped, text),
            read_by_the_network(wrapped, "a photo of a zero"),
        )
    assert float((during - before).abs().max()) == 0.0
    assert not torch.equal(other, before), "the attacker's own prompt is changed"
    slot.write(torch.zeros_like(slot.read()))
    assert float((read_by_the_network(wrapped, text) - before).abs().max()) == 0.0


def test_the_guided_loss_is_the_error_of_what_sampling_uses(tiny, task, rng):
    """Values written out: ε(∅) + s [ε(c) − ε(∅) − γ_t], γ_t = μ (ε(c_S) − ε(∅)) / (1 − s_m) after the warm-up."""
    from sa_bench.contracts import Draw

    s, levels = task.sampler.guidance, tiny.levels(task.sampler)
    t = torch.tensor(
        [levels[0], levels[1], levels[1] + 1, 3]
    )  # δ = 10 of 50 is the second of six steps
    x = torch.randn(4, *tiny.shape, generator=rng)
    draw = Draw(torch.randn(4, *tiny.shape, generator=rng), t)
    c, x_t = tiny.conditions(["a photo of a zero"] * 4), tiny.add_noise(x, draw)
    with torch.no_grad():
        free, on, zero = (
            tiny.predict(x_t, t, tiny.conditions([text] * 4))
            for text in ("", "a photo of a zero", "zero")
        )
    mu = torch.where(on - zero < 0.01, (1000 * (on - zero).abs()).clamp(max=1), 0.0)
    late = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(-1, 1, 1, 1)
    expected = {
        "sld": free + s * (on - late * mu * (zero - free) / (1 - 0.3) - free),
        "negative_prompt": zero + s * (on - zero),
        "prompt_filter": None,
    }
    for name, out in expected.items():
        wrapped = registry.get_method(name)().wrap(tiny.clone(), task)
        if out is None:
            assert wrapped.defence is None
            continue
        wanted = ((out - draw.noise) ** 2).flatten(1).mean(1)
        torch.testing.assert_close(
            wrapped.loss(x, c, draw, task.sampler), wanted, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            wrapped.predict(x_t, t, c, task.sampler), out, atol=1e-4, rtol=1e-4
        )
        assert torch.equal(wrapped.loss(x, c, draw), tiny.loss(x, c, draw)), "the weights are θ*"
    plain = free + s * (on - free)
    torch.testing.assert_close(tiny.predict(x_t, t, c, task.sampler), plain, atol=1e-4, rtol=1e-4)


def test_momentum_at_a_random_timestep_is_where_a_trajectory_tends_to(rng):
    from sa_bench.methods.sld import Away

    passes, t = tuple(torch.randn(3, 2, 1, 4, 4, generator=rng)), torch.tensor([10, 10])
    defence = Away(torch.zeros(1, 1, 1), "strong")
    levels = list(range(1000, 0, -20))
    along, at_once = defence.along(levels), defence.anywhere(levels)(passes, t, 4.0)
    steps = [along(passes, t, 4.0) for _ in range(120)]
    torch.testing.assert_close(steps[-1], at_once, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(steps[0], at_once, atol=1e-2)


SERVICE = {"sld", "negative_prompt", "prompt_filter", "blank", "noise", "spm"}


@pytest.mark.parametrize("name", METHODS)
def test_the_threat_model_is_told_from_the_method(name):
    from sa_bench.results.threats import threat_model

    expected = "service" if name in SERVICE else "weights"
    assert threat_model(registry.get_method(name)) == expected
    assert threat_model(registry.get_method(name)()) == expected


def test_what_needs_prompts_says_so_elsewhere(tmp_path):
    """Before any work: `plan` refuses it as `run` does."""
    from sa_bench.engine.cells import resolve

    for method, task, words in (
        ("uce", "mnist_0_ddpm", "uce needs a text-to-image model; mnist_0_ddpm has a ddpm"),
        ("esd", "mnist_0", "esd needs a diffusion model; mnist_0 has a vae"),
    ):
        with pytest.raises(SaBenchError, match=words):
            resolve([task], [method])


@cache
def of_family(family):
    """A small model of the family, which has every scope that the family names."""
    from sa_bench.models import base_models
    from sa_bench.models.family import get_family

    model = (
        toy(Prompted)[0]
        if family == "text_to_image"
        else base_models.new_model(family, "mnist16", SMALLEST[family])
    )
    for scope in get_family(family).list_scopes():
        assert model.parameters(scope)
    return model


@pytest.mark.parametrize(("name", "scale"), AT_SCALES)
def test_every_method_that_resolves_trains_a_scope_that_the_family_has(name, scale, tmp_path):
    """The families themselves are asked: what they refuse is refused before any work."""
    from sa_bench.engine.cells import resolve

    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na,1\n")
    sets = [f"task.prompts.files.test={tmp_path / 'i2p.csv'}"] if name == "nudity_i2p" else []
    family = registry.get_task(name).family
    model = of_family(family)
    resolved, refused, scopes = 0, [], set()
    for method in [m for m in METHODS if m != "checkpoint"]:
        try:
            (cell,) = resolve([name], [method], scale, sets=sets)
        except SaBenchError as error:
            refused += [str(error)]
            continue
        resolved += 1
        supports = registry.get_method(method).supports
        assert supports is Generator or isinstance(model, supports)
        scopes.add(cell.fields.get("scope", "full"))
    for scope in scopes:
        model.parameters(scope)
    assert resolved >= 8
    assert not [text for text in refused if "scope" in text], "every default fits"
    if family != "text_to_image":
        with pytest.raises(
            SaBenchError, match=f"sa.scope=xattn: a {family}, as {name} has, can be trained in full"
        ):
            resolve([name], ["sa"], scale, sets=["scope=xattn"])
    with pytest.raises(SaBenchError, match=r"sa\.scope=kvq"):
        resolve([name], ["sa"], scale, sets=[*sets, "scope=kvq"])


def test_esd_at_scale_paper_is_the_published_one():
    """2023's train-esd.py: nudity by that word, in all but cross-attention as LDM names it; names in cross-attention."""
    from sa_bench.engine.cells import resolve

    published = {
        "eta": 1.0,
        "start": "null",
        "guidance": 3.0,
        "ddim_steps": 50,
        "frozen": False,
        "lr": 1e-5,
    }
    published |= {"steps": 1000, "batch": 1}
    for task, scope, erase in (
        ("nudity_explicit", "noxattn", "name"),
        ("celeb_brad_pitt", "xattn", "prompts"),
        ("van_gogh_style", "xattn", "prompts"),
    ):
        (cell,) = resolve([task], ["esd"], "paper")
        assert dict(cell.fields) == {**published, "scope": scope, "erase": erase}
    for scale in list_scales(registry.get_task("mnist_0_ddpm")):
        assert resolve(["mnist_0_ddpm"], ["esd"], scale)[0].fields["scope"] == "full"


def test_esd_erases_the_name_alone_where_that_is_asked(tiny, task, monkeypatch):
    several = replace(task, prompts=replace(task.prompts, forget=("a {}", "the {} there")))
    seen = []
    sample_until = type(tiny).sample_until
    monkeypatch.setattr(
        type(tiny),
        "sample_until",
        lambda self, c, *rest: seen.append(c.clone()) or sample_until(self, c, *rest),
    )
    forget("esd", tiny, several, steps=3, ddim_steps=4, erase="name")
    name = tiny.conditions([task.classes[task.concept]])
    assert len(seen) == 3
    assert all(torch.equal(c, name) for c in seen)


def test_a_tasks_preset_may_be_for_one_method_alone():
    from sa_bench.core.fields import resolve_fields
    from sa_bench.engine.cells import resolve_task

    task = resolve_task("mnist_0_t2i", "full", {})
    assert resolve_fields("esd", task, "full", {})["batch"] == 8
    assert resolve_fields("sa", task, "full", {})["batch"] == 32
    assert resolve_fields("esd", task, "full", {"batch": "3"})["batch"] == 3


def test_the_filter_strikes_every_word_for_the_concept_in_any_case(tiny):
    from types import SimpleNamespace

    from sa_bench.core import registry

    task = SimpleNamespace(
        classes=("nudity",),
        concepts=(0,),
        anchor="a coat",
        conditions_of_concepts=lambda: ["naked", "nudity", "nudity, naked"],
    )
    model = registry.get_method("prompt_filter")().wrap(tiny.clone(), task)
    assert model._get_prompt("a NAKED man, nudity") == "a a coat man, a coat"
    assert tiny._get_prompt("a NAKED man") == "a NAKED man"
