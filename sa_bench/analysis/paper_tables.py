"""Published tables of papers, with our values beside the published ones."""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean
from typing import Any

from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.published import (
    NO_JUDGE,
    Published,
    claim_verdicts,
    is_of,
    load_numbers,
    values_by_judge,
    verdict_of_runs,
)
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.tables import Column, Entry, Row, Table, by_metric, fill_entry, notes_on
from sa_bench.core import registry
from sa_bench.core.errors import unknown_name
from sa_bench.core.registry import component_folder
from sa_bench.results.format import format_number
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import ResultRow

SCALES = ("paper", "full")  # the preferred scale first; `quick` is never in a table


@lru_cache(maxsize=1)
def load_layouts() -> dict[str, dict[str, Any]]:
    """Load the layout of every published table, by name."""
    layouts = tomllib.loads(
        (component_folder("task") / "published" / "tables.toml").read_text(encoding="utf-8")
    )
    for layout in layouts.values():
        if isinstance(layout["columns"], str):
            layout["columns"] = layouts[layout["columns"]]["columns"]
    return layouts


def make_published_table(name: str, results: Sequence[ResultRow]) -> Table:
    """Make a published table with our values, at the scale nearest to the published protocol.

    Raises:
        SaBenchError: there is no table of that name.
    """
    if name not in load_layouts():
        raise unknown_name("table", name, [*load_layouts(), "leaderboard"])
    layout = load_layouts()[name]
    numbers = [e for e in load_numbers() if any(text in e.source for text in layout["match"])]
    if layout.get("alone"):
        return _make_published_only(name, layout, numbers)
    lines, columns, rows = list(_list_lines(results)), layout["columns"], []
    # rows of the table: one per task and method, or one per method where columns name their tasks
    groups = {}
    for e in sorted(numbers, key=lambda e: _task_index(layout, e)):
        key = (
            e.task if "tasks" in layout else "",
            e.method,
            tuple(sorted(e.fields.items())),
            _deviation_note(e.source),
        )
        groups.setdefault(key, []).append(e)
    for (task, method, _, remark), group in groups.items():
        cells = tuple(
            _make_entry(c, [e for e in group if e.task == c.get("task", e.task)], lines)
            for c in columns
        )
        remark_text = remark or registry.get_method(method).beside(registry.get_task(group[0].task))
        label = f"{method}{_format_fields(group[0])}{f' ({remark_text})' if remark_text else ''}"
        rows.append(
            Row(task, label, cells, "" if all(c.text for c in cells) else _make_command(group))
        )
    margins = {c["title"]: text for c in columns if (text := _format_margins(c, numbers))}
    tasks = {e.task for e in numbers}
    claims = [
        v for board in make_boards(results) if board.task in tasks for v in claim_verdicts(board)
    ]
    heads = tuple(Column(c["title"], _find_unit(c)) for c in columns)
    return Table(
        name,
        layout["title"],
        heads,
        tuple(rows),
        tuple(notes_on(rows)),
        tuple(claims),
        margins=margins,
    )


def _find_unit(column: Mapping[str, Any]) -> str | None:
    """Find a column's unit: its own, else that of its metric; None for what no metric of ours measures."""
    metric = column["metric"]
    known = metric in {entry.name for entry in registry.list_entries("metric")}
    return column.get("unit", registry.get_metric(metric).unit if known else None)


def _format_margins(column: Mapping[str, Any], numbers: Sequence[Published]) -> str:
    """Format the most common margin of a column and, in brackets, the rows with another: `1 (no_gr: 10)`."""
    relevant = [
        e
        for e in numbers
        if e.metric == column["metric"] and e.task == column.get("task", e.task) and e.margin
    ]
    if not relevant:
        return ""
    (common_margin, _), *_ = Counter(e.margin for e in relevant).most_common()
    margins_of_label: dict[str, set[float]] = {}
    for e in relevant:
        margins_of_label.setdefault(f"{e.method}{_format_fields(e)}", set()).add(e.margin)
    others: dict[float, list[str]] = {}
    for e in relevant:
        label = f"{e.method}{_format_fields(e)}"
        single_margin = len(margins_of_label[label]) == 1
        if e.margin != common_margin:
            others.setdefault(e.margin, []).append(
                label if single_margin else f"{label} on {e.task}"
            )
    texts = [f"{', '.join(dict.fromkeys(labels))}: {margin:g}" for margin, labels in others.items()]
    return f"{common_margin:g}" + (f" ({'; '.join(texts)})" if texts else "")


