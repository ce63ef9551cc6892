"""Tables: leaderboards of any selection of tasks, methods and metrics, and what all tables share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.pairwise import FEWEST
from sa_bench.analysis.published import Verdict
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import FRONT, format_interval
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.fields import split_list
from sa_bench.results.format import format_number
from sa_bench.results.rows import metric_of
from sa_bench.results.sealing import EDITED
from sa_bench.statistics import over_bases


@dataclass(frozen=True)
class Column:
    """A metric of a table."""

    title: str
    unit: str | None = None
    better: str | None = None


@dataclass(frozen=True)
class Entry:
    """A cell: our value, and what was published."""

    text: str = ""  # our value for people; "": none
    interval: str = (
        ""  # of one run its 95 % interval, of a few their points, of more the lowest and highest
    )
    value: float | None = None
    low: float | None = (
        None  # 95 %: of one run its own interval; of five or more, of the mean over base models
    )
    high: float | None = None
    points: tuple[float, ...] = ()  # one a run
    runs: int = 0
    scale: str = ""
    published: float | None = None
    verdict: str = ""
    best: bool = False  # better than every other method's beyond both intervals
    reason: str = ""  # why there is no value
    origin: str = (
        ""  # whose bundle it comes from; of a published table, whose text then has a dagger
    )


@dataclass(frozen=True)
class Row:
    """A method's row."""

    group: str  # what rows stand together under: a task
    label: str
    entries: tuple[Entry, ...]
    command: str = ""  # fills what is empty


@dataclass(frozen=True)
class Table:
    """A table, ready to be written in any format."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    claims: tuple[Verdict, ...] = ()
    published: bool = True  # whether published values stand beside ours
    margins: Mapping[str, str] = field(default_factory=dict)
    """By column, declared in the ledger beforehand."""


def by_metric(line: Line) -> dict[str, Endpoint]:
    """Registered metric name to endpoint: `fid[judge-mnist]` is `fid`."""
    names = {metric_of(m): m["name"] for cell in line.cells for m in cell["measurements"]}
    return {metric: line.endpoints[name] for metric, name in names.items()}


def fill_entry(
    found: Endpoint,
    line: Line,
    board: Board,
    published: float | None,
    said: str,
    unit: str | None = None,
) -> Entry:
    """The cell of a line's value, in another unit than its own if one is given, or of the reason why there is none."""
    if found.value is None:
        return Entry(
            published=published,
            scale=board.scale,
            verdict=said,
            reason=found.reason or "not measured",
        )
    points = found.points
    low, high = (found.low, found.high) if len(points) == 1 else interval_of(line, found)
    printed = replace(found, unit=unit or found.unit)
    return Entry(
        format_number(found.value, printed.unit),
        format_interval(printed, " to ").removesuffix(" %"),
        found.value,
        low,
        high,
        points,
        len(points),
        board.scale,
        published,
        said,
    )


def interval_of(line: Line, found: Endpoint) -> tuple[float | None, float | None]:
    """The 95 % interval of a line's mean for a new base model and seed, of one base for a new seed; none below five runs."""
    by_base: dict[int, list[float]] = {}
    if len(found.points) < FEWEST or found.missing:
        return None, None
    for cell, point in zip(line.cells, found.points, strict=True):
        by_base.setdefault(cell["base_seed"], []).append(point)
    _, low, high, _ = over_bases(by_base)
    if low is None or high is None or found.unit not in ("rate", "probability"):
        return low, high
    return max(0.0, low), min(1.0, high)


def notes_on(rows: Sequence[Row]) -> Iterator[str]:
    """What must be known of the cells of a table."""
    cells = [e for row in rows for e in row.entries]
    yield (
        "Ours: mean over runs; in brackets of one run its 95 % interval, of two to four their points, of more the lowest "
        "and highest."
    )
    if scales := sorted({e.scale for e in cells if e.text}):
        yield f"Scale of ours: {', '.join(scales)}. Verdicts are given at scale paper, from three runs and three judges on."
    origins = dict.fromkeys(e.origin for e in cells if e.origin and e.text)
    yield from (f"† {EDITED}" if o == EDITED else f"† by {o}, as told" for o in origins)
    yield from (f"n/a: {reason}" for reason in dict.fromkeys(e.reason for e in cells if e.reason))


pass


def make_leaderboards(
    results: Sequence[Mapping[str, Any]],
    task: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    methods: str | Sequence[str] = (),
) -> list[Table]:
    """One table a board: another scale or fingerprint stands in a table of its own.

    Args:
        results: rows, as `read_results` gives them.
        task: only these, `a,b` or a list; empty: all.
        metrics: columns, by registered name, in this order; empty: the task's three endpoints.
        methods: only these, names or labels, in this order; empty: all, as they are ranked.

    Raises:
        SaBenchError: a task, method or metric that is nowhere among the results, or no results.
    """
    found = select_boards(make_boards(results), task)
    wanted = parse_names(methods, [line for board in found for line in board.lines if line.cells])
    asked, tables, known = _listed(metrics), [], {}
    for board in found:
        lines = select_lines([line for line in board.lines if line.cells], wanted)
        here = {m: e for line in lines for m, e in by_metric(line).items()}
        known |= here
        primary = [m for name in board.primary if (m := name.partition("[")[0]) in here]
        if lines and any(m in here for m in asked or primary):
            tables.append(_make_table(board, lines, asked or primary, bool(asked), here))
    if missing := [m for m in asked if known and m not in known]:
        raise unknown_name("metric of these results", missing[0], known)
    if not tables:
        raise SaBenchError(
            "Nothing of that is among these results. See `python -m sa_bench report RUN`."
        )
    return tables


