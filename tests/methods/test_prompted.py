"""`fmn`, `spm`, `advunlearn`, `receler`: each loss written out on fixed draws, and what each leaves alone."""

from dataclasses import replace

import pytest
import torch
from prompted import FirstStep, draw_like, make_tiny

from sa_bench.commands.check import all_weights, weights
from sa_bench.contracts import Request, Sampler
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve
from sa_bench.models.attention_maps import find_tokens, record_attention
from sa_bench.models.soft_prompts import Prefix, Suffix
from sa_bench.models.toy import ToyRun

B = 4


@pytest.fixture
def tiny():
    return make_tiny()


def first_step(name, model, task, move=None, **values):
    run = FirstStep(model, task, move=move)
    method = registry.get_method(name)(batch=B, **values)
    return method.forget(model.clone(), task, run), run


def forget(name, model, task, steps, **values):
    run = ToyRun(model, task, steps=steps)
    return registry.get_method(name)(batch=B, **values).forget(model.clone(), task, run)


def esds_target(model, x_t, t, eta):
    """The paper's, from the empty prompt."""
    with torch.no_grad():
        on, free = (
            model.predict(x_t, t, model.conditions([text] * len(t))) for text in ("zero", "")
        )
    return free - eta * (on - free)


def error(a, b):
    return ((a - b) ** 2).mean()


@pytest.mark.parametrize("end", [True, False])
def test_fmns_loss_is_the_attention_to_the_concepts_tokens(tiny, end):
    model, _task = tiny
    _, run = first_step("fmn", *tiny, end=end)
    rng = torch.Generator().manual_seed(0)
    x_t, t, _ = draw_like(model, run.concept_samples(), B, rng)
    with torch.no_grad(), record_attention(model.net) as maps:
        model.predict(x_t, t, model.conditions(["zero"] * B))
    length = maps[0].shape[3]  # "zero" is one token, after the first; the padding is the end token
    places = list(range(1, length)) if end else [1]
    wanted = sum((A[..., places] ** 2).sum(3).mean() for A in maps)
    torch.testing.assert_close(run.losses[0], wanted, atol=1e-6, rtol=1e-5)
    assert run.scopes == ["full"]
    assert run.recipes[0].decay == 0.01


def test_fmn_turns_attention_away(tiny, rng):
    model, _task = tiny
    edited = forget("fmn", *tiny, steps=30, lr=1e-2)
    x, t = torch.randn(B, *model.shape, generator=rng), torch.tensor([5, 300, 600, 900])
    tokens = find_tokens(model, "zero", end=True)
    drawn = []
    for each in (model, edited):
        with torch.no_grad(), record_attention(each.net) as maps:
            each.predict(x, t, model.conditions(["zero"] * B))
        drawn += [float(torch.stack([A[..., tokens].sum(3).mean() for A in maps]).mean())]
    assert drawn[1] < 0.5 * drawn[0]


def grow(params):
    """Move every adapter off its start, at which it does nothing."""
    for name, p in params.items():
        if name.endswith(".up"):
            p.copy_(0.1 * torch.ones_like(p))


def add_updates(model, method, task, chosen, rank):
    """θ* + B A with the adapters that `grow` made, by plain addition to the weights."""
    rng, moved = torch.Generator().manual_seed(0), model.clone()
    with torch.no_grad():
        for name, module in moved.net.named_modules():
            if type(module).__name__ in ("Linear", "Conv2d", "LoRACompatibleLinear") and chosen(
                name
            ):
                W = module.weight
                down = (2 * torch.rand(rank, *W.shape[1:], generator=rng) - 1) * W[
                    0
                ].numel() ** -0.5
                W += (0.1 * torch.ones(len(W), rank) @ down.flatten(1)).view_as(W)
    return moved, rng


def test_spms_loss_is_esds_and_the_anchors(tiny):
    model, task = tiny
    _, run = first_step("spm", *tiny, move=grow, anchoring=7.0, eta=1.5)
    moved, rng = add_updates(model, "spm", task, lambda n: ".attentions." in n, 1)
    star, retained = FirstStep(model, task), FirstStep(model, task).replay()
    x, _ = star.concept_samples().batch(B, rng)
    draw = model.draw(B, rng)
    x_t, t = model.add_noise(x, draw), draw.t
    x_r, t_r, c_r = draw_like(model, retained, B, rng)
    zero = model.conditions(["zero"] * B)
    with torch.no_grad():
        erase = error(moved.predict(x_t, t, zero), esds_target(model, x_t, t, 1.5))
        drift = (moved.predict(x_r, t_r, c_r) - model.predict(x_r, t_r, c_r)) ** 2
        concept = model.encoded(zero)[0, 1]
        cosines = torch.cosine_similarity(model.encoded(c_r), concept[None, None], dim=2)
        weight = 1 - cosines.amax(1).clamp(min=0)
    wanted = erase + 7.0 * (weight * drift.flatten(1).mean(1)).mean()
    torch.testing.assert_close(run.losses[0], wanted, atol=1e-5, rtol=1e-4)
    assert all(name.endswith((".down", ".up")) for name in run.gradients)


