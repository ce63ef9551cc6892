"""Leaderboard tables of any selection of tasks, methods and metrics, and what all tables share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.cell_text import ENDPOINTS, format_cost
from sa_bench.analysis.pairwise import FEWEST
from sa_bench.analysis.published import Verdict
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import FRONT, format_interval
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.lists import split_list
from sa_bench.results.format import format_number, format_unit, is_rate
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import ResultRow
from sa_bench.results.sealing import EDITED
from sa_bench.statistics import over_bases


@dataclass(frozen=True)
class Column:
    """A metric of a table."""

    title: str
    unit: str | None = None
    better: str | None = None
    metric: str = ""  # its registered name, where it is one


@dataclass(frozen=True)
class Entry:
    """A cell: our value, and what was published."""

    text: str = ""
    """Our value as printed; "" if there is none."""
    interval: str = ""
    """One run: its 95 % interval; two to four runs: their points; more: lowest and highest."""
    value: float | None = None
    low: float | None = None
    """Bound at 95 %. One run: of its own interval; five or more: of the mean over base models."""
    high: float | None = None
    points: tuple[float, ...] = ()  # one per run
    runs: int = 0
    scale: str = ""
    published: float | None = None
    verdict: str = ""
    best: bool = False  # better than every other method's value, and the intervals do not overlap
    reason: str = ""  # why there is no value
    rivals: tuple[str, ...] = ()  # labels of the rows that dominate it, in the column of the front
    origin: str = ""
    """Origin of the bundle that the value comes from; in published tables its text has a dagger."""


@dataclass(frozen=True)
class Row:
    """A method's row."""

    group: str  # heading that rows are grouped under: a task
    label: str
    entries: tuple[Entry, ...]
    command: str = ""  # the command that fills the empty entries


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
    anchor: str = ""  # what tells it from other tables of its name
    margins: Mapping[str, str] = field(default_factory=dict)
    """Column title to the margin that the ledger declared before any result was seen."""


def by_metric(line: Line) -> dict[str, Endpoint]:
    """Map registered metric names to a line's endpoints: `fid[judge-mnist]` is `fid`."""
    names = {metric_of(m): m["name"] for cell in line.cells for m in cell["measurements"]}
    return {metric: line.endpoints[name] for metric, name in names.items()}


def fill_entry(
    endpoint: Endpoint,
    line: Line,
    board: Board,
    published: float | None,
    verdict: str,
    unit: str | None = None,
) -> Entry:
    """Build the entry for one endpoint of a line, in `unit` if given; without a value it holds the reason."""
    if endpoint.value is None:
        return Entry(
            published=published,
            scale=board.scale,
            verdict=verdict,
            reason=endpoint.reason or "not measured",
        )
    points = endpoint.points
    low, high = (endpoint.low, endpoint.high) if len(points) == 1 else interval_of(line, endpoint)
    printed = replace(endpoint, unit=unit or endpoint.unit)
    return Entry(
        format_number(endpoint.value, printed.unit),
        format_interval(printed, " to ").removesuffix(" %"),
        endpoint.value,
        low,
        high,
        points,
        len(points),
        board.scale,
        published,
        verdict,
    )


def interval_of(line: Line, endpoint: Endpoint) -> tuple[float | None, float | None]:
    """Compute the 95 % interval of a line's mean; (None, None) below five runs.

    With several base models it is for a new base model and seed; with one, for a new seed.
    """
    by_base: dict[int, list[float]] = {}
    if len(endpoint.points) < FEWEST or endpoint.missing:
        return None, None
    for cell, point in zip(line.cells, endpoint.points, strict=True):
        by_base.setdefault(cell["base_seed"], []).append(point)
    _, low, high, _ = over_bases(by_base)
    if low is None or high is None or not is_rate(endpoint.unit):
        return low, high
    return max(0.0, low), min(1.0, high)


