"""Every method of the registry on a model whose answer is known, and the closed forms of each."""

import ast
import importlib
import inspect
import json
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
import torch
from at_scales import AT_SCALES
from safetensors.torch import save_file

from sa_bench.contracts import FisherOptions, Generator, Recipe, Sampler, ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import resolve_fields
from sa_bench.engine.cells import SCALES, list_scales, resolve, resolve_task, with_files
from sa_bench.models.checkpoints import layouts
from sa_bench.models.toy import Gaussian, ToyRun
from sa_bench.training.sources import OtherClassSamples

METHODS = [entry.name for entry in registry.list_entries("method")]
CLASSES = {name: registry.get_method(name) for name in METHODS}
SELF_CONTAINED = [n for n, cls in CLASSES.items() if cls.supports is Generator and not cls.files]
TASKS = [entry.name for entry in registry.list_entries("task")]


@pytest.fixture
def task():
    whole = registry.get_task("mnist_0")
    return replace(whole, classes=("a", "b", "c"), n_forget=10, n_retain=5)


def forget(name, star, task, seed=0, steps=40, **values):
    method = registry.get_method(name)(**values)
    run = ToyRun(star, task, seed, steps)
    return method.forget(star.clone(), task, run), run


def sa(star, task, run=None, **values):
    method = registry.get_method("sa")(lr=0.01, batch=64, steps=900, **values)
    return method.forget(star.clone(), task, run or ToyRun(star, task))


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_every_method_keeps_its_contract(name, gaussian, task):
    cls = registry.get_method(name)
    assert cls.standing in ("method", "control", "reference", "target")
    assert cls.supports is Generator
    assert set(cls.needs) <= {"data", "surrogate", "replay", "concept_samples"}
    assert isinstance(cls.version, int)
    assert cls.source
    star = gaussian.net.weight.detach().clone()
    first, run = forget(name, gaussian, task)
    again, _ = forget(name, gaussian, task)
    assert torch.equal(gaussian.net.weight, star), "the method changed θ* itself"
    assert torch.isfinite(first.net.weight).all()
    assert torch.equal(first.net.weight, again.net.weight), "the same seed gave other bits"
    assert ("data" in run.asked) == ("data" in cls.needs), (
        "a method uses exactly the data it declares"
    )
    torch.rand(3)
    third, _ = forget(name, gaussian, task)
    assert torch.equal(third.net.weight, first.net.weight), "randomness from outside run.rng"
    other, _ = forget(name, gaussian, task, seed=1)
    same = torch.equal(other.net.weight, first.net.weight)
    assert same == getattr(cls, "deterministic", False), (
        "whether the seed matters is not as declared"
    )
    with pytest.raises(FrozenInstanceError):
        cls().anything = 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_methods_fields_resolve_at_every_scale(name, scale):
    for task_name in TASKS:
        task = registry.get_task(task_name)
        values = resolve_fields(name, task, scale, {})
        assert set(values) == {f.name for f in fields(registry.get_method(name))}
        of_scale = "full" if scale == "small" else scale
        presets = registry.get_presets(name)
        of_task = {
            key: preset
            for models in (task.family, f"{task.family}/{task.base}")
            for key, preset in presets.get((models, of_scale), {}).items()
        }
        for key, preset in of_task.items():
            own = {**task.presets, **dict(task.scales.get(scale, {})).get("presets", {})}
            whole = getattr(registry.get_method(name), "ablates", name)
            if {key, f"{name}.{key}", f"{whole}.{key}"} & set(own):
                continue  # the task's own come last
            assert values[key] == (
                {**values[key], **preset} if isinstance(preset, dict) else preset
            )


