"""Tables of papers: a published table with our values beside it."""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
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

SCALES = ("paper", "full")  # the better first; `quick` is never in a table


@lru_cache(maxsize=1)
def load_layouts() -> dict[str, dict[str, Any]]:
    """Name to layout of every published table."""
    found = tomllib.loads(
        (component_folder("task") / "published" / "tables.toml").read_text(encoding="utf-8")
    )
    for layout in found.values():
        if isinstance(layout["columns"], str):
            layout["columns"] = found[layout["columns"]]["columns"]
    return found


def make_published_table(name: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """A published table with our values, at the scale that comes nearest to the published protocol.

    Raises:
        SaBenchError: no such table.
    """
    if name not in load_layouts():
        raise unknown_name("table", name, [*load_layouts(), "leaderboard"])
    layout = load_layouts()[name]
    mine = [e for e in load_numbers() if any(text in e.source for text in layout["match"])]
    if layout.get("alone"):
        return _alone(name, layout, mine)
    lines, columns, rows = list(_lines(results)), layout["columns"], []
    whole = {}  # the ledger's rows: one a task and method or, where columns name their tasks, one a method
    for e in sorted(mine, key=lambda e: _place(layout, e)):
        key = (
            e.task if "tasks" in layout else "",
            e.method,
            tuple(sorted(e.fields.items())),
            _remark(e.source),
        )
        whole.setdefault(key, []).append(e)
    for (task, method, _, remark), group in whole.items():
        cells = tuple(
            _entry(c, [e for e in group if e.task == c.get("task", e.task)], lines) for c in columns
        )
        words = remark or registry.get_method(method).beside(registry.get_task(group[0].task))
        label = f"{method}{_settings(group[0])}{f' ({words})' if words else ''}"
        rows.append(Row(task, label, cells, "" if all(c.text for c in cells) else _command(group)))
    margins = {c["title"]: text for c in columns if (text := _margins(c, mine))}
    about = {e.task for e in mine}
    claims = [
        v for board in make_boards(results) if board.task in about for v in claim_verdicts(board)
    ]
    units = {m: x.unit for line in lines for m, x in by_metric(line[1]).items()}
    heads = tuple(Column(c["title"], c.get("unit", units.get(c["metric"]))) for c in columns)
    return Table(
        name,
        layout["title"],
        heads,
        tuple(rows),
        tuple(notes_on(rows)),
        tuple(claims),
        margins=margins,
    )


def _margins(column: Mapping[str, Any], mine: Sequence[Published]) -> str:
    """The margin of most of a column's values and, in brackets, of which rows it is another: `1 (no_gr: 10)`."""
    found = [
        e
        for e in mine
        if e.metric == column["metric"] and e.task == column.get("task", e.task) and e.margin
    ]
    if not found:
        return ""
    (most, _), *_ = Counter(e.margin for e in found).most_common()
    of_label: dict[str, set[float]] = {}
    for e in found:
        of_label.setdefault(f"{e.method}{_settings(e)}", set()).add(e.margin)
    others: dict[float, list[str]] = {}
    for e in found:
        label = f"{e.method}{_settings(e)}"
        alike = len(of_label[label]) == 1
        if e.margin != most:
            others.setdefault(e.margin, []).append(label if alike else f"{label} on {e.task}")
    texts = [f"{', '.join(dict.fromkeys(rows))}: {margin:g}" for margin, rows in others.items()]
    return f"{most:g}" + (f" ({'; '.join(texts)})" if texts else "")


def _alone(name: str, layout: Mapping[str, Any], mine: Sequence[Published]) -> Table:
    """Published values that none of ours may stand beside, as they were published."""
    columns, whole = layout["columns"], {}
    several = len({_work(e) for e in mine}) > 1  # another source is another protocol
    for e in mine:
        group = _work(e) if several else e.task
        whole.setdefault((group, e.method, tuple(e.fields.items()), _remark(e.source)), {})[
            e.metric
        ] = e
    rows = [
        Row(
            group,
            f"{method}{_settings(next(iter(of.values())))}{f' ({remark})' if remark else ''}",
            tuple(_printed(of.get(c["metric"]), c) for c in columns),
        )
        for (group, method, _, remark), of in whole.items()
    ]
    titles = {c["metric"]: c["title"] for c in columns}
    reasons: dict[str, list[str]] = {}
    for e in mine:
        reasons.setdefault(e.never, []).append(titles.get(e.metric, e.metric))
    sources = dict.fromkeys(e.source.partition(" (SD ")[0] for e in mine)
    notes = [
        f"Source: {'; '.join(sources)}. Published values only; none of ours is ranked with them.",
        *(f"{', '.join(dict.fromkeys(about))}: {reason}." for reason, about in reasons.items()),
    ]
    heads = tuple(Column(c["title"], c.get("unit"), c.get("better")) for c in columns)
    return Table(name, layout["title"], heads, tuple(rows), tuple(notes), published=False)


def _work(entry: Published) -> str:
    """What a value was published in: `UnlearnDiffAtk leaderboard`."""
    return entry.source.partition(" (")[0]


def _printed(entry: Published | None, column: Mapping[str, Any]) -> Entry:
    if entry is None:
        return Entry(reason="not published")
    unit = column.get("unit")
    text = f"{100 * entry.value:.4g} %" if unit == "rate" else f"{entry.value:g}"
    n = f"n = {entry.n:,}" if entry.n and unit == "rate" else ""
    return Entry(text, n, entry.value, scale="published")


def _place(layout: Mapping[str, Any], entry: Published) -> int:
    return layout["tasks"].index(entry.task) if "tasks" in layout else 0


def _remark(source: str) -> str:
    return source.partition(" (SD ")[2].removesuffix(")") and "SD " + source.partition(" (SD ")[
        2
    ].removesuffix(")")


def _settings(entry: Published) -> str:
    return "".join(f" {k}={_short(v)}" for k, v in entry.fields.items())


def _command(group: Sequence[Published]) -> str:
    first, tasks = group[0], dict.fromkeys(e.task for e in group)
    # trained by us: a run begins with another base
    ours = all(registry.get_task(task).base for task in tasks)
    same = registry.get_method(first.method).deterministic  # another run is another draw
    runs = f"--scale paper {'--base-seed' if ours else '--sample-seed' if same else '--seed'} 0,1,2"
    parts = ["python -m sa_bench run --task", ",".join(tasks), "--method", first.method, runs]
    fields = {f"{first.method}.{k}": v for k, v in first.fields.items()}
    fields |= {f"task.{k}": v for k, v in first.overrides.items()}
    return " ".join(
        [*parts, *(f"--set {shlex.quote(f'{k}={_short(v)}')}" for k, v in fields.items())]
    )


def _short(value: float | str) -> str:
    return str(value).removesuffix(".0")


def _lines(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Board, Line]]:
    """Every line that a table may show, the nearest scale and the fewest overrides first."""
    found = [board for board in make_boards(results) if board.scale in SCALES]
    for board in sorted(found, key=lambda b: (SCALES.index(b.scale), _changed(b))):
        for line in sorted(board.lines, key=lambda line: line.origin):  # our own before strangers'
            if line.cells:
                yield board, line


