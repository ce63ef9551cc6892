"""The result of one cell: its numbers, costs, flags and provenance, or why it failed."""

from __future__ import annotations

import contextlib
import datetime
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sa_bench.contracts import SMOKE_MODEL, result_values
from sa_bench.core import registry
from sa_bench.core.errors import NO_MEMORY, CellFailed, SaBenchError, is_out_of_memory
from sa_bench.core.escaping import make_visible
from sa_bench.core.store import copy_atomic, write_atomic
from sa_bench.engine.cells import Cell, cell_command
from sa_bench.results.bundles import SOURCE
from sa_bench.results.files import SCHEMA, write_result
from sa_bench.results.provenance import provenance
from sa_bench.results.schema import ResultRow, StageCost, TrainingValues, ValuesOfWords
from sa_bench.results.threats import threat_model
from sa_bench.scoring.cards import judge_card

if TYPE_CHECKING:
    from sa_bench.engine.stages import Chain


@dataclass(frozen=True)
class Failure:
    """Why a piece of work failed, in words that can be sent between processes."""

    text: str
    """One line."""
    exit_code: int
    traceback: str = ""
    """Of an error that is no user's mistake; "" otherwise."""


def describe_failure(error: Exception) -> Failure:
    """Describe an error that is being handled."""
    text = " ".join(make_visible(error).split()) or "no message"
    if is_out_of_memory(error):
        text = f"{NO_MEMORY} ({text})"
    elif not isinstance(error, SaBenchError):
        text = f"{type(error).__name__}: {text}"
    trace = "" if isinstance(error, SaBenchError) else traceback.format_exc()
    return Failure(text, getattr(error, "exit_code", 1), trace)


def write_failed(
    cell: Cell, out: Path, command: str, failure: Failure, device: str = "cpu"
) -> ResultRow:
    """Write the result of a cell that failed, and the traceback beside it; return the result."""
    folder, result = out / cell.name, blank_result(cell, command, device)
    result["status"], result["error"] = "failed", failure.text
    result["exit_code"] = failure.exit_code
    with contextlib.suppress(CellFailed):  # on a full disk only the terminal shows the error
        if failure.traceback:
            write_atomic(folder / "error.log", failure.traceback.encode())
            result["error"] = f"{failure.text} (details: {folder / 'error.log'})"
        write_result(folder, result)
    return result


def blank_result(cell: Cell, command: str, device: str = "cpu") -> ResultRow:
    """Build the result of a cell before anything is measured."""
    method = registry.get_method(cell.method)
    plug_ins = registry.describe_sources(cell.code)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "schema": SCHEMA,
        "task": cell.task.name,
        "task_title": cell.task.title,
        "method": cell.method,
        "fields": dict(cell.fields),
        "seed": cell.seed,
        "base_seed": cell.base_seed,
        "scale": cell.scale,
        "overrides": dict(cell.overrides),
        "control": method.standing == "control",
        "standing": method.standing,
        "threat_model": threat_model(method),
        "cell": cell.id,
        "status": "done",
        **_find_values_of_words(cell),
        "error": None,
        "concept": cell.task.classes[cell.task.concept],
        "task_values": result_values(cell.task),
        "summary": registry.find("method", cell.method).summary,
        "measurements": [],
        "flags": [],
        "cost": {},
        "artifacts": {},
        "trainings": [],
        "provenance": {
            **provenance(command, {}, device),
            "cell_command": cell_command(cell),
            "started": started,
            "finished": started,
            "plug_ins": plug_ins,
            "method_version": cell.method_version,
            "precision": {},
        },
    }


def _describe_divided(cost: Mapping[str, StageCost]) -> list[str]:
    """Describe the stages for which memory was too small, in at most one line."""
    divided = {label: d for label, one in cost.items() if (d := one.get("divisor", 1)) > 1}
    if not divided:
        return []
    stages = ", ".join(f"{label} (1/{divisor})" for label, divisor in divided.items())
    return [
        f"memory: too small at first; images went through the network a part at a time: {stages}"
    ]


def _find_values_of_words(cell: Cell) -> ValuesOfWords:
    """Look up the numbers behind fields that are words.

    Returns:
        `{"stands_for": {"level": {...}}}`; {} if the method has no such field.
    """
    tables = registry.get_method(cell.method).stands_for
    values = {
        field: table[cell.fields[field]]
        for field, table in tables.items()
        if cell.fields[field] in table
    }
    return {"stands_for": values} if values else {}


def make_result(chain: Chain, out: Path, command: str) -> ResultRow:
    """Make what is missing of a cell's stages, collect its numbers, and write `out/<cell>/result.json`."""
    from sa_bench.data import datasets
    from sa_bench.engine.flags import find_flags
    from sa_bench.engine.measure import Subject, measure_all
    from sa_bench.scoring import sampling

    cell, folder = chain.cell, out / chain.cell.name
    registry.require_unchanged(cell.code)
    result = blank_result(cell, command, chain.device)
    subject, base = Subject(chain), Subject(chain, base=True)
    chain.note_costs_of_forgetting()
    measurements, scores = measure_all(chain, subject, base, announce=False)
    result["measurements"] = measurements
    result["flags"] = registry.plug_in_remarks(cell.code)
    result["flags"] += [
        f"{r['name']}: {warning}"
        for r in measurements
        if (warning := (r["extra"] or {}).get("warning"))
    ]
    is_toy = [judge_card(name).get("network") == "smoke" for name in cell.task.judges]
    if any(is_toy) or cell.task.model == SMOKE_MODEL:
        result["flags"].append(
            "smoke run: a trial of the code with toy networks; its numbers mean nothing"
        )
    if data_note := datasets.data_remark(cell.task.dataset):
        result["flags"].append(data_note)
    unknown = ("forget",) if registry.get_method(cell.method).made_elsewhere else ()
    result["cost"] = {name: cost for name, cost in chain.cost.items() if name not in unknown}
    result["flags"] += _describe_divided(chain.cost)
    sets = {name: chain.samples(name) for name in sampling.set_names(cell.task)}
    result["flags"] += find_flags(chain, sets)
    result["artifacts"] = {
        "model": chain.model_content,
        "base": chain.base.content,
        "samples": {name: artifact.content for name, artifact in sets.items()},
    }
    if trained_judges := [
        name for name in cell.task.judges if judge_card(name)["kind"] == "trained"
    ]:
        from sa_bench.scoring import judges

        result["artifacts"]["judges"] = {name: judges.load(name).card for name in trained_judges}
    result["trainings"] = cast(list[TrainingValues], chain.trainings)
    result["provenance"]["precision"] = chain.precision
    result["provenance"]["assets"] = {
        "base": chain.base.content,
        **{
            name: card
            for m in measurements
            for name, card in (m["fingerprint"].get("judges") or {}).items()
        },
    }
    registry.write_sources(cell.code, folder / SOURCE)
    for name, path in scores.items():
        copy_atomic(path, folder / "scores" / f"{name}.parquet")
    for name, artifact in sets.items():
        if name in ("forget", "families") and not cell.task.keep_images:
            continue
        copy_atomic(artifact.path / f"{name}.safetensors", folder / f"{name}.safetensors")
        base_set = chain.samples(name, base=True).path / f"{name}.safetensors"
        copy_atomic(base_set, folder / f"{name}-base.safetensors")
    copy_atomic(chain.forgotten.path / "model.safetensors", folder / "model.safetensors")
    if not cell.task.keep_images:
        chain.drop_images()
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result["provenance"]["finished"] = finished
    write_result(folder, result)
    return result