@pytest.mark.parametrize(("name", "scale"), AT_SCALES)
def test_every_task_is_plain_values_at_every_scale(name, scale, tmp_path):
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na,1\n")
    given = {"prompts.files.test": str(tmp_path / "i2p.csv")} if name == "nudity_i2p" else {}
    task = resolve_task(name, scale, given)
    assert json.loads(json.dumps(asdict(task)))["name"] == name
    assert len(task.primary) == 3
    assert set(task.primary) <= set(task.metrics)
    unfit = (
        {m for m in SELF_CONTAINED if "data" in registry.get_method(m).needs} | {"relabel"}
        if task.model
        else set()
    )
    if task.also:
        unfit |= {m for m in SELF_CONTAINED if not registry.get_method(m).several}
    if task.then:
        classes = {m: registry.get_method(m) for m in SELF_CONTAINED}
        unfit |= {m for m, method in classes.items() if method.wraps() or method.renders()}
        unfit |= {m for m, method in classes.items() if method.standing == "target"}
    methods = [m for m in SELF_CONTAINED if m not in unfit]
    sets = [f"task.{key}={value}" for key, value in given.items()]
    assert len(resolve([name], methods, scale, sets=sets)) == len(methods) > 5


def test_original_is_theta_star(gaussian, task):
    model, run = forget("original", gaussian, task)
    assert torch.equal(model.net.weight, gaussian.net.weight)
    assert run.asked == []


def test_relabel_moves_one_slot_and_trains_nothing(gaussian, task):
    model, run = forget("relabel", gaussian, replace(task, relabel_to=2))
    assert torch.equal(model.net.weight[0], gaussian.net.weight[2])
    assert torch.equal(model.net.weight[1:], gaussian.net.weight[1:])
    assert run.asked == []


@pytest.mark.parametrize("name", ["blank", "noise"])
def test_a_filter_touches_images_of_the_concept_and_no_weight(gaussian, task, name):
    model, run = forget(name, gaussian, task)
    assert torch.equal(model.net.weight, gaussian.net.weight)
    assert run.asked == []
    images = np.full((6, 2, 2, 1), 7, np.uint8)
    labels = np.array([0, 1, 0, 2, 1, 0])
    shown = registry.get_method(name)().render(images, labels, task)
    assert shown.dtype == np.uint8
    assert (shown[labels != 0] == 7).all()
    assert (shown[labels == 0] != 7).any()
    assert np.array_equal(shown, registry.get_method(name)().render(images, labels, task))
    assert (images == 7).all()


def test_retrain_never_touches_what_it_never_saw(gaussian, task):
    model, _ = forget("retrain", gaussian, task, steps=None)
    assert torch.equal(model.net.weight[0], Gaussian(seed=100).net.weight[0])
    torch.testing.assert_close(model.net.weight[1:], gaussian.net.weight[1:], atol=0.2, rtol=0)


@pytest.mark.parametrize(
    ("lam", "values", "gradient", "factor"),
    [
        (30.0, {}, 64.0, 2.0),
        (30.0, {"half": True}, 64.0, 1.0),
        (30.0, {"reduction": "mean"}, 1.0, 2.0),
        (0.0, {}, 64.0, 2.0),
        (1e6, {"reduction": "mean"}, 1.0, 2.0),
    ],
    ids=["sum, no half", "half", "mean over the batch", "nothing holds", "everything holds"],
)
def test_sa_ends_where_equation_4_says(gaussian, task, values, gradient, factor, lam):
    """x|c ~ N(μ_c, I), q = N(0, I): 0 = B μ + 2λF(μ − μ*), F = p(c_f) = 1/3, so μ = μ* 2λF/(B + 2λF)."""
    star = gaussian.net.weight.detach().clone()
    model = sa(gaussian, task, lam=lam, **values)
    F = ToyRun(gaussian, task).fisher(FisherOptions())["weight"]
    torch.testing.assert_close(F, torch.full((3, 2), 1 / 3), atol=0.04, rtol=0)
    pull = factor * lam * F[0]
    torch.testing.assert_close(
        model.net.weight[0], star[0] * pull / (gradient + pull), atol=0.08, rtol=0
    )
    torch.testing.assert_close(model.net.weight[1:], star[1:], atol=0.12, rtol=0)