def _changed(board: Board) -> int:
    return max((len(cell["overrides"]) for line in board.lines for cell in line.cells), default=0)


def _entry(
    column: Mapping[str, Any], group: Sequence[Published], lines: Sequence[tuple[Board, Line]]
) -> Entry:
    there = next((e for e in group if e.metric == column["metric"]), None)
    value = there.value if there else None
    metric, *path = column.get("ours", [column["metric"]])
    for board, line in lines:
        if not any(is_of(e, line.cells[0]) for e in group):
            continue
        found = by_metric(line).get(metric)
        if found is None:
            continue
        if path:
            entry = _beside(line, metric, path, board, value, there, column.get("unit"))
        else:
            said = _said(there, line, _by_run(line, metric))
            entry = fill_entry(found, line, board, value, said, column.get("unit"))
        dagger = f"{entry.text} †" if entry.text and line.origin else entry.text
        return replace(entry, text=dagger, origin=line.origin)
    return Entry(published=value, verdict="" if there is None else "not run")


def _said(entry: Published | None, line: Line, by_run: Sequence[Mapping[str, float]]) -> str:
    """The verdict on a line's values, judge to value of each run; nothing where nothing was published."""
    return "" if entry is None else str(verdict_of_runs(entry, line.cells[0], by_run)["verdict"])


def _by_run(line: Line, metric: str) -> list[dict[str, float]]:
    rows = [m for cell in line.cells for m in cell["measurements"] if metric_of(m) == metric]
    return [values_by_judge(m) for m in rows if m["value"] is not None]


def _beside(
    line: Line,
    metric: str,
    path: Sequence[str],
    board: Board,
    published: float | None,
    entry: Published | None,
    unit: str | None = None,
) -> Entry:
    """A number that stands beside a measurement's value; it has no interval of its own."""
    points = []
    for cell in line.cells:
        found: Any = next(
            (m["extra"] for m in cell["measurements"] if metric_of(m) == metric), None
        )
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        points += [] if found is None else [float(found)]
    said = _said(entry, line, [{NO_JUDGE: point} for point in points])
    if not points:
        return Entry(published=published, scale=board.scale, verdict=said, reason="not measured")
    mean = sum(points) / len(points)
    text, low, high = (
        format_number(x, unit) if unit else f"{x:.4g}" for x in (mean, min(points), max(points))
    )
    between = "" if len(points) == 1 else f"{low.removesuffix(' %')} to {high.removesuffix(' %')}"
    return Entry(
        text, between, mean, None, None, tuple(points), len(points), board.scale, published, said
    )
