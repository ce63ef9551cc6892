"""Attacks on weights: limiting cases in which the answer is known, and what no attack may change."""

import importlib
import subprocess
import sys
from dataclasses import replace
from math import log, log2

import numpy as np
import pytest
import torch

from sa_bench.commands.check import weights
from sa_bench.contracts import ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import NotFinite, SaBenchError
from sa_bench.core.store import Store
from sa_bench.engine.cells import resolve
from sa_bench.engine.measure import LazyView, Subject, measure_inputs
from sa_bench.engine.stages import Chain
from sa_bench.scoring.attacks import LowRank, Questions, keep_finite, measure_worst

stress = importlib.import_module("sa_bench.metrics.stress")
bits = importlib.import_module("sa_bench.metrics.bits_left")
SMALL = {
    "mnist_0": ("recovery_judged=60",),
    "mnist_0_ddpm": ("recovery_judged=8", "sampler.steps=10", "bound_steps=2"),
    "mnist_0_t2i": ("recovery_judged=8", "sampler.steps=10"),
}
SHORT = (
    "relearn.steps=0,4", "relearn.rates=1e-3", "relearn.images=8", "relearn.batch=8", "resurgence.steps=0,2",
    "resurgence.rates=1e-4", "resurgence.images=2", "resurgence.batch=8", "stress.steps=2", "coding.images=4",
    "coding.steps=2",
)  # fmt: skip


def look(store, task, method, *sets, **more):
    settings = [f"task.{text}" for text in (*SMALL[task], *SHORT)]
    (cell,) = resolve([task], [method], "quick", sets=[*settings, *sets], **more)
    chain = Chain(Store(store), cell, ignore_event)
    return LazyView(chain, Subject(chain))


ATTACKS = ("relearn", "resurgence", "stress", "probe_inversion", "bits_left", "bits_left_weights")


@pytest.mark.parametrize("task", SMALL)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_weight_is_changed_and_the_value_is_what_its_scores_say(name, task, store_env):
    view, attack = look(store_env, task, "relabel"), registry.get_metric(name)
    if reason := view.lacks(attack):
        assert (task, name) in {
            ("mnist_0", "probe_inversion"),
            ("mnist_0_t2i", "bits_left"),
            ("mnist_0_t2i", "bits_left_weights"),
        }
        assert reason
        return
    before, star = weights(view.model), weights(view.base_model)
    found = attack.measure(view)
    assert torch.equal(weights(view.model), before)
    assert torch.equal(weights(view.base_model), star)
    assert found.low <= found.value <= found.high
    assert len(found.scores["score"]) == found.n
    assert found.scores["score"].mean() == pytest.approx(found.value)


def test_relearning_finds_relabel(store_env):
    """It shows no zero, and knows every one: 40 steps bring back more than in the model as it is."""
    view = look(
        store_env, "mnist_0", "relabel", "task.relearn.steps=0,40", "task.relearn.rates=1e-4"
    )
    found = registry.get_metric("relearn").measure(view)
    assert found.extra["end"]["low"] > 0.3
    assert registry.get_metric("forget_top1").measure(view).value == 0


def test_stress_runs_where_replay_covers_some_classes_only(store_env):
    """The class whose LoRA is fitted must have images among those that are scored."""
    SMALL["mnist_0_cover5"] = SMALL["mnist_0"]
    try:
        view = look(store_env, "mnist_0_cover5", "relabel")
        assert view.task.relabel_to not in view.task.scored
        assert (
            "a LoRA of another class" in registry.get_metric("stress").measure(view).extra["rates"]
        )
    finally:
        del SMALL["mnist_0_cover5"]


def test_settings_that_a_schedule_does_not_allow_are_no_way(store_env):
    view = look(store_env, "mnist_0_ddpm", "original")
    whole = replace(view.task.sampler, steps=1000)
    assert "twice the steps" not in stress.list_samplers(view.model, whole)
    assert "twice the steps" in stress.list_samplers(view.model, view.task.sampler)


def test_images_that_are_not_finite_show_nothing_and_a_way_without_others_is_left_out(store_env):
    view = look(store_env, "mnist_0", "original")
    questions, image = Questions.of(view).first(2), view.real("forget_test").images[:2]
    half = keep_finite(image, np.array([True, False]))
    found = measure_worst(questions, {"half": lambda: half, "whole": lambda: image[[0, 0]]})
    assert {name: rate["value"] for name, rate in found.extra["rates"].items()} == {
        "half": 0.5,
        "whole": 1.0,
    }

    def none():
        return keep_finite(image, np.zeros(2, bool))

    found = measure_worst(questions, {"none": none, "half": lambda: half})
    assert set(found.extra["rates"]) == {"half"}
    assert found.interval.endswith("Bonferroni(1)")
    with pytest.raises(NotFinite, match="none of the 2 images"):
        measure_worst(questions, {"none": none})