def _make_published_only(
    name: str, layout: Mapping[str, Any], numbers: Sequence[Published]
) -> Table:
    """Make a table of published values that none of ours may be compared with."""
    columns, groups = layout["columns"], {}
    # another source is another protocol, so that rows are grouped by it
    several_sources = len({_publication(e) for e in numbers}) > 1
    for e in numbers:
        group = _publication(e) if several_sources else e.task
        groups.setdefault(
            (group, e.method, tuple(e.fields.items()), _deviation_note(e.source)), {}
        )[e.metric] = e
    rows = [
        Row(
            group,
            f"{method}{_format_fields(next(iter(number_of.values())))}{f' ({remark})' if remark else ''}",
            tuple(_make_printed_entry(number_of.get(c["metric"]), c) for c in columns),
        )
        for (group, method, _, remark), number_of in groups.items()
    ]
    titles = {c["metric"]: c["title"] for c in columns}
    reasons: dict[str, list[str]] = {}
    for e in numbers:
        reasons.setdefault(e.never, []).append(titles.get(e.metric, e.metric))
    sources = dict.fromkeys(e.source.partition(" (SD ")[0] for e in numbers)
    notes = [
        f"Source: {'; '.join(sources)}. Published values only; none of ours is ranked with them.",
        *(f"{', '.join(dict.fromkeys(metrics))}: {reason}." for reason, metrics in reasons.items()),
    ]
    heads = tuple(Column(c["title"], c.get("unit"), c.get("better")) for c in columns)
    return Table(name, layout["title"], heads, tuple(rows), tuple(notes), published=False)


def _publication(entry: Published) -> str:
    """Return what a value was published in: `UnlearnDiffAtk leaderboard`."""
    return entry.source.partition(" (")[0]


def _make_printed_entry(entry: Published | None, column: Mapping[str, Any]) -> Entry:
    """Make the entry of a published value, as it was printed."""
    if entry is None:
        return Entry(reason="not published")
    unit = column.get("unit")
    text = f"{100 * entry.value:.4g} %" if unit == "rate" else f"{entry.value:g}"
    n = f"n = {entry.n:,}" if entry.n and unit == "rate" else ""
    return Entry(text, n, entry.value, scale="published")


def _task_index(layout: Mapping[str, Any], entry: Published) -> int:
    """Return the place of a number's task in the layout's order of tasks; 0 without one."""
    return layout["tasks"].index(entry.task) if "tasks" in layout else 0


def _deviation_note(source: str) -> str:
    """Return the `SD ...` that a source ends in, in brackets; "" if there is none."""
    note = source.partition(" (SD ")[2].removesuffix(")")
    return f"SD {note}" if note else ""


def _format_fields(entry: Published) -> str:
    """Format the fields of a published number: ` lam=10`."""
    return "".join(f" {k}={_format_value(v)}" for k, v in entry.fields.items())


def _make_command(group: Sequence[Published]) -> str:
    """Make the command whose runs fill the empty entries of a row."""
    first, tasks = group[0], dict.fromkeys(e.task for e in group)
    if all(registry.get_task(task).base for task in tasks):
        seeds = "--base-seed"  # we train the base models: each run starts from another one
    elif registry.get_method(first.method).deterministic:
        seeds = "--sample-seed"  # only the images differ between runs
    else:
        seeds = "--seed"
    runs = f"--scale paper {seeds} 0,1,2"
    words = ["python -m sa_bench run --task", ",".join(tasks), "--method", first.method, runs]
    fields = {f"{first.method}.{k}": v for k, v in first.fields.items()}
    fields |= {f"task.{k}": v for k, v in first.overrides.items()}
    return " ".join(
        [*words, *(f"--set {shlex.quote(f'{k}={_format_value(v)}')}" for k, v in fields.items())]
    )


