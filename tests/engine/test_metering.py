"""What a stage cost, on a CPU and on a GPU that is made up, and what a result says of the machine."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from result_rows import result_row

from sa_bench.core.parts import parts_of, save_part
from sa_bench.core.store import write_atomic
from sa_bench.engine import metering
from sa_bench.engine.metering import SPENT, Meter
from sa_bench.results import provenance as provenance_module
from sa_bench.results.provenance import OPTIONAL, metadata, provenance, same_environment
from sa_bench.results.rows import to_json
from sa_bench.results.untrusted import Differs, validate_result


class Card:
    """A GPU's memory counter."""

    def __init__(self, monkeypatch):
        self.peak = 0
        for name, call in (
            ("init", lambda: None), ("max_memory_allocated", lambda device: self.peak),
            ("reset_peak_memory_stats", lambda device: self.uses(0, fresh=True)),
            ("get_device_name", lambda device: "a card"),
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, call)

    def uses(self, mib, fresh=False):
        self.peak = mib * 2**20 if fresh else max(self.peak, mib * 2**20)


def test_a_stage_on_the_cpu_tells_nothing_of_a_device(tmp_path):
    facts = Meter("cpu").timed(lambda folder: {"steps": 3}, tmp_path)
    assert facts["steps"] == 3
    assert set(facts["cost"]) == {"wall_s", "cpu_s", "peak_mib", "device"}
    assert facts["cost"]["device"] == "cpu"


def test_each_stage_has_the_peak_of_its_own_part(monkeypatch, tmp_path):
    """What came before, and what an inner stage took, is not the stage's."""
    card, meter, inner = Card(monkeypatch), Meter("cuda:1"), {}
    card.uses(9000)

    def build(folder):
        card.uses(100)
        inner.update(meter.timed(lambda f: card.uses(700), folder))
        card.uses(40)

    cost = meter.timed(build, tmp_path)["cost"]
    assert (cost["device_peak_mib"], cost["device"]) == (100, "cuda:1")
    assert inner["cost"]["device_peak_mib"] == 700


def test_a_failed_stage_leaves_the_meter_as_it_was(monkeypatch, tmp_path):
    card, meter = Card(monkeypatch), Meter("cuda")

    def broken(folder):
        card.uses(5000)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        meter.timed(broken, tmp_path)
    assert meter.timed(lambda f: card.uses(10), tmp_path)["cost"]["device_peak_mib"] == 10


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux sets its mark back"
)
def test_a_small_stage_after_a_big_one_has_a_small_peak(tmp_path):
    meter, costs = Meter("cpu"), []
    for mib in (400, 1, 200):
        block = lambda folder, n=mib: {"sum": float(torch.ones(n * 2**18).sum())}  # noqa: E731 (float32: MiB)
        costs.append(meter.timed(block, tmp_path)["cost"]["peak_mib"])
    big, small, middle = costs
    assert big - small > 300
    assert 150 < middle - small < 300


def test_an_inner_stages_peak_is_not_the_outers(tmp_path):
    meter, inner = Meter("cpu"), {}

    def build(folder):
        inner.update(meter.timed(lambda f: {"sum": float(torch.ones(400 * 2**18).sum())}, folder))

    outer = meter.timed(build, tmp_path)["cost"]["peak_mib"]
    assert inner["cost"]["peak_mib"] - outer > 300


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 2**20)])
def test_where_the_mark_cannot_be_set_back_only_who_raises_it_has_a_peak(
    monkeypatch, tmp_path, platform, unit
):
    marks = iter([500, 500, 500, 900])
    monkeypatch.setattr(metering.sys, "platform", platform)
    monkeypatch.setattr(
        metering.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=next(marks) * unit)
    )
    memory = metering.ProcessMemory(tmp_path / "nowhere")
    assert memory.peak() is None
    memory.reset()
    assert memory.peak() == 900.0