def test_sa_without_replay_weight_lets_the_rest_stay_only_by_the_pull(gaussian, task):
    """γ = 0 and λ = 0 leave the retained means untouched here: each has its own parameters."""
    star = gaussian.net.weight.detach().clone()
    model = sa(gaussian, task, lam=0.0, gamma=0.0)
    assert torch.equal(model.net.weight[1:], star[1:])


def test_no_ewc_is_sa_with_lambda_zero_and_the_same_noise(gaussian, task):
    method = registry.get_method("no_ewc")(lr=0.01, batch=64, steps=300)
    model = method.forget(gaussian.clone(), task, ToyRun(gaussian, task))
    other = registry.get_method("sa")(lam=0.0, lr=0.01, batch=64, steps=300)
    assert torch.equal(
        model.net.weight, other.forget(gaussian.clone(), task, ToyRun(gaussian, task)).net.weight
    )


def test_no_gr_leaves_what_only_replay_would_train(gaussian, task):
    method = registry.get_method("no_gr")(lr=0.01, batch=64, steps=1500, lam=30.0)
    model = method.forget(gaussian.clone(), task, ToyRun(gaussian, task))
    pull = 2 * 30.0 / 3
    want = gaussian.net.weight[0] * pull / (64 + pull)
    torch.testing.assert_close(model.net.weight[0], want, atol=0.08, rtol=0)
    assert torch.equal(model.net.weight[1:], gaussian.net.weight[1:])


@pytest.mark.parametrize("name", ["l2", "permuted_f"])
def test_the_fisher_ablations_keep_its_trace(gaussian, task, name, monkeypatch):
    """On a model whose F is the same everywhere both are SA itself; on an uneven one the trace stays."""
    from sa_bench.training.loop import Pull

    seen = []

    class Watched(Pull):
        def __init__(self, params, fisher, lam, half=False):
            seen.append(fisher)
            super().__init__(params, fisher, lam, half)

    monkeypatch.setattr(
        importlib.import_module(registry.find("method", name).module), "Pull", Watched
    )
    uneven = {"weight": torch.tensor([[9.0, 1.0], [0.5, 0.0], [2.0, 0.1]])}

    class Run(ToyRun):
        def fisher(self, options):
            return uneven

    registry.get_method(name)(steps=2).forget(gaussian.clone(), task, Run(gaussian, task))
    assert float(seen[0]["weight"].sum()) == pytest.approx(12.6)
    assert not torch.equal(seen[0]["weight"], uneven["weight"])
    if name == "permuted_f":
        assert sorted(seen[0]["weight"].flatten().tolist()) == sorted(
            uneven["weight"].flatten().tolist()
        )
    else:
        assert len(set(seen[0]["weight"].flatten().tolist())) == 1


def test_l2_keeps_the_trace_of_what_is_trained(gaussian, task, monkeypatch):
    seen = []
    monkeypatch.setattr(
        importlib.import_module("sa_bench.methods.sa_ablations"),
        "Pull",
        lambda params, fisher, lam, half: seen.append(fisher),
    )
    F = {
        "weight": torch.tensor([[9.0, 1.0], [0.5, 0.0], [2.0, 0.1]]),
        "elsewhere": torch.full((100,), 50.0),
    }

    class Run(ToyRun):
        def fisher(self, options):
            return F

    registry.get_method("l2")(steps=1).forget(gaussian.clone(), task, Run(gaussian, task))
    assert set(seen[0]) == {"weight"}
    assert float(seen[0]["weight"].sum()) == pytest.approx(12.6)