def _format_value(value: float | str) -> str:
    """Format a field's value, whole numbers without decimals."""
    return str(value).removesuffix(".0")


def _list_lines(results: Sequence[ResultRow]) -> Iterator[tuple[Board, Line]]:
    """Yield every line that a table may show, the nearest scale and the fewest overrides first."""
    boards = [board for board in make_boards(results) if board.scale in SCALES]
    for board in sorted(boards, key=lambda b: (SCALES.index(b.scale), _count_overrides(b))):
        # our own lines (origin "") before those of bundles
        for line in sorted(board.lines, key=lambda line: line.origin):
            if line.cells:
                yield board, line


def _count_overrides(board: Board) -> int:
    """Count the overrides of the board's cell that has most."""
    return max((len(cell["overrides"]) for line in board.lines for cell in line.cells), default=0)


def _make_entry(
    column: Mapping[str, Any], group: Sequence[Published], lines: Sequence[tuple[Board, Line]]
) -> Entry:
    """Make a column's entry from the first line that has the published setting and the metric."""
    number = next((e for e in group if e.metric == column["metric"]), None)
    value = number.value if number else None
    metric, *path = column.get("ours", [column["metric"]])
    for board, line in lines:
        if not any(is_of(e, line.cells[0]) for e in group):
            continue
        endpoint = by_metric(line).get(metric)
        if endpoint is None:
            continue
        if path:
            entry = _make_extra_entry(line, metric, path, board, value, number, column.get("unit"))
        else:
            verdict = _verdict_on(number, line, _values_by_run(line, metric))
            entry = fill_entry(endpoint, line, board, value, verdict, column.get("unit"))
        dagger = f"{entry.text} †" if entry.text and line.origin else entry.text
        return replace(entry, text=dagger, origin=line.origin)
    return Entry(published=value, verdict="" if number is None else "not run")


def _verdict_on(entry: Published | None, line: Line, by_run: Sequence[Mapping[str, float]]) -> str:
    """Judge a line's values (by run, judge to value); "" where nothing was published."""
    return "" if entry is None else str(verdict_of_runs(entry, line.cells[0], by_run)["verdict"])


def _values_by_run(line: Line, metric: str) -> list[dict[str, float]]:
    """List the values of a metric by judge, one dictionary per run that has a value."""
    measurements = [
        m for cell in line.cells for m in cell["measurements"] if metric_of(m) == metric
    ]
    return [values_by_judge(m) for m in measurements if m["value"] is not None]


def _make_extra_entry(
    line: Line,
    metric: str,
    path: Sequence[str],
    board: Board,
    published: float | None,
    entry: Published | None,
    unit: str | None = None,
) -> Entry:
    """Make the entry of a number in a measurement's `extra`, under `path`; it has no interval of its own."""
    points = []
    for cell in line.cells:
        value: Any = next(
            (m["extra"] for m in cell["measurements"] if metric_of(m) == metric), None
        )
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            points.append(float(value))
    verdict = _verdict_on(entry, line, [{NO_JUDGE: point} for point in points])
    if not points:
        return Entry(published=published, scale=board.scale, verdict=verdict, reason="not measured")
    mean = fmean(points)
    text, low, high = (
        format_number(x, unit) if unit else f"{x:.4g}" for x in (mean, min(points), max(points))
    )
    span = "" if len(points) == 1 else f"{low.removesuffix(' %')} to {high.removesuffix(' %')}"
    return Entry(
        text, span, mean, None, None, tuple(points), len(points), board.scale, published, verdict
    )