class Clock:
    """Wall and CPU seconds that pass only when told."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("sa_bench.engine.metering.time.monotonic", lambda: self.now)
        monkeypatch.setattr("sa_bench.engine.metering.time.process_time", lambda: self.now / 2)


def test_a_stage_that_was_killed_costs_what_it_kept_and_what_was_done_since(monkeypatch, tmp_path):
    """What came after the last checkpoint is done again: counted twice, a kill would make a method dear."""
    clock = Clock(monkeypatch)

    def begins(folder):
        clock.now += 40
        save_part(parts_of(folder) / "checkpoint.safetensors", {"x": torch.zeros(1)})
        clock.now += 13
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Meter("cpu").timed(begins, tmp_path)

    def goes_on(folder):
        clock.now += 60

    cost = Meter("cpu").timed(goes_on, tmp_path)["cost"]
    assert (cost["wall_s"], cost["cpu_s"]) == (100.0, 50.0)
    assert not (tmp_path / SPENT).exists(), "the note is no part of the artifact"


def test_what_an_inner_stage_spent_before_it_was_killed_stays_its_own(monkeypatch, tmp_path):
    clock, inner = Clock(monkeypatch), tmp_path / "inner"
    inner.mkdir()

    def outer(folder, fails):
        clock.now += 10

        def build(folder):
            clock.now += 10
            save_part(parts_of(folder) / "x.safetensors", {"x": torch.zeros(1)})
            clock.now += 20
            if fails:
                raise KeyboardInterrupt

        return {"inner": meter.timed(build, inner)["cost"]}

    meter = Meter("cpu")
    with pytest.raises(KeyboardInterrupt):
        meter.timed(lambda folder: outer(folder, True), tmp_path)
    meter = Meter("cpu")
    facts = meter.timed(lambda folder: outer(folder, False), tmp_path)
    assert facts["inner"]["wall_s"] == 40.0, "30 and 10 until a part was kept"
    assert facts["cost"]["wall_s"] == 10.0, (
        "the outer stage kept nothing: its first 10 are done again"
    )


def test_a_note_that_cannot_be_written_or_read_ends_nothing(monkeypatch, tmp_path):
    clock = Clock(monkeypatch)
    write_atomic(tmp_path / SPENT, b"[")
    (tmp_path / SPENT).chmod(0o400)
    meter = Meter("cpu")

    def full(path, data):
        raise OSError(28, "No space left on device")

    def build(folder):
        clock.now += 7
        save_part(parts_of(folder) / "x.safetensors", {"x": torch.zeros(1)})

    monkeypatch.setattr("sa_bench.engine.metering.write_atomic", full)
    assert meter.timed(build, tmp_path)["cost"]["wall_s"] == 7.0


def test_versions_of_what_is_installed_and_the_card_are_named(monkeypatch):
    Card(monkeypatch)
    known = {"torch": "1", "diffusers": "2", "nudenet": "3"}

    def version(name):
        if name not in known:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(metadata, "version", version)
    not_kept = provenance_module._read_versions.__wrapped__
    monkeypatch.setattr(provenance_module, "_read_versions", not_kept)
    found = provenance("", {}, "cuda")
    assert found["versions"] | known == found["versions"]
    assert found["versions"]["scipy"] == "absent"
    assert "transformers" not in found["versions"]
    assert found["hardware"]["gpu"] == "a card"
    assert "gpu" not in provenance("", {})["hardware"]


def test_a_card_that_does_not_answer_does_not_hide_the_failure(monkeypatch):
    def gone(device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch.cuda, "get_device_name", gone)
    assert "gpu" not in provenance("", {}, "cuda")["hardware"]


def told(**changes):
    return result_row(
        provenance={
            **result_row()["provenance"],
            **json.loads(to_json(provenance("", {}))),
            **changes,
        }
    )


def test_older_results_made_here_are_still_made_here():
    """They name fewer packages, and no card."""
    row = told()
    assert same_environment(row, "cpu")
    for name in OPTIONAL:
        row["provenance"]["versions"].pop(name, None)
    assert same_environment(row, "cpu")
    assert not same_environment(row, "cuda")
    assert not same_environment(
        told(versions={**row["provenance"]["versions"], "nudenet": "0.0.1"}), "cpu"
    )


@pytest.mark.parametrize("gpu", [None, "a card"])
def test_bundles_take_rows_with_and_without_a_card(gpu):
    row = result_row()
    row["provenance"] |= {
        "command": "python -m sa_bench run",
        "cell_command": "python -m sa_bench run",
    }
    if gpu:
        row["provenance"]["hardware"]["gpu"] = gpu
        row["cost"]["forget"] |= {"device": "cuda", "device_peak_mib": 100}
    assert validate_result(to_json(row).encode(), "x")["provenance"] == row["provenance"]
    row["provenance"]["hardware"]["gpu"] = 3
    with pytest.raises(Differs, match="gpu"):
        validate_result(to_json(row).encode(), "x")