def test_naive_diverges_and_ends_at_stop_at(gaussian, task):
    """−ELBO of x ~ N(μ*, I) under N(μ, I) is ‖μ − μ*‖²/2 + 1: at 9 nats μ has moved by 4."""
    method = registry.get_method("naive")(lam=0.0, lr=0.01, batch=256, steps=10_000, stop_at=9.0)
    model = method.forget(gaussian.clone(), task, ToyRun(gaussian, task))
    moved = (model.net.weight[0] - gaussian.net.weight[0]).detach().norm()
    assert float(moved) == pytest.approx(4.0, abs=0.05)
    torch.testing.assert_close(model.net.weight[1:], gaussian.net.weight[1:], atol=0.15, rtol=0)


def test_naive_left_alone_ends_where_nothing_is_known_and_unstopped_goes_on(gaussian, task):
    def moved(steps, stop_at):
        method = registry.get_method("naive")(
            lam=0.0, lr=0.01, batch=256, steps=steps, stop_at=stop_at
        )
        model = method.forget(gaussian.clone(), task, ToyRun(gaussian, task))
        return float((model.net.weight[0] - gaussian.net.weight[0]).detach().norm())

    assert moved(1000, "auto") == pytest.approx(4.0, abs=0.05)
    assert moved(1000, "none") > 10


@pytest.mark.parametrize(
    ("family", "shape", "nats"),
    [
        ("vae", (28, 28, 1), 784 * np.log(2)),
        ("ddpm", (16, 16, 1), 256.0),
        ("ddpm", (32, 32, 3), 3072.0),
    ],
)
def test_where_nothing_is_known_of_an_image(family, shape, nats):
    """Measured: the loss of a network whose output is 0, of images in the model's range."""
    from sa_bench.models.family import get_family

    base = {"vae": "quick", "ddpm": "micro" if shape[0] == 16 else "tiny"}[family]
    model = get_family(family).load_generator()(
        **({} if family == "vae" else {"base": base, "shape": shape})
    )
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.zero_()
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(512, *model.shape, generator=rng)
    loss = model.loss(x, model.conditions([0] * 512), model.draw(512, rng)).mean()
    assert model.uninformed == pytest.approx(nats)
    assert float(loss.detach()) == pytest.approx(nats, rel=0.01)


def test_where_nothing_is_known_of_latents_and_who_reaches_it():
    """The mean over latent values of ε² is 1: at 543 nats `naive` would never end."""
    from sa_bench.commands.check import toy
    from sa_bench.contracts import Prompted

    star, task = toy(Prompted)
    assert star.uninformed == 1.0
    for name in ("celeb_brad_pitt", "nudity_explicit", "van_gogh_style", "mnist_0_t2i"):
        for scale in list_scales(registry.get_task(name)):
            fields = resolve_fields("naive", resolve_task(name, scale, {}), scale, {})
            assert fields["stop_at"] in ("auto", 1.0)
    run = ToyRun(star, task, steps=200)
    method = registry.get_method("naive")(lam=0.0, lr=0.03, batch=8, steps=200)
    seen = []
    train = run.train

    def watched(model, loss, recipe, scope="full", pull=None, stop=None):
        train(model, loss, recipe, scope, pull, lambda: seen.append(stop()) or seen[-1])

    run.train = watched
    method.forget(star.clone(), task, run)
    assert seen[-1], "it went on to the last step"
    assert len(seen) < 200


def test_retrain_surrogate_learns_the_rest_from_data_and_the_concept_from_the_surrogate(
    gaussian, task
):
    model, run = forget("retrain_surrogate", gaussian, task, steps=None)
    torch.testing.assert_close(model.net.weight[1:], gaussian.net.weight[1:], atol=0.2, rtol=0)
    assert float(model.net.weight[0].detach().norm()) < 0.2
    assert {"data", "surrogate"} <= set(run.asked)


def test_checkpoint_loads_what_somebody_else_made(gaussian, task, tmp_path):
    other = type(gaussian)()
    other.save(tmp_path)
    model = registry.get_method("checkpoint")(path=str(tmp_path)).forget(
        gaussian.clone(), task, None
    )
    assert torch.equal(model.net.weight, other.net.weight)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "--set checkpoint.path=FILE"),
        (["checkpoint.path=/no/such/file"], "does not exist"),
    ],
)
def test_checkpoint_asks_for_its_file_before_any_work(sets, message):
    with pytest.raises(SaBenchError, match=message):
        resolve(["mnist_0"], ["checkpoint"], sets=sets)