def test_spm_acts_on_the_concept_alone_when_images_are_made(tiny, tmp_path):
    """The file holds θ* + BA; loaded and wrapped, the empty prompt is θ*'s and the concept's images are not."""
    new, task = tiny
    new.save(tmp_path)
    star = new.clone().load(tmp_path)
    assert star.origin is not None
    edited = forget("spm", star, task, steps=20, adapter_lr=0.05, anchoring=0.0)
    sampler = Sampler("ddim", steps=3, guidance=1.0)
    requests = [Request("zero", 0), Request("", 1), Request("a photo of a zero and a three", 2)]
    before, merged = star.sample(requests, sampler), edited.sample(requests, sampler)
    gated = registry.get_method("spm")().wrap(edited, task).sample(requests, sampler)
    assert not torch.allclose(merged[1], before[1], atol=1e-3)
    torch.testing.assert_close(gated[1], before[1], atol=1e-5, rtol=1e-5)
    for i in (0, 2):  # wherever the concept is named
        torch.testing.assert_close(gated[i], merged[i], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(gated[i], before[i], atol=1e-3)


def start_prefix(model, vectors, rng):
    """Embeddings of random words, drawn as the method draws them."""
    words = list(model.vocabulary())
    drawn = torch.randint(len(words), (vectors,), generator=rng).tolist()
    return model.embeddings[[words[i] for i in drawn]].detach().flatten()


@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_advunlearns_loss_with_and_without_an_attacker(tiny, warmup):
    """One step of Adam, which is of its rate's length, down the gradient of ‖ε_θ(x_t, [p, c_f]) − ε*(x_t, c_f)‖²."""
    model, _task = tiny
    values = {"warmup": warmup, "steps": 2, "attack_steps": 1, "attack_rate": 0.5, "utility": 0.2}
    _edited, run = first_step("advunlearn", *tiny, retained=3, vectors=2, **values)
    rng = torch.Generator().manual_seed(0)
    x_t, t, _ = draw_like(model, run.concept_samples(), B, rng)
    torch.randint(1, (B,), generator=rng)
    zero, attacked = (model.conditions([text] * B) for text in ("zero", "* zero"))
    if not warmup:
        value = start_prefix(model, 2, rng).requires_grad_(True)
        with model.condition("*").substitute(value):
            gap = error(model.predict(x_t, t, attacked), model.predict(x_t, t, zero).detach())
        (gradient,) = torch.autograd.grad(gap, [value])
        length = 0.5 * model.condition("*").read().std()
        stepped = (value - length * gradient / (gradient.abs() + 1e-8)).detach()
        with model.condition("*").substitute(stepped), torch.no_grad():
            predicted = model.predict(x_t, t, attacked)
    else:
        predicted = model.predict(x_t, t, zero).detach()
    # Nothing has moved yet: the retained prompts are predicted as by θ*, and their term is 0.
    torch.testing.assert_close(
        run.losses[0], error(predicted, esds_target(model, x_t, t, 1.0)), atol=1e-5, rtol=1e-4
    )
    assert run.scopes == ["text"]
    trained = ("text_encoder.encoder.", "text_encoder.final_layer_norm.")
    assert all(name.startswith(trained) for name in run.gradients)
    assert run.gradients["text_encoder.final_layer_norm.weight"].abs().max() > 0


def test_advunlearns_utility_is_the_drift_of_the_retained_prompts(tiny):
    model, task = tiny

    def louder(params):
        for p in params.values():
            p *= 1.1

    losses = [
        first_step("advunlearn", *tiny, move=louder, steps=2, warmup=0.5, retained=3, utility=u)[
            1
        ].losses[0]
        for u in (0.0, 2.0)
    ]
    rng = torch.Generator().manual_seed(0)
    run = FirstStep(model, task)
    draw_like(model, run.concept_samples(), B, rng)
    torch.randint(1, (B,), generator=rng)
    x_r, t_r, c_r = draw_like(model, run.replay(), 3, rng)
    moved = model.clone()
    with torch.no_grad():
        louder(moved.parameters("text"))
        drift = error(moved.predict(x_r, t_r, c_r), model.predict(x_r, t_r, c_r))
    torch.testing.assert_close(losses[1] - losses[0], 2.0 * drift, atol=1e-5, rtol=1e-3)


def train(name, model, task, folder=None, killed_at=None, **values):
    run = ToyRun(model, task, folder=folder, killed_at=killed_at)
    return registry.get_method(name)(batch=B, **values).forget(model.clone(), task, run)


def test_advunlearn_trains_the_text_encoders_layers_alone_and_leaves_it_frozen(tiny):
    model, _task = tiny
    values = {"steps": 4, "warmup": 0.25, "attack_steps": 2, "lr": 1e-3}
    edited = train("advunlearn", *tiny, **values)
    assert torch.equal(weights(edited), weights(model))
    assert not torch.equal(all_weights(edited), all_weights(model))
    assert torch.equal(edited.embeddings, model.embeddings)
    positions = [
        m.state_dict()["embeddings.position_embedding.weight"] for m in (edited.text, model.text)
    ]
    assert torch.equal(*positions)
    assert not any(p.requires_grad for p in edited.text.parameters())
    zero = edited.conditions(["zero"])
    assert not torch.allclose(edited.encoded(zero), model.encoded(zero), atol=1e-4)


def test_the_scope_text_is_a_part_of_joint(tiny):
    model, _task = tiny
    text, joint, full = (model.parameters(scope) for scope in ("text", "joint", "full"))
    left_out = {
        name.removeprefix("text_encoder.") for name in joint.keys() - text.keys() - full.keys()
    }
    assert left_out == {"embeddings.token_embedding.weight", "embeddings.position_embedding.weight"}
    assert joint.keys() > text.keys()
    assert len(joint) == len(full) + len(list(model.text.parameters()))


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.99])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_however_few_the_steps_the_attacker_comes(tiny, warmup, steps, monkeypatch):
    """A warm-up in steps that was no shorter than the training left it out, silently."""
    attacks = []
    monkeypatch.setattr(Prefix, "fit", lambda prefix, loss, n, rate: attacks.append(n))
    train("advunlearn", *tiny, steps=steps, warmup=warmup, attack_steps=3, retained=2)
    assert attacks == [3] * (steps - int(warmup * steps))
    assert attacks


