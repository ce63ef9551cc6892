"""The benchmark's version: whoever changes an instrument gives it a new name."""

import pytest

from sa_bench import benchmark, registry
from sa_bench.cells import resolve
from sa_bench.measuring import fingerprint
from sa_bench.stages import Chain
from sa_bench.store import Store


def test_what_is_here_is_what_was_frozen():
    """If this fails: put the instrument back, or raise `benchmark.CURRENT` and freeze that."""
    frozen = benchmark.manifest()
    assert frozen["name"] == benchmark.CURRENT
    assert benchmark.describe(list(frozen["tasks"])) == frozen


@pytest.mark.parametrize("part", ["tasks", "metrics", "judges", "bases", "guard"])
def test_the_manifest_names_every_instrument(part):
    assert benchmark.manifest()[part]


def test_every_fingerprint_of_its_tasks_names_it(tmp_path):
    for task in benchmark.manifest()["tasks"]:
        (cell,) = resolve([task], ["sa"])
        chain = Chain(Store(tmp_path), cell, lambda *event: None)
        for name in cell.task.metrics:
            assert fingerprint(chain, registry.metric(name))["benchmark"] == "micro-1", name


def test_a_task_of_ones_own_belongs_to_none():
    assert benchmark.name_of("mine") is None