def notes_on(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the notes below a table that explain its entries."""
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


def make_leaderboards(
    results: Sequence[ResultRow],
    task: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    methods: str | Sequence[str] = (),
) -> list[Table]:
    """Make one table per board; each scale and each fingerprint has a board of its own.

    Args:
        results: rows, as `read_results` gives them.
        task: names of tasks, `a,b` or a list; empty means all.
        metrics: columns by registered name, in this order; empty means the task's three endpoints.
        methods: names or labels, in this order; empty means all, in the order of their ranks.

    Raises:
        SaBenchError: the results lack a task, method or metric of these, or are empty.
    """
    boards = select_boards(make_boards(results), task)
    names = parse_names(methods, [line for board in boards for line in board.lines if line.cells])
    asked_metrics, tables, known_metrics = _as_list(metrics), [], {}
    for board in boards:
        lines = select_lines([line for line in board.lines if line.cells], names)
        board_metrics = {m: e for line in lines for m, e in by_metric(line).items()}
        known_metrics |= board_metrics
        primary = [m for name in board.primary if (m := name.partition("[")[0]) in board_metrics]
        if lines and any(m in board_metrics for m in asked_metrics or primary):
            tables.append(
                _make_table(
                    board, lines, asked_metrics or primary, bool(asked_metrics), board_metrics
                )
            )
    if missing_metrics := [m for m in asked_metrics if known_metrics and m not in known_metrics]:
        raise unknown_name("metric of these results", missing_metrics[0], known_metrics)
    if not tables:
        raise SaBenchError(
            "No result fits this selection. See what there is: `python -m sa_bench report RUN`."
        )
    return tables


def select_boards(boards: Sequence[Board], task: str | Sequence[str]) -> list[Board]:
    """Select the boards of these tasks, `a,b` or a list; empty means all.

    Raises:
        SaBenchError: one of the tasks has no board.
    """
    tasks, known_tasks = _as_list(task), {board.task for board in boards}
    if missing_tasks := [name for name in tasks if name not in known_tasks]:
        raise unknown_name("task of these results", missing_tasks[0], known_tasks)
    return [board for board in boards if not tasks or board.task in tasks]


def parse_names(methods: str | Sequence[str], lines: Iterable[Line]) -> list[str]:
    """Split `a,b` or a list into names and labels of lines; a label may hold a comma itself.

    Raises:
        SaBenchError: no line has one of them.
    """
    lines = list(lines)
    known_names = {name for line in lines for name in (line.label, line.method)}
    words, names = _as_list(methods), []
    while words:
        ends = [i for i in range(len(words), 0, -1) if ", ".join(words[:i]) in known_names]
        if not ends:
            raise unknown_name("method with a result here", words[0], known_names)
        names.append(", ".join(words[: ends[0]]))
        words = words[ends[0] :]
    return names


def select_lines(lines: Sequence[Line], names: Sequence[str]) -> list[Line]:
    """Select the lines with these names or labels, in their order; no names means all lines."""
    if not names:
        return list(lines)
    selected = [line for line in lines if line.label in names or line.method in names]
    return sorted(selected, key=lambda x: names.index(x.label if x.label in names else x.method))


def _as_list(names: str | Sequence[str]) -> list[str]:
    """Turn `a,b` or a sequence of names into a list."""
    if not isinstance(names, str):
        return list(names)
    return split_list(names) if names else []


def _make_table(
    board: Board,
    lines: Sequence[Line],
    metrics: Sequence[str],
    metrics_only: bool,
    endpoints: Mapping[str, Endpoint],
) -> Table:
    """Make the table of a board. `metrics_only` leaves out the outcome, the front and the cost.

    It is set where the user asked for metrics; `endpoints` maps the board's metrics to an endpoint.
    """
    columns = [
        Column(title_metric(board, m), endpoints[m].unit, endpoints[m].better, m)
        if m in endpoints
        else Column(m, metric=m)
        for m in metrics
    ]
    if not metrics_only:
        cost = Column(board.cost_title, "s", "lower")
        columns = [Column("outcome"), *columns, Column("Pareto front"), cost]
    rows = []
    for line in lines:
        entries = [
            _make_metric_entry(by_metric(line).get(m), board, line, lines, m) for m in metrics
        ]
        if not metrics_only:
            outcome = Entry(line.outcome.word, runs=len(line.cells), scale=board.scale)
            front, cost = _make_front_entry(line, board), _make_cost_entry(line, board)
            entries = [outcome, *entries, front, cost]
        rows.append(Row("", line.label + _format_remarks(line), tuple(entries)))
    title = f"{board.title}, scale {board.scale}"
    notes = (*notes_on(rows), *([] if metrics_only else [FRONT]))
    return Table(
        "leaderboard",
        title,
        tuple(columns),
        tuple(rows),
        notes,
        published=False,
        anchor=f"{board.task}-{board.scale}",
    )


def title_metric(board: Board, metric: str) -> str:
    """Write a metric's heading as every page has it: the word of an endpoint, else its title, and the unit.

    Args:
        board: a board with that metric.
        metric: its registered name, `kid`.
    """
    cells = (cell for line in board.lines for cell in line.cells)
    measured = next(m for cell in cells for m in cell["measurements"] if metric_of(m) == metric)
    title = measured["title"].replace("c_f", board.concept)
    endpoint_words = dict(zip(board.primary, ENDPOINTS, strict=False))
    word = endpoint_words.get(measured["name"], "")
    if word == ENDPOINTS[2]:
        word = f"{word}: {title[0].lower()}{title[1:]}"
    unit = format_unit(measured["unit"]).strip(" %")
    return f"{word or title}{f', {unit}' if unit else ''}"


def _format_remarks(line: Line) -> str:
    """Format what a reader must know of a line beside its numbers: its tag, a collapse."""
    collapsed = " [collapsed]" if line.collapsed and line.standing == "method" else ""
    return (f" [{line.tag}]" if line.tag else "") + collapsed


def _make_front_entry(line: Line, board: Board) -> Entry:
    """Make the entry of the Pareto front: 1 on it, 0 if dominated, a dash if the line cannot be on it."""
    value = None if line.pareto_label == "–" else float(line.front)
    return Entry(
        line.pareto_label,
        value=value,
        runs=len(line.cells),
        scale=board.scale,
        rivals=tuple(line.dominated_by) if line.pareto_label.startswith("no") else (),
    )


def _make_cost_entry(line: Line, board: Board) -> Entry:
    """Make the entry of the seconds of forgetting."""
    if line.seconds is None:
        return Entry(reason="cost not recorded")
    return Entry(format_cost(line), value=line.seconds, runs=len(line.cells), scale=board.scale)


def _make_metric_entry(
    endpoint: Endpoint | None, board: Board, line: Line, lines: Sequence[Line], metric: str
) -> Entry:
    """Make the entry of a metric, marked as best if it beats every rival beyond both intervals."""
    if endpoint is None:
        return Entry(reason="not measured")
    entry = fill_entry(endpoint, line, board, None, "")
    others = [
        (other, other_endpoint)
        for other in lines
        if other is not line
        and other.standing == "method"
        and not other.collapsed
        and other.threat == line.threat
        and (other_endpoint := by_metric(other).get(metric)) is not None
        and other_endpoint.value is not None
    ]
    if entry.value is None or line.standing != "method" or line.collapsed or not others:
        return entry
    bounds = _bounds(line, endpoint, metric)
    other_bounds = [_bounds(other, other_endpoint, metric) for other, other_endpoint in others]
    if bounds is None:
        return entry
    is_best = {
        "lower": all(b is not None and bounds[1] < b[0] for b in other_bounds),
        "higher": all(b is not None and bounds[0] > b[1] for b in other_bounds),
    }
    return replace(entry, best=is_best.get(endpoint.better or "", False))


def _bounds(line: Line, endpoint: Endpoint, metric: str) -> tuple[float, float] | None:
    """Bounds between which a line's value may lie.

    Returns:
        None if they are unknown: a run has no interval, and the runs are too few for one over them.
    """
    runs = [m for cell in line.cells for m in cell["measurements"] if metric_of(m) == metric]
    if all(m["low"] is not None and m["high"] is not None for m in runs if m["value"] is not None):
        return endpoint.bounds
    low, high = interval_of(line, endpoint)
    if low is None or high is None:
        return None
    return min(low, endpoint.bounds[0]), max(high, endpoint.bounds[1])