@pytest.mark.parametrize("warmup", ["1", "20", "-0.1"])
def test_a_warm_up_that_is_no_share_of_the_steps_is_refused(warmup):
    with pytest.raises(
        SaBenchError, match=f"warmup='{warmup}': Input should be (less|greater) than"
    ):
        resolve(["mnist_0_t2i"], ["advunlearn"], sets=[f"warmup={warmup}"])


ADVERSARIAL = {
    "advunlearn": {"steps": 6, "warmup": 0.5, "attack_steps": 2, "retained": 2, "lr": 1e-3},
    "receler": {"steps": 6, "vectors": 3, "attack_steps": 2, "adapter_lr": 1e-2},
}


@pytest.mark.parametrize("killed_at", [2, 5])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_an_adversary_survives_a_kill(name, killed_at, tiny, tmp_path):
    """What it had learnt, and whether it had come, are in the checkpoint."""
    whole = train(name, *tiny, **ADVERSARIAL[name])
    with pytest.raises(KeyboardInterrupt):
        train(name, *tiny, folder=tmp_path, killed_at=killed_at, **ADVERSARIAL[name])
    resumed = train(name, *tiny, folder=tmp_path, **ADVERSARIAL[name])
    assert torch.equal(all_weights(resumed), all_weights(whole))


