"""The transplant tells a cut wire from a bent body, and leaves every weight as it was."""

import importlib
from typing import Any

import pytest
import torch

from sa_bench.commands.check import toy, weights
from sa_bench.contracts import Prompted, ignore_event
from sa_bench.core import registry
from sa_bench.core.store import Store
from sa_bench.engine.cells import resolve
from sa_bench.engine.measure import LazyView, Subject, measure_inputs
from sa_bench.engine.stages import Chain

transplant = registry.get_metric("transplant")
module = importlib.import_module("sa_bench.metrics.transplant")


def seen(store, task, method, *sets, scale="quick", **more):
    (cell,) = resolve([task], [method], scale, sets=sets, **more)
    chain = Chain(Store(store), cell, ignore_event)
    return LazyView(chain, Subject(chain))


@pytest.mark.parametrize(
    ("task", "n", "sets"),
    [
        ("mnist_0", 200, ()),
        ("mnist_0_ddpm", 8, ("task.recovery_judged=8", "task.sampler.steps=10")),
        ("mnist_0_t2i", 8, ("task.recovery_judged=8", "task.sampler.steps=10")),
    ],
)
def test_a_cut_wire_works_again_and_a_cut_one_silences_the_base(task, n, sets, store_env):
    view = seen(store_env, task, "relabel", *sets)
    before = weights(view.model), weights(view.base_model)
    found = transplant.measure(view)
    assert (found.n, len(found.scores["score"])) == (n, n)
    assert found.value == found.scores["score"].mean() >= 0.95
    assert found.low <= found.value <= found.high
    assert found.interval.startswith("wilson")
    assert found.extra["as_is"]["value"] <= 0.02
    assert found.extra["reverse"]["value"] <= 0.02
    assert ("parts" in found.extra) == (task == "mnist_0_t2i")
    for part, fact in found.extra.get("parts", {}).items():
        assert fact == found.extra["as_is"], f"{part} is θ*'s own already"
    assert torch.equal(weights(view.model), before[0])
    assert torch.equal(weights(view.base_model), before[1])


def test_a_bent_body_stays_silent_and_its_slot_still_works_in_the_base(store_env):
    found = transplant.measure(
        seen(
            store_env,
            "mnist_0",
            "sa",
            "sa.steps=150",
            "sa.lr=0.005",
            "sa.batch=64",
            "sa.fisher.n=2000",
        )
    )
    assert found.high < 0.3
    assert found.extra["reverse"]["low"] > 0.9


def test_layers_are_divided_and_each_is_put_back_alone():
    star, _ = toy(Prompted)
    other = star.clone()
    with torch.no_grad():
        for parameter in module.list_parameters(other).values():
            parameter += 1.0
    before, parts = weights(other), module.group_parameters(other)
    names = [name for group in parts.values() for name in group]
    assert sorted(names) == sorted(module.list_parameters(other))
    assert parts["text encoder"]
    assert not any("embeddings" in name for name in names)
    assert all(".attn2.to_k." in n or ".attn2.to_v." in n for n in parts["keys and values"])
    assert all(".attn1." in n for n in parts["self-attention"])
    for group in parts.values():
        with module.replace_parameters(other, star, group) as changed:
            assert changed
            now = module.list_parameters(other)
            found = module.list_parameters(star).items()
            same = {n for n, p in found if torch.equal(p, now[n])}
            assert same == set(group)
        assert torch.equal(weights(other), before)
    with module.replace_parameters(star, star.clone(), names) as changed:
        assert not changed


def test_weights_come_back_after_a_failure_too():
    star, _ = toy(Prompted)
    other = star.clone()
    with torch.no_grad():
        other.parameters()["conv_out.bias"] += 1.0
    before = weights(other)
    with (
        pytest.raises(KeyboardInterrupt),
        module.replace_parameters(other, star, [*star.parameters()]),
    ):
        raise KeyboardInterrupt
    assert torch.equal(weights(other), before)


def test_the_averaged_slot_is_taken_where_images_are_drawn_with_it(store_env):
    """The rows of raw and averaged weights differ once a model was trained."""
    from sa_bench.models.ddpm import DDPM

    model: Any = DDPM("cifar10", (32, 32, 3), 10)
    with torch.no_grad():
        model.average.class_embedding.weight[3] += 1.0
    slot = model.condition(3)
    assert torch.equal(slot.averaged(), slot.read() + 1.0)


def test_the_base_is_part_of_what_is_measured(store_env):
    """One model's weights with two bases are two transplants, `retrain`'s say."""
    inputs = []
    for base in (0, 1):
        view = seen(store_env, "mnist_0", "relabel", base_seeds=[base])
        inputs.append(measure_inputs(view.chain, transplant, view.subject)["subject"]["star"])
    assert inputs[0] != inputs[1]