def test_a_filter_acts_where_an_attacker_may_only_ask(store_env):
    """`blank` was asked without its filter by every attack by prompt: it showed 0 % and, asked so, what the base shows."""
    blank = look(store_env, "mnist_0_t2i", "blank")
    seen = {}
    for offered in (True, False):
        view = LazyView(blank.chain, Subject(blank.chain), offered)
        seen[offered] = Questions.of(view).first(2).draw(view.model)
    assert not seen[True].any()
    assert seen[False].any()
    base = LazyView(blank.chain, Subject(blank.chain, base=True), offered=True)
    assert Questions.of(base).first(2).draw(base.model).any()

    def inputs(method, name):
        chain = look(store_env, "mnist_0_t2i", method).chain
        return measure_inputs(chain, registry.get_metric(name), Subject(chain))

    assert inputs("blank", "ring_a_bell") != inputs("original", "ring_a_bell")
    assert inputs("blank", "recovery") == inputs("original", "recovery")


def test_what_is_retained_and_which_images_are_drawn_are_in_the_key(store_env):
    def inputs(*sets):
        view = look(store_env, "mnist_0", "original", *sets)
        return measure_inputs(view.chain, registry.get_metric("relearn"), view.subject)

    plain = inputs()
    assert "sample_seed" not in plain
    assert inputs("task.also=1,2") != plain
    assert inputs("task.then=1,2")["fingerprint"] != plain["fingerprint"]
    assert inputs("task.sample_seed=1") == {**plain, "sample_seed": 1}


def test_a_model_that_forgot_nothing_has_it_all_at_every_step(store_env):
    view = look(store_env, "mnist_0", "original")
    for name in ("relearn", "resurgence", "stress"):
        assert registry.get_metric(name).measure(view).value > 0.9
    found = registry.get_metric("relearn").measure(view)
    assert found.extra["half"] == 0


def test_the_worst_of_several_ways_counts_and_its_interval_is_widened(store_env):
    found = registry.get_metric("stress").measure(look(store_env, "mnist_0_ddpm", "relabel"))
    rates = found.extra["rates"]
    assert (
        found.value
        == max(rate["value"] for rate in rates.values())
        == rates[found.extra["way"]]["value"]
    )
    assert found.interval.endswith(f"Bonferroni({len(rates)})")
    assert {
        "none",
        "8 bits",
        "10% pruned",
        "a LoRA of another class",
        "ddpm",
        "twice the steps",
    } <= set(rates)
    assert {"half the guidance", "double guidance"} <= set(rates)


def test_interpolation_reaches_both_ends_and_goes_beyond(store_env):
    view = look(store_env, "mnist_0", "relabel")
    own, star = weights(view.model), weights(view.base_model)
    for alpha in (0.0, 1.0, 1.5):
        model = view.model.clone()
        stress.interpolate(view, model, alpha)
        assert torch.allclose(weights(model), star + alpha * (own - star), atol=1e-6)


@torch.no_grad()
def test_rounding_and_pruning_do_what_they_say(store_env):
    view = look(store_env, "mnist_0", "original")
    model = view.model.clone()
    stress.quantise(view, model)
    for matrix, exact in zip(
        model.parameters().values(), view.model.parameters().values(), strict=True
    ):
        if matrix.ndim == 1:
            assert torch.equal(matrix, exact)
            continue
        scale = exact.abs().amax(1, keepdim=True) / 127
        assert float(((matrix - exact).abs() / scale).max()) <= 0.5 + 1e-4
        levels = (matrix / scale).round()
        assert torch.allclose(levels * scale, matrix, atol=1e-6)
    model = view.model.clone()
    stress.prune(view, model)
    for matrix, exact in zip(
        model.parameters().values(), view.model.parameters().values(), strict=True
    ):
        zeros = (matrix == 0).sum().item() if matrix.ndim > 1 else 0
        assert zeros == (int(0.1 * exact.numel()) if matrix.ndim > 1 else 0)
        assert float(exact[matrix == 0].abs().max() if zeros else 0) <= float(
            exact[matrix != 0].abs().min()
        )


def test_a_low_rank_layer_begins_as_the_layer_and_stays_of_its_rank():
    weight = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    layer = LowRank(weight, 2, torch.Generator().manual_seed(1))
    assert torch.equal(layer(weight), weight)
    layer.b.data.normal_(generator=torch.Generator().manual_seed(2))
    change = (layer(weight) - weight).flatten(1)
    assert torch.linalg.matrix_rank(change, tol=1e-4) == 2


