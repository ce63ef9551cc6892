"""`explain CELL`: how each number of a result came about, in plain words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa_bench.analysis import details
from sa_bench.analysis.board import seconds_spent
from sa_bench.analysis.published import verdict_on
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.untrusted_arrays import read_scores
from sa_bench.core.untrusted_text import read_object
from sa_bench.results.format import format_number
from sa_bench.results.rows import metric_of
from sa_bench.results.sealing import EDITED, find_edited

INTERVALS = {
    "wilson": "Wilson's score interval for a rate",
    "betting": "the betting interval for a bounded mean (Waudby-Smith & Ramdas)",
    "t": "Student's t for a mean",
    "jackknife": "delete-a-group jackknife over the generated images",
}


def explain(cell: Path, metric: str | None) -> str:
    """The story of a result's primary measurements, or of `metric`.

    Raises:
        SaBenchError: no result there, or no such measurement.
    """
    path = cell / "result.json" if cell.is_dir() else cell
    try:
        row = read_object(path)
        changed = find_edited(row, path.parent)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaBenchError(f"{cell} is no cell folder with a result.json ({error}).") from error
    try:
        return _told(row, path.parent, metric, changed)
    except SaBenchError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SaBenchError(
            f"{path} is not what `run` writes ({type(error).__name__}: {error})."
        ) from error


def _told(row: Mapping[str, Any], folder: Path, metric: str | None, changed: str) -> str:
    rows = row["measurements"]
    names = {metric_of(m): m for m in rows} | {m["name"]: m for m in rows}
    if metric is not None and metric not in names:
        raise unknown_name("measurement", metric, {m["name"] for m in rows})
    chosen = [names[metric]] if metric else [m for m in rows if m["role"] == "primary"]
    parts = [f"Beware: {changed} was {EDITED}."] if changed else []
    parts.append(_cell(row))
    if row["status"] != "done":
        parts.append(f"It failed: {row['error']}")
    parts += ["\n".join(_measurement(row, m, folder)) for m in chosen]
    if metric is None and rows:
        others = ", ".join(m["name"] for m in rows if m["role"] != "primary")
        parts.append(f"Further measurements, with --metric NAME: {others}.")
    parts.append(
        f"Make it again: {row['provenance'].get('cell_command') or row['provenance']['command']}"
    )
    return "\n\n".join(parts)


def _cell(row: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{k} = {v}" for k, v in row["fields"].items()) or "no fields"
    cost = row["cost"].get("forget", {})
    where = "of CPU" if cost.get("device", "cpu") == "cpu" else f"on {cost['device']}"
    seconds = seconds_spent(cost)
    took = f" Forgetting took {seconds:.0f} s {where}." if seconds is not None else ""
    changed = "".join(f", {k} = {v}" for k, v in row["overrides"].items())
    return (
        f"{row['task_title']}{changed}, scale {row['scale']}: {row['method']} ({fields}) was applied to base model "
        f"{row['base_seed']} with forgetting seed {row['seed']}, to forget {row['concept']}.{took}"
    )


def _measurement(row: Mapping[str, Any], m: Mapping[str, Any], folder: Path) -> Iterator[str]:
    unit = f" {m['unit']}" if m["unit"] and m["unit"] not in ("rate", "probability") else ""
    yield f"{m['name']}: {m['title']}."
    yield f"  {_definition(metric_of(m))}"
    if m["value"] is None:
        yield f"  There is no value: {m['reason']}."
    else:
        yield f"  Here {format_number(m['value'], m['unit'])}{unit} from {m['n']} {m['n_unit']}s{_counts(m, folder)}."
        if m["low"] is not None and m["high"] is not None:
            how = str(m["interval"])
            name = next((text for key, text in INTERVALS.items() if how.startswith(key)), how)
            low, high = format_number(m["low"], m["unit"]), format_number(m["high"], m["unit"])
            yield f"  95 % interval {low} to {high}: {name}{_widened(how)}. It covers the drawing of images alone."
    if m["base"] is not None:
        yield f"  The base model under the same fingerprint: {format_number(m['base'], m['unit'])}{unit}."
    if m["judges"]:
        votes = ", ".join(
            f"{j['judge']} {format_number(j['value'], m['unit'])}" for j in m["judges"]
        )
        yield f"  Each judge alone: {votes}."
    for key, value in (m["extra"] or {}).items():
        text = json.dumps(_rounded(value))
        if told := details.describe_extra(m, key, row["task_values"]["classes"]):
            yield f"  Beside it, {told}."
        elif value not in (None, {}, []) and len(text) < 300:
            yield f"  {key}: {text}"
    if told := verdict_on(row, m):
        yield f"  Published: {told['published']} ({told['source']}). Verdict: {told['verdict']}."
    yield f"  Source: {m['source']}. It depends on: {', '.join(m['fingerprint'])}."


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _definition(name: str) -> str:
    if name not in {entry.name for entry in registry.list_entries("metric")}:
        return "Its definition is in a plug-in that is not loaded here."
    metric = registry.get_metric(name)
    return " ".join((inspect.getdoc(metric.measure) or "").split())


def _counts(m: Mapping[str, Any], folder: Path) -> str:
    """How many images scored 1, from the stored scores, where the score is a vote."""
    path = folder / "scores" / f"{m['name']}.parquet"
    if m["unit"] != "rate" or not path.is_file():
        return ""
    scores = read_scores(path)
    if "score" not in scores:
        return ""
    return f" ({int(scores['score'].to_numpy().sum())} of {len(scores)} in {path.name})"


def _widened(how: str) -> str:
    inside = how.partition("Bonferroni(")[2].rstrip(")")
    return f", widened for {inside} looks" if inside else ""