def select_boards(found: Sequence[Board], task: str | Sequence[str]) -> list[Board]:
    """The boards of these tasks, `a,b` or a list; empty: all.

    Raises:
        SaBenchError: there is no board of one of them.
    """
    tasks, known = _listed(task), {board.task for board in found}
    if missing := [name for name in tasks if name not in known]:
        raise unknown_name("task of these results", missing[0], known)
    return [board for board in found if not tasks or board.task in tasks]


def parse_names(methods: str | Sequence[str], lines: Iterable[Line]) -> list[str]:
    """The names and labels in `a,b` or a list; a label may hold a comma itself.

    Raises:
        SaBenchError: no line has one of them.
    """
    lines = list(lines)
    known, parts, found = (
        {x for line in lines for x in (line.label, line.method)},
        _listed(methods),
        [],
    )
    while parts:
        ends = [i for i in range(len(parts), 0, -1) if ", ".join(parts[:i]) in known]
        if not ends:
            raise unknown_name("method with a result here", parts[0], known)
        found.append(", ".join(parts[: ends[0]]))
        parts = parts[ends[0] :]
    return found


def select_lines(lines: Sequence[Line], wanted: Sequence[str]) -> list[Line]:
    """The lines of these names or labels, in their order; all, where none is named."""
    if not wanted:
        return list(lines)
    found = [line for line in lines if line.label in wanted or line.method in wanted]
    return sorted(found, key=lambda x: wanted.index(x.label if x.label in wanted else x.method))


def _listed(text: str | Sequence[str]) -> list[str]:
    return (split_list(text) if text else []) if isinstance(text, str) else list(text)


def _make_table(
    board: Board,
    lines: Sequence[Line],
    metrics: Sequence[str],
    alone: bool,
    known: Mapping[str, Endpoint],
) -> Table:
    """The table of a board; `alone`: the metrics were asked for, so no other column stands beside them."""
    columns = [
        Column(m, known[m].unit, known[m].better) if m in known else Column(m) for m in metrics
    ]
    columns += [] if alone else [Column("Pareto front"), Column(board.cost_title, "s", "lower")]
    rows = []
    for line in lines:
        row = [_rank_entries(by_metric(line).get(m), board, line, lines, m) for m in metrics]
        row += [] if alone else [_front(line, board), _cost(line, board)]
        rows.append(Row("", line.label + _standing(line), tuple(row)))
    title = f"{board.title}, scale {board.scale}"
    notes = (*notes_on(rows), *([] if alone else [FRONT]))
    return Table("leaderboard", title, tuple(columns), tuple(rows), notes, published=False)


def _standing(line: Line) -> str:
    """What must be known of a line beside its numbers."""
    collapsed = " [collapsed]" if line.collapsed and line.standing == "method" else ""
    return (f" [{line.tag}]" if line.tag else "") + collapsed


def _front(line: Line, board: Board) -> Entry:
    """1 on the front, 0 where another dominates it; a dash where it cannot be on it."""
    value = None if line.pareto_label == "–" else float(line.front)
    return Entry(line.pareto_label, value=value, runs=len(line.cells), scale=board.scale)


def _cost(line: Line, board: Board) -> Entry:
    if line.seconds is None:
        return Entry(reason="cost not recorded")
    return Entry(f"{line.seconds:.0f}", value=line.seconds, runs=len(line.cells), scale=board.scale)


def _rank_entries(
    found: Endpoint | None, board: Board, line: Line, lines: Sequence[Line], metric: str
) -> Entry:
    if found is None:
        return Entry(reason="not measured")
    entry = fill_entry(found, line, board, None, "")
    others = [
        (other, e)
        for other in lines
        if other is not line
        and other.standing == "method"
        and not other.collapsed
        and other.threat == line.threat
        and (e := by_metric(other).get(metric)) is not None
        and e.value is not None
    ]
    if entry.value is None or line.standing != "method" or line.collapsed or not others:
        return entry
    mine, theirs = _bounds(line, found, metric), [_bounds(other, e, metric) for other, e in others]
    if mine is None:
        return entry
    best = {
        "lower": all(b is not None and mine[1] < b[0] for b in theirs),
        "higher": all(b is not None and mine[0] > b[1] for b in theirs),
    }
    return replace(entry, best=best.get(found.better or "", False))


def _bounds(line: Line, found: Endpoint, metric: str) -> tuple[float, float] | None:
    """Between what a line's values may lie; None: unknown, since a run has no interval and the runs are too few for one."""
    runs = [m for cell in line.cells for m in cell["measurements"] if metric_of(m) == metric]
    if all(m["low"] is not None and m["high"] is not None for m in runs if m["value"] is not None):
        return found.bounds
    low, high = interval_of(line, found)
    return (
        None
        if low is None or high is None
        else (min(low, found.bounds[0]), max(high, found.bounds[1]))
    )
