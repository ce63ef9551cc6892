"""Leaderboards for papers: any selection of tasks, methods and metrics, one table a board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sa_bench.board import Board, Endpoint, Line
from sa_bench.cli_text import split
from sa_bench.errors import SaBenchError, unknown
from sa_bench.ranking import boards
from sa_bench.results import metric_of
from sa_bench.tables import Column, Entry, Row, Table, by_metric, filled, interval_of, notes_on
from sa_bench.wording import FRONT


def leaderboard(
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
    found = of_tasks(boards(results), task)
    wanted = names(methods, [line for board in found for line in board.lines if line.cells])
    asked, tables, known = _listed(metrics), [], {}
    for board in found:
        lines = selected([line for line in board.lines if line.cells], wanted)
        here = {m: e for line in lines for m, e in by_metric(line).items()}
        known |= here
        primary = [m for name in board.primary if (m := name.partition("[")[0]) in here]
        if lines and any(m in here for m in asked or primary):
            tables.append(_table(board, lines, asked or primary, bool(asked), here))
    if missing := [m for m in asked if known and m not in known]:
        raise unknown("metric of these results", missing[0], known)
    if not tables:
        raise SaBenchError("Nothing of that is among these results. See `python -m sa_bench report RUN`.")
    return tables


def of_tasks(found: Sequence[Board], task: str | Sequence[str]) -> list[Board]:
    """The boards of these tasks, `a,b` or a list; empty: all.

    Raises:
        SaBenchError: there is no board of one of them.
    """
    tasks, known = _listed(task), {board.task for board in found}
    if missing := [name for name in tasks if name not in known]:
        raise unknown("task of these results", missing[0], known)
    return [board for board in found if not tasks or board.task in tasks]


def names(methods: str | Sequence[str], lines: Iterable[Line]) -> list[str]:
    """The names and labels in `a,b` or a list; a label may hold a comma itself.

    Raises:
        SaBenchError: no line has one of them.
    """
    lines = list(lines)
    known, parts, found = {x for line in lines for x in (line.label, line.method)}, _listed(methods), []
    while parts:
        ends = [i for i in range(len(parts), 0, -1) if ", ".join(parts[:i]) in known]
        if not ends:
            raise unknown("method with a result here", parts[0], known)
        found.append(", ".join(parts[: ends[0]]))
        parts = parts[ends[0] :]
    return found


def selected(lines: Sequence[Line], wanted: Sequence[str]) -> list[Line]:
    """The lines of these names or labels, in their order; all, where none is named."""
    if not wanted:
        return list(lines)
    found = [line for line in lines if line.label in wanted or line.method in wanted]
    return sorted(found, key=lambda x: wanted.index(x.label if x.label in wanted else x.method))


def _listed(text: str | Sequence[str]) -> list[str]:
    return (split(text) if text else []) if isinstance(text, str) else list(text)


def _table(
    board: Board, lines: Sequence[Line], metrics: Sequence[str], alone: bool, known: Mapping[str, Endpoint]
) -> Table:
    """The table of a board; `alone`: the metrics were asked for, so no other column stands beside them."""
    columns = [Column(m, known[m].unit, known[m].better) if m in known else Column(m) for m in metrics]
    columns += [] if alone else [Column("Pareto front"), Column(board.cost_title, "s", "lower")]
    rows = []
    for line in lines:
        row = [_ranked(by_metric(line).get(m), board, line, lines, m) for m in metrics]
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
    value = None if line.place == "–" else float(line.front)
    return Entry(line.place, value=value, runs=len(line.cells), scale=board.scale)


def _cost(line: Line, board: Board) -> Entry:
    if line.seconds is None:
        return Entry(reason="cost not recorded")
    return Entry(f"{line.seconds:.0f}", value=line.seconds, runs=len(line.cells), scale=board.scale)


def _ranked(found: Endpoint | None, board: Board, line: Line, lines: Sequence[Line], metric: str) -> Entry:
    if found is None:
        return Entry(reason="not measured")
    entry = filled(found, line, board, None, "")
    others = [
        (other, e) for other in lines if other is not line and other.standing == "method" and not other.collapsed
        and other.threat == line.threat
        and (e := by_metric(other).get(metric)) is not None and e.value is not None
    ]  # fmt: skip
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
    return None if low is None or high is None else (min(low, found.bounds[0]), max(high, found.bounds[1]))
