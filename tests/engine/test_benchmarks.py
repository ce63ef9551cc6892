"""The benchmark's version: whoever changes an instrument gives it a new name."""

import pytest

from sa_bench.contracts import ignore_event
from sa_bench.core import registry
from sa_bench.core.store import Store
from sa_bench.engine import benchmarks
from sa_bench.engine.cells import resolve
from sa_bench.engine.fingerprint import fingerprint
from sa_bench.engine.stages import Chain

NAMES = sorted(benchmarks.load_manifests())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_here_is_what_was_frozen(name):
    """If this fails: put the instrument back, or freeze what is here under another name."""
    frozen = benchmarks.load_manifests()[name]
    assert benchmarks.describe(name, list(frozen["tasks"])) == frozen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["tasks", "metrics", "judges", "bases", "guard"])
def test_the_manifest_names_every_instrument(name, part):
    assert benchmarks.load_manifests()[name][part]


@pytest.mark.parametrize("name", NAMES)
def test_every_fingerprint_of_its_tasks_names_it(name, tmp_path):
    for task in benchmarks.load_manifests()[name]["tasks"]:
        (cell,) = resolve([task], ["sa"])
        chain = Chain(Store(tmp_path), cell, ignore_event)
        for metric in cell.task.metrics:
            assert fingerprint(chain, registry.get_metric(metric))["benchmark"] == name, metric


def test_a_task_of_ones_own_belongs_to_none():
    assert benchmarks.find_benchmark("mine") is None