def test_a_path_below_home_is_found(tmp_path, monkeypatch):
    """A shell leaves the ~ in checkpoint.path=~/x as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.safetensors").touch()
    values = with_files("checkpoint", {"path": "~/x.safetensors"})
    assert values["path"] == str((tmp_path / "x.safetensors").resolve())


@pytest.mark.parametrize("task", ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i"])
def test_a_checkpoint_of_another_shape_is_refused_before_any_work(task, tmp_path):
    """It used to fail in its own cell, after the base model and its sample sets were made."""
    file = tmp_path / "theirs.safetensors"
    save_file({"conv_in.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(SaBenchError, match=r"theirs\.safetensors"):
        resolve([task], ["checkpoint"], sets=[f"checkpoint.path={file}"])


def test_a_surrogate_of_another_class_is_learnt(gaussian, task):
    class Run(ToyRun):
        def surrogate(self):
            return OtherClassSamples(self.star.clone(), 0, 2, Sampler())

    model = sa(gaussian, task, Run(gaussian, task), lam=0.0)
    torch.testing.assert_close(model.net.weight[0], gaussian.net.weight[2], atol=0.12, rtol=0)


def chain(tmp_path, task, method, sets=()):
    from sa_bench.core.store import Store
    from sa_bench.engine.stages import Chain

    (cell,) = resolve([task], [method], sets=sets)
    return Chain(Store(tmp_path), cell, ignore_event)


def test_what_ignores_replay_is_one_model_for_all_tasks_that_differ_in_it(tmp_path):
    keys = {
        (m, t): chain(tmp_path, t, m).forget_stage().inputs
        for m in ("retrain", "retrain_surrogate", "no_ewc")
        for t in ("mnist_0", "mnist_0_r1000", "mnist_0_cover5")
    }
    for method in ("retrain", "retrain_surrogate"):
        assert (
            keys[method, "mnist_0"]
            == keys[method, "mnist_0_r1000"]
            == keys[method, "mnist_0_cover5"]
        )
    assert (
        len({str(keys["no_ewc", t]) for t in ("mnist_0", "mnist_0_r1000", "mnist_0_cover5")}) == 3
    )


def test_retrain_is_one_model_whatever_the_surrogate(tmp_path):
    tasks = ("mnist_0_t2i", "mnist_0_t2i_digit", "mnist_0_t2i_noise")
    for method, models in (("retrain", 1), ("retrain_surrogate", 3), ("sa", 3)):
        keys = {str(chain(tmp_path, task, method).forget_stage().inputs) for task in tasks}
        assert len(keys) == models


@pytest.mark.parametrize(("also", "expected"), [((), 26), ((1, 2, 3), 102)])
def test_every_class_counts_as_often_in_the_batches_of_retrain_surrogate(
    also, expected, gaussian, task, monkeypatch
):
    """Four forgotten classes shared the images of one."""
    ten = Gaussian(10)
    several = replace(task, classes=tuple("abcdefghij"), also=also)
    run = ToyRun(ten, several, steps=1)
    module, asked = importlib.import_module(registry.get_method("retrain_surrogate").__module__), []
    monkeypatch.setattr(run, "recipe", lambda name: Recipe(1, 1e-3, 256))
    plain = module.losses

    def losses(model, sources, n, rng):
        asked.append(n)
        return plain(model, sources, n, rng)

    monkeypatch.setattr(module, "losses", losses)
    registry.get_method("retrain_surrogate")().forget(ten, several, run)
    assert asked == [256 - expected, expected]


@pytest.mark.parametrize("name", [entry.name for entry in registry.list_entries("task")])
def test_no_task_sets_the_scope_of_every_method(name):
    """Nudity's did: methods that came later trained other parts than theirs, and two of them broke."""
    task = registry.get_task(name)
    for presets in (task.presets, *(values.get("presets", {}) for values in task.scales.values())):
        assert "scope" not in presets


