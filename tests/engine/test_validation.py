"""A task's number out of range is refused in one line that names field, value and range."""

from dataclasses import fields
from typing import get_type_hints

import pytest

from sa_bench.contracts import Task
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import validate
from sa_bench.engine.cells import resolve_task

FROM_1 = (
    "n_forget",
    "n_retain",
    "replay_every",
    "bound_images",
    "bound_steps",
    "recovery_accumulated",
    "recovery_judged",
)
FROM_0 = (
    "likelihood_images", "likelihood_deep", "feature_images", "replay_images", "replay_used", "surrogate_images",
    "leakage_images", "family_images", "recovery_batch",
)  # fmt: skip
LISTS = (("recovery_budgets", 0), ("recovery_images", 1), ("recovery_vectors", 1))


def refused(field, value):
    with pytest.raises(SaBenchError) as caught:
        resolve_task("mnist_0", "quick", {field: value})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("field", FROM_1 + FROM_0)
def test_a_number_below_its_range(field):
    low = 1 if field in FROM_1 else 0
    text = refused(field, str(low - 1))
    assert f"task mnist_0: {field}='{low - 1}'" in text
    assert f"greater than or equal to {low}" in text


@pytest.mark.parametrize(("field", "low"), LISTS)
def test_a_list_with_a_number_below_its_range_and_an_empty_one(field, low):
    text = refused(field, f"{low},{low - 1}")
    assert f"{field}.1='{low - 1}': Input should be greater than or equal to {low}" in text
    text = refused(field, "")
    assert f"{field}=" in text
    assert "at least 1 item" in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("recovery_rates", "0.1,0", "recovery_rates.1='0': Input should be greater than 0"),
        ("recovery_starts", "own,there", "Input should be 'own', 'mean' or 'zero'"),
        ("recovery_starts", "", "at least 1 item"),
        ("sampler.guidance", "inf", "sampler.guidance='inf': Input should be a finite number"),
        ("sampler.eta", "1.5", "sampler.eta='1.5': Input should be less than or equal to 1"),
        ("recovery_budgets", "30,0", "must ascend"),
        ("replay_used", "1", "from 0 (all) to"),
    ],
)
def test_other_values(field, value, says):
    assert says in refused(field, value)


def test_every_task_that_ships_keeps_the_ranges():
    """Tasks in Python files are not checked when they are made, but when they are resolved."""
    for entry in registry.list_entries("task"):
        task = registry.get_task(entry.name)
        assert validate(Task, {f.name: getattr(task, f.name) for f in fields(Task)}, entry.name)


def test_every_number_of_images_has_a_range():
    hints = get_type_hints(Task, include_extras=True)
    assert not {name for name, hint in hints.items() if hint in (int, tuple[int, ...])}