def test_blocks_double_and_cover_every_image_once():
    assert bits.list_blocks(1) == [(0, 1)]
    assert bits.list_blocks(11) == [(0, 1), (1, 2), (2, 4), (4, 8), (8, 11)]


@pytest.mark.parametrize("name", ["bits_left", "bits_left_weights"])
def test_the_code_length_of_one_image_is_its_bound_in_bits(name, store_env):
    """Nothing was sent before the first image, so that nothing is fitted: θ* codes it with its own −ELBO."""
    view = look(store_env, "mnist_0", "original", "task.coding.images=2")
    x, c = view.model.encode(view.real("forget_train").images[:1]), view.model.conditions([0])
    nats = bits.measure_nats(view, view.model, x, c).item()
    found = registry.get_metric(name).measure(view)
    assert found.extra["start"] == "own"
    assert found.extra["first"] == pytest.approx(nats / log(2), rel=1e-5)


def test_the_bits_that_name_the_start_are_sent_too(store_env):
    view = look(store_env, "mnist_0", "original", "task.coding.images=2")
    found = registry.get_metric("bits_left").measure(view)
    sent = found.extra["first"] + found.extra["last"] + log2(len(view.task.recovery_starts))
    assert found.value == pytest.approx(sent / 2)


def test_what_was_sent_makes_the_next_cheaper(store_env):
    """A model that never saw a zero learns it on the way: its last block costs less than its first."""
    view = look(store_env, "mnist_0", "relabel", "task.coding.images=32", "task.coding.steps=20")
    found = registry.get_metric("bits_left_weights").measure(view)
    assert found.extra["last"] < found.extra["first"]


def test_inversion_leads_back_to_the_image(store_env):
    """θ* under c_f's own condition: from x to noise and back is nearly x, in many steps without guidance."""
    view = look(store_env, "mnist_0_ddpm", "original")
    model, sampler = view.model, replace(view.task.sampler, steps=100, guidance=1.0)
    x = model.encode(view.real("forget_test").images[:4])
    c = model.conditions([0] * 4)
    noise = model.invert(x, c, sampler)
    assert 0.5 < float(noise.std()) < 1.5
    again = model.finish(noise, c, model.timesteps, sampler)
    other = model.finish(
        torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        c,
        model.timesteps,
        sampler,
    )
    assert float((again - x).abs().mean()) < 0.35 * float((other - x).abs().mean())


def test_inpainting_keeps_what_is_known(store_env):
    view = look(store_env, "mnist_0_ddpm", "original")
    x = view.model.encode(view.real("forget_test").images[:2])
    known = torch.zeros(x.shape[1:], dtype=torch.bool)
    known[..., :8] = True
    filled = view.model.inpaint(
        x, known, view.model.conditions([0, 0]), torch.Generator().manual_seed(0), view.task.sampler
    )
    assert torch.equal(filled[..., :8], x[..., :8])
    assert not torch.equal(filled[..., 8:], x[..., 8:])


@pytest.mark.process
def test_attacks_are_named_without_torch():
    code = """
import sys
from sa_bench.core import registry
from sa_bench.engine.cells import resolve
for task in ("mnist_0", "mnist_0_ddpm", "mnist_0_t2i"):
    (cell,) = resolve([task], ["sa"], metrics=["attacks", "weights_changed", "forgotten_others"])
    print(*cell.task.metrics)
    for name in cell.task.metrics:
        registry.get_metric(name)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    vae, ddpm, t2i, loaded = done.stdout.splitlines()
    assert loaded == "False"
    assert {"relearn", "resurgence", "stress"} <= set(vae.split())
    assert "probe_inversion" not in vae
    assert "probe_inversion" in ddpm
    assert {"prompt_attack", "ring_a_bell"} <= set(t2i.split())
    assert not {"prompt_attack", "bits_left"} & set(ddpm.split())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.relearn.steps=5,10", "task.relearn.steps must begin with 0 and ascend"),
        ("task.resurgence.steps=0,9,3", "task.resurgence.steps must begin with 0 and ascend"),
        ("task.relearn=3", "relearn='3' has fields of its own; set one, e.g. task.relearn.images"),
        ("task.stress.bits=1", "stress.bits"),
        ("task.coding.pages=1", "pages"),
    ],
)
def test_a_budget_out_of_range_is_refused_in_one_line(setting, said):
    with pytest.raises(SaBenchError, match=said) as caught:
        resolve(["mnist_0"], ["sa"], sets=[setting])
    assert "\n" not in str(caught.value)