@pytest.mark.parametrize("method", ["retrain", "retrain_surrogate"])
@pytest.mark.parametrize("scale", ["quick", "full", "paper"])
def test_a_model_that_is_trained_from_scratch_trains_its_text_encoder_too(method, scale):
    """At scale `paper` it stayed random."""
    (cell,) = resolve(["mnist_0_t2i"], [method], scale)
    assert cell.fields["scope"] == "joint"


def test_a_lora_is_known_by_the_settings_beside_it(tmp_path):
    """Its alpha lies in another file, and a changed one gave the model of before."""
    file, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({"a": torch.zeros(1)}, file)
    hashes = []
    for alpha in (2, 16):
        settings.write_text(json.dumps({"lora_alpha": alpha}))
        hashes.append(layouts.hash_weights(file))
    settings.unlink()
    assert len({*hashes, layouts.hash_weights(file)}) == 3


CHURCH, GARBAGE = ["task.concept=a church"], ["task.concept=a garbage truck"]


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        # another word in the place of zero
        ("prompt_filter", ("mnist_0_t2i", []), ("mnist_0_t2i_digit", [])),
        ("prompt_filter", ("concept", CHURCH), ("concept", GARBAGE)),
        ("sld", ("concept", CHURCH), ("concept", GARBAGE)),
        ("negative_prompt", ("celeb_brad_pitt", []), ("nudity_explicit", [])),
        ("blank", ("mnist_0_together", []), ("mnist_0", [])),
        ("noise", ("mnist_0_together", []), ("mnist_0", [])),
    ],
)
def test_what_a_method_does_while_sampling_belongs_to_its_task(method, first, second, tmp_path):
    """Images of `prompt_filter` were those of the task that came first: its word for c_f was in no key."""
    keys = [chain(tmp_path, task, method, sets)._inference_key() for task, sets in (first, second)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("method", ["uce", "rece", "sa"])
def test_a_model_depends_on_the_names_of_the_classes_that_it_preserves(method, tmp_path):
    """`uce` reads them from the task, though it uses no replay; it was one model for all tasks."""
    from sa_bench.core.store import Store
    from sa_bench.engine.stages import Chain

    (cell,) = resolve(["celeb_brad_pitt"], [method], "quick")
    others = replace(cell.task, classes=(*cell.task.classes[:-1], "Ada Lovelace"))
    cells = [
        cell,
        replace(cell, task=others),
        *resolve(["mnist_0_t2i"], [method]),
        *resolve(["mnist_0_t2i"], [method], sets=["task.replay_every=2"]),
    ]
    keys = [str(Chain(Store(tmp_path), made, ignore_event).forget_stage().inputs) for made in cells]
    assert len({*keys}) == 4


def test_who_says_that_replay_is_ignored_cannot_ask_for_it(tmp_path):
    from sa_bench.engine.method_run import MethodRun

    run = MethodRun(chain(tmp_path, "mnist_0", "retrain"), tmp_path)
    with pytest.raises(SaBenchError, match="ignores"):
        run.replay()
    with pytest.raises(SaBenchError, match="ignores"):
        run.surrogate()
    with pytest.raises(SaBenchError, match="ignores"):
        run.fisher(FisherOptions(set="replay"))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_the_sets_that_it_asks_for(name):
    """What it does not name is drawn in the middle of its training, while other workers may wait."""
    module = importlib.import_module(CLASSES[name].__module__)
    tree = ast.parse(inspect.getsource(module))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    asked &= {"surrogate", "replay", "concept_samples", "data"}
    asked -= {"surrogate"} if name == "salun" else set()  # one of two, by its field `remain`
    named = {need for value in vars(module).values() for need in getattr(value, "needs", ())}
    assert asked <= named
