"""Measure what work takes: `python -m sa_bench.weights rates BOARD ...` writes the card rates.json.

`BOARD` is a run folder or a packed board, made on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sa_bench.core import registry
from sa_bench.core.store import write_atomic
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.engine import gpu_rates
from sa_bench.engine.rates import (
    ANY_METHOD,
    count_denoised_images,
    count_scored_images,
    count_trained_images,
    name_work,
    probe_speed,
    summarise,
)
from sa_bench.results.files import read_results
from sa_bench.results.schema import ResultRow


def measure(boards: Sequence[Path], say: Callable[[str], None]) -> None:
    """Write the range of CPU seconds a unit of all work on the boards, and the speed of this machine."""
    rates = {}
    for name, seconds in measure_rates(read_results(list(boards))).items():
        spread = summarise(seconds)
        rates[name] = {
            "low": spread.low,
            "middle": spread.middle,
            "high": spread.high,
            "n": len(seconds),
        }
        say(f"{name}: {spread.middle:.3g} s a unit, {len(seconds)} measured")
    card = {"speed": probe_speed(), "rates": rates}
    write_atomic(WEIGHTS / "rates.json", json.dumps(card, indent=1).encode() + b"\n")


def measure_rates(rows: Iterable[ResultRow]) -> dict[str, list[float]]:
    """Measure the CPU seconds a unit of all that the rows' stages did, by the name of the work."""
    seconds_by_name: dict[str, set[float]] = {}
    for row in rows:
        task = row["task_values"]
        family, dataset = task["family"], task["dataset"]
        for stage, cost in row["cost"].items():
            seconds = cost.get("cpu_s")
            if seconds is None or row["status"] != "done" or cost.get("device", "cpu") != "cpu":
                continue
            for kind, units in _split(stage, row):
                name = name_work(kind, family, dataset)
                seconds_by_name.setdefault(name, set()).add(seconds / units)
    return {name: sorted(values) for name, values in sorted(seconds_by_name.items())}


def _split(stage: str, row: ResultRow) -> list[tuple[str, int]]:
    """Return (kind of work, units) of a stage that a row names; nothing for what is not counted."""
    task, fields = row["task_values"], row["fields"]
    kind, _, name = stage.removesuffix(" (base)").partition(" ")
    if kind == "measure":
        current = name not in _outdated_metrics(row)
        return [(f"measure {name}", count_scored_images(name, task))] if current else []
    if kind == "fisher":
        options = fields.get("fisher") or {}
        return [("fisher", gpu_rates.count_looks(options, task["family"]))]
    if kind == "forget":
        images = count_trained_images(fields, task["family"])
        trains = "steps" in fields or "recipe" in fields
        kinds = [f"forget {row['method']}", *([f"forget {ANY_METHOD}"] if trains else [])]
        return [(of_method, images) for of_method in kinds]
    images = {
        "forget": task["n_forget"],
        "retain": task["n_retain"] * (len(task["classes"]) - 1),
    }.get(name, 0)
    return [("sample", count_denoised_images(images, task["sampler"]))] if images else []


def _outdated_metrics(row: ResultRow) -> set[str]:
    """List the metrics that the row measured in another version than today's, which takes other time."""
    versions = {
        m["fingerprint"]["metric"]: m["fingerprint"]["version"]
        for m in row["measurements"]
        if "version" in m["fingerprint"]
    }
    return {
        name for name, version in versions.items() if registry.get_metric(name).version != version
    }
