"""`explain CELL`: say in plain words how each number of a result came about."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sa_bench.analysis import details
from sa_bench.analysis.board import seconds_spent
from sa_bench.analysis.published import verdict_on
from sa_bench.analysis.trainings import describe_trainings
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.untrusted_arrays import read_scores
from sa_bench.results.files import read_cell
from sa_bench.results.format import format_number, format_unit
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.results.sealing import EDITED, find_edited

EXTERNAL = "external"  # method of rows whose images were given
INTERVALS = {
    "wilson": "Wilson's score interval for a rate",
    "betting": "the betting interval for a bounded mean (Waudby-Smith & Ramdas)",
    "t": "Student's t for a mean",
    "jackknife": "delete-a-group jackknife over the generated images",
}


def explain(cell: Path, metric: str | None) -> str:
    """Explain a result's primary measurements, or `metric`.

    Raises:
        SaBenchError: there is no result, or no such measurement.
    """
    for kind in ("method", "metric", "task"):
        if not cell.exists() and str(cell) in {entry.name for entry in registry.list_entries(kind)}:
            raise SaBenchError(f"{cell} is a {kind}: python -m sa_bench show {cell}")
    row, path = read_cell(cell)
    try:
        edited_file = find_edited(row, path.parent)
        return _explain_result(row, path.parent, metric, edited_file)
    except SaBenchError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        raise SaBenchError(
            f"{path} is not what `run` writes ({type(error).__name__}: {error})."
        ) from error


def _explain_result(row: ResultRow, folder: Path, metric: str | None, edited_file: str) -> str:
    """Explain a result: its cell, the chosen measurements, and how to make it again."""
    measurements = row["measurements"]
    names = {metric_of(m): m for m in measurements} | {m["name"]: m for m in measurements}
    if metric is not None and metric not in names:
        if metric in {entry.name for entry in registry.list_entries("metric")}:
            raise SaBenchError(
                f"{metric} was not measured here; the run's command with --metric {metric} measures it too."
            )
        raise unknown_name("measurement", metric, {m["name"] for m in measurements})
    chosen = [names[metric]] if metric else [m for m in measurements if m["role"] == "primary"]
    paragraphs = [f"Beware: {edited_file} was {EDITED}."] if edited_file else []
    paragraphs.append(_describe_cell(row))
    if row["status"] != "done":
        paragraphs.append(f"It failed: {row['error']}")
    elif metric is None and row["method"] != EXTERNAL:
        paragraphs.append("\n".join(["Training:", *(f"  {x}." for x in describe_trainings(row))]))
    paragraphs += ["\n".join(_explain_measurement(row, m, folder)) for m in chosen]
    if metric is None and measurements:
        others = ", ".join(m["name"] for m in measurements if m["role"] != "primary")
        paragraphs.append(f"Further measurements, with --metric NAME: {others}.")
    paragraphs.append(
        f"Make it again: {row['provenance'].get('cell_command') or row['provenance']['command']}"
    )
    return "\n\n".join(paragraphs)


def _describe_cell(row: ResultRow) -> str:
    """Describe in a sentence what was run."""
    if row["method"] == EXTERNAL:
        named = f" ({row['label']})" if row.get("label") else ""
        return (
            f"{row['task_title']}, scale {row['scale']}: images that were made elsewhere{named}, to forget "
            f"{row['concept']}. How they were made is not known here."
        )
    fields = ", ".join(f"{k} = {v}" for k, v in row["fields"].items()) or "no fields"
    cost = row["cost"].get("forget", {})
    device = cost.get("device", "cpu")
    where = "of CPU" if device == "cpu" else f"on {device}"
    seconds = seconds_spent(cost)
    duration = f" Forgetting took {seconds:.0f} s {where}." if seconds is not None else ""
    overrides = "".join(f", {k} = {v}" for k, v in row["overrides"].items())
    return (
        f"{row['task_title']}{overrides}, scale {row['scale']}: {row['method']} ({fields}) was applied to base model "
        f"{row['base_seed']} with forgetting seed {row['seed']}, to forget {row['concept']}.{duration}"
    )


def _explain_measurement(row: ResultRow, m: Measurement, folder: Path) -> Iterator[str]:
    """Yield the lines that explain one measurement."""
    unit = format_unit(m["unit"])
    yield f"{m['name']}: {m['title']}."
    yield f"  {_define_metric(metric_of(m))}"
    if m["value"] is None:
        yield f"  There is no value: {m['reason']}."
    else:
        yield f"  Here {format_number(m['value'], m['unit'])}{unit} from {m['n']} {m['n_unit']}s{_count_votes(m, folder)}."
        if m["low"] is not None and m["high"] is not None:
            how = str(m["interval"])
            name = next((text for key, text in INTERVALS.items() if how.startswith(key)), how)
            low, high = format_number(m["low"], m["unit"]), format_number(m["high"], m["unit"])
            yield f"  95 % interval {low} to {high}: {name}{_describe_widening(how)}. It covers only the drawing of images."
    if m["base"] is not None:
        yield f"  The base model under the same fingerprint: {format_number(m['base'], m['unit'])}{unit}."
    if m["judges"]:
        votes = ", ".join(
            f"{j['judge']} {format_number(j['value'], m['unit'])}" for j in m["judges"]
        )
        yield f"  Each judge alone: {votes}."
    for key, value in (m["extra"] or {}).items():
        text = json.dumps(_round_numbers(value))
        if description := details.describe_extra(m, key, row):
            yield f"  Beside it, {description}."
        elif value not in (None, {}, []) and len(text) < 300:
            yield f"  {key}: {text}"
    if published := verdict_on(row, m):
        yield (
            f"  Published: {published['published']} ({published['source']}). "
            f"Verdict: {published['verdict']}."
        )
    yield f"  Source: {m['source']}. It depends on: {', '.join(m['fingerprint'])}."


def _round_numbers(value: Any) -> Any:
    """Round every float in a JSON value to four digits."""
    if isinstance(value, Mapping):
        return {k: _round_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_round_numbers(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _define_metric(name: str) -> str:
    """Return the definition of a metric from its docstring."""
    if name not in {entry.name for entry in registry.list_entries("metric")}:
        return "Its definition is in a plug-in that is not loaded here."
    metric = registry.get_metric(name)
    return " ".join((inspect.getdoc(metric.measure) or "").split())


def _count_votes(m: Measurement, folder: Path) -> str:
    """Count the images that scored 1, from stored scores that are votes; "" otherwise."""
    path = folder / "scores" / f"{m['name']}.parquet"
    if m["unit"] != "rate" or not path.is_file():
        return ""
    scores = read_scores(path)
    if "score" not in scores or not scores["score"].isin((0, 1)).all():
        return ""
    return f" ({int(scores['score'].sum())} of {len(scores)} in {path.name})"


def _describe_widening(interval: str) -> str:
    """Describe the correction of an interval for several looks; "" if there is none."""
    comparisons = interval.partition("Bonferroni(")[2].rstrip(")")
    return f", widened for {comparisons} looks" if comparisons else ""