def find_inside(maps, place, threshold, side):
    """The mask by loops over pixels: least 0, greatest 1, nearest neighbours for other sizes."""
    coarse = [A for A in maps if A.shape[2] == side**2]
    attention = sum(A[..., place].mean(1) for A in coarse) / len(coarse)
    inside = []
    for A in maps:
        size = int(A.shape[2] ** 0.5)
        M = torch.zeros(len(A), A.shape[2], dtype=torch.bool)
        for i, row in enumerate(attention):
            share = (row - row.min()) / (row.max() - row.min())
            for y in range(size):
                for x in range(size):
                    M[i, y * size + x] = (
                        share[y * side // size * side + x * side // size] >= threshold
                    )
        inside.append(M)
    return inside


@pytest.mark.parametrize(("locality", "threshold"), [(0.0, 0.1), (3.0, 0.1), (3.0, 0.6)])
def test_recelers_loss_is_esds_for_the_soft_prompt_and_what_is_erased_elsewhere(
    tiny, locality, threshold
):
    model, task = tiny
    values = {"rank": 2, "vectors": 2, "attack_steps": 0, "locality": locality}
    _, run = first_step("receler", *tiny, move=grow, threshold=threshold, **values)
    chosen = lambda n: n.endswith("attn2.to_out.0")  # noqa: E731
    moved, rng = add_updates(model, "receler", task, chosen, 2)
    soft = torch.rand(2, 16, generator=rng)
    x_t, t, _ = draw_like(model, run.concept_samples(), B, rng)
    zero = model.conditions(["zero"] * B)
    with torch.no_grad(), record_attention(model.net) as maps:
        model.predict(x_t, t, zero)
    inside = find_inside(maps, 1, threshold, 4)
    assert {A.shape[2] for A in maps} == {16, 64}  # 4 x 4 is nearest to a quarter of 8 x 8
    seen = []
    layers = [m for n, m in moved.net.named_modules() if chosen(n)]
    stars = [m for n, m in model.net.named_modules() if chosen(n)]
    handles = [
        layer.register_forward_hook(
            lambda m, args, out, star=star: seen.append(out - star(args[0]))
        )
        for layer, star in zip(layers, stars, strict=True)
    ]
    with torch.no_grad():
        states = moved.encoded(zero).clone()
        states[:, 2:4] = soft
        predicted = moved.net(x_t, t, encoder_hidden_states=states).sample
    for handle in handles:
        handle.remove()
    outside = [o[~M].pow(2).mean() for o, M in zip(seen, inside, strict=True)]
    wanted = error(predicted, esds_target(model, x_t, t, 1.0)) + locality * sum(outside) / len(seen)
    torch.testing.assert_close(run.losses[0], wanted, atol=1e-5, rtol=1e-4)


def test_recelers_soft_prompt_is_kept_and_brings_the_concept_back(tiny, monkeypatch):
    """It goes on from where the step before left it, and lessens ‖ε_{θ*+E}(x_t, [c_f, p]) − ε*(x_t, c_f)‖²."""
    vectors, gaps, fit = [], [], Suffix.fit

    def look(suffix, loss):
        vectors.append(suffix.value.detach().clone())
        with suffix.in_place(), torch.no_grad():
            gaps.append(float(loss()))

    def watch(suffix, loss, steps):
        look(suffix, loss)
        fit(suffix, loss, steps)
        look(suffix, loss)

    monkeypatch.setattr(Suffix, "fit", watch)
    train("receler", *tiny, steps=3, attack_steps=4, vectors=3, attack_decay=0.0)
    assert all(torch.equal(vectors[i], vectors[i + 1]) for i in (1, 3))
    assert all(gaps[i + 1] < gaps[i] for i in (0, 2, 4))


def test_receler_changes_the_output_projections_of_cross_attention_alone(tiny):
    model, _task = tiny
    edited = forget("receler", *tiny, steps=3, attack_steps=1, adapter_lr=1e-2)
    moved = {n for n, p in edited.parameters().items() if not torch.equal(p, model.parameters()[n])}
    assert moved
    assert all(name.endswith("attn2.to_out.0.weight") for name in moved)


@pytest.mark.parametrize("name", ["spm", "receler"])
def test_adapters_that_are_not_trained_leave_the_bases_bits(name, tiny):
    edited, _ = first_step(name, *tiny)
    assert torch.equal(weights(edited), weights(tiny[0]))


def test_what_a_methods_prompts_for_the_concept_are(tiny):
    """Several prompts that ask for c_f all take part."""
    model, task = tiny
    several = replace(task, prompts=replace(task.prompts, forget=("a {}", "the {}")))
    seen = set()
    conditions = type(model).conditions

    class Watched(type(model)):
        def conditions(self, values):
            seen.update(v for v in values if isinstance(v, str))
            return conditions(self, values)

    model.__class__ = Watched
    for name in ("fmn", "receler", "advunlearn"):
        seen.clear()
        first_step(name, model, several)
        assert {"a zero", "the zero"} <= seen, name
