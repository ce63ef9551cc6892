"""What a person sees while a run works and when it has finished.

Progress is bars on a terminal, and lines elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sa_bench.analysis import cell_text
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import Notes
from sa_bench.commands.columns import Column, choose_layout, narrowest_width, print_columns
from sa_bench.commands.progress import ProgressLog
from sa_bench.core.counts import describe_count
from sa_bench.core.escaping import escape_terminal
from sa_bench.engine.cells import Cell, title_cells
from sa_bench.engine.needs import describe_unfit
from sa_bench.results.format import format_number
from sa_bench.results.schema import Measurement, ResultRow

WIDE = 100  # columns of a terminal that leave room for bars


class Live:
    """Progress of every worker: its cell and stage, where it works, count, rate and remaining time.

    A terminal shows a row for each worker; a log file gets lines (`ProgressLog`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Write progress to stderr; results go to stdout."""
        self.console = Console(stderr=True)
        self.log = None if self.console.is_terminal else ProgressLog(self._say, clock)
        self.progress = Progress(
            TextColumn("{task.fields[worker]}", markup=False),
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=24)] if self.console.width >= WIDE else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.bars: dict[str, Any] = {}
        self.stages: dict[str, str] = {}
        self.total = self.done = 0
        self.titles: dict[str, str] = {}  # cell id to title

    def _say(self, text: str) -> None:
        """Print a message to stderr."""
        # a log file gets one line per message, however long; a terminal wraps at words
        self.console.print(
            escape_terminal(text),
            markup=False,
            highlight=False,
            soft_wrap=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Start the display."""
        self.progress.start()
        if self.log is not None:
            self.log.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the display."""
        self.progress.stop()
        if self.log is not None:
            self.log.stop()

    def announce(self, cells: Sequence[Cell]) -> None:
        """Print what is about to run."""
        self.total, self.titles = len(cells), title_cells(cells)
        tasks, methods = (
            dict.fromkeys(n) for n in ((c.task.name for c in cells), (c.method for c in cells))
        )
        names = f"{', '.join(tasks)} × {', '.join(methods)}"
        seeds = f"bases {_list_numbers(c.base_seed for c in cells)}, seeds {_list_numbers(c.seed for c in cells)}"
        self._say(f"{describe_count(len(cells), 'cell')}: {names}; {seeds}")
        for text in describe_unfit({c.task.name: c.task for c in cells}.values()):
            self._say(f"n/a: {text}")

    def update(self, cell: str, stage: str, done: int, total: int, worker: str = "") -> None:
        """Show a stage's progress; `worker` says who is at it, "" if there is only one."""
        title = self.titles.get(cell.rpartition("-")[2], cell)
        if self.log is not None:
            self.log.update(cell, title, stage, done, total)
            return
        if worker:  # its name takes room
            title = title.replace(" (base ", ", b").replace(", seed ", " s").removesuffix(")")
        row, text = worker or cell, escape_terminal(f"{title}: {stage}")
        if self.stages.get(row) != text:
            if row in self.bars:
                self.progress.remove_task(self.bars[row])
            shown = escape_terminal(worker)
            self.bars[row] = self.progress.add_task(text, total=total, rate="", worker=shown)
            self.stages[row] = text
        bar = self.bars[row]
        self.progress.update(bar, completed=done, total=total)
        speed = next((t.speed for t in self.progress.tasks if t.id == bar), None)
        self.progress.update(bar, rate=f"{speed:,.0f}/s" if speed else "")

    def finish(self, result: ResultRow) -> None:
        """Print that a cell is done, or why it failed."""
        self.done += 1
        row = next((row for row in self.bars if row.endswith(result["cell"])), None)
        if row is not None:  # a row of a worker stays: it goes on with something else
            self.progress.remove_task(self.bars.pop(row))
            self.stages.pop(row)
        if self.log is not None:
            self.log.finish(result["cell"])
        seconds = sum(c.get("wall_s", 0) for c in result["cost"].values() if not c.get("cached"))
        state = (
            f"done, {seconds:.0f} s of new work"
            if result["status"] == "done"
            else f"FAILED: {result['error']}"
        )
        label = self.titles.get(result["cell"], result["method"])
        self._say(f"[{self.done}/{self.total}] {label}: {state}")


def _list_numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def print_boards(results: Sequence[ResultRow], wide: bool = False) -> None:
    """Print for each board the answer, a sentence per line, then the three endpoints.

    The table has the columns that the terminal has room for; with `wide` it has all, and its rows
    may be longer than a line.
    """
    console = Console()
    console.soft_wrap = not console.is_terminal  # whole sentences in a log
    for board in make_boards(results):
        console.print(
            escape_terminal(f"\n{board.title} · scale {board.scale}"),
            style="bold",
            markup=False,
            highlight=False,
        )
        console.print(escape_terminal(board.headline), markup=False, highlight=False)
        console.print()
        for line in board.lines:
            console.print(
                escape_terminal(f"  {line.label}{_format_tag(line)}: {line.sentence}"),
                markup=False,
                highlight=False,
            )
        columns, notes = endpoint_columns(board, None if wide else console.width)
        print_columns(columns, console.width, wide)
        for number, reason in enumerate(notes.reasons, 1):
            console.print(escape_terminal(f"  [{number}] {reason}"), markup=False, highlight=False)


def _format_tag(line: Line) -> str:
    """Format what must be known of a line beside its name; a service's rank is among services."""
    return f" [{line.tag}]" if line.tag else ""


def endpoint_columns(board: Board, width: int | None) -> tuple[list[Column], Notes]:
    """Choose the columns of outcomes and endpoints, a row per line of the board.

    Args:
        board: has the lines.
        width: of the terminal, in characters; None takes all columns. The more room there is, the
            more is shown: intervals, runs, cost, the front.

    Returns:
        The columns, and the reasons that their cells number.
    """
    layouts = (
        (" ", ("outcome", "front", "cost", "runs")),
        ("\n", ("outcome", "front", "cost", "runs")),
        ("\n", ("outcome", "cost", "runs")),
        ("\n", ("outcome", "runs")),
        ("", ("outcome", "runs")),
        ("", ("outcome",)),
        ("", ()),  # the sentences above the table have the outcomes too
    )
    columns, notes = [], Notes()
    for between, further in layouts:
        columns, notes = _make_columns(board, between, further)
        if width is None or narrowest_width(columns) <= width:
            break
    return columns, notes


def _make_columns(
    board: Board, between: str, further: Collection[str]
) -> tuple[list[Column], Notes]:
    """Make the columns of a layout.

    Args:
        board: has the lines.
        between: what stands between a value and its interval; "" leaves intervals out.
        further: headings of the columns beside rank, method and endpoints.
    """
    notes, lines = Notes(), board.lines
    values = [
        [_format_cell(line, name, notes, between) for name in board.primary] for line in lines
    ]
    services = [" [service]" if line.threat == "service" else "" for line in lines]
    labels = [line.label + service for line, service in zip(lines, services, strict=True)]
    columns = {
        "#": Column("#", [cell_text.mark_rank(line) for line in lines]),
        "method": Column("method", labels, wraps=True),
        "outcome": Column("outcome", [line.outcome.word for line in lines]),
        **{
            heading: Column(heading, [row[i] for row in values])
            for i, heading in enumerate(("still shown", "comes back", "kept"))
        },
        "front": Column("front", [line.pareto_label for line in lines], wraps=True),
        "cost": Column("cost", [cell_text.format_cost(line, clock=True) for line in lines]),
        "runs": Column("runs", [cell_text.count_runs(line) for line in lines]),
    }
    left_out = {"outcome", "front", "cost", "runs"} - set(further)
    if not any(line.rank for line in lines):
        left_out.add("#")
    return [column for name, column in columns.items() if name not in left_out], notes


def _format_cell(line: Line, name: str, notes: Notes, between: str) -> str:
    """Format an endpoint of a line, its interval after `between`; without one if that is ""."""
    if not line.cells:
        return cell_text.DASH
    text = cell_text.format_endpoint(
        line.endpoints.get(name), notes, unit=True, interval=bool(between)
    )
    return text.replace(" (", f"{between}(", 1) if between else text


def print_measurements(result: ResultRow, wide: bool = False) -> None:
    """Print all measurements of one result.

    The table has the columns that the terminal has room for; with `wide` it has all.
    """
    console, rows, reasons = Console(), result["measurements"], Notes()
    columns = [
        Column("metric", [m["name"] for m in rows]),
        Column("value", [_format_value(m, reasons) for m in rows]),
        Column("95 % interval", [_format_range(m) for m in rows]),
        Column("n", [cell_text.format_count(m["n"], m["n_unit"]) for m in rows]),
        Column("base", [format_number(m["base"], m["unit"]) for m in rows]),
        Column("better", [m["better"] or cell_text.DASH for m in rows]),
    ]
    layouts = [columns, columns[:-1], columns[:-2], columns[:-3], columns[:-4]]
    columns = columns if wide else choose_layout(layouts, console.width)
    print_columns(columns, console.width, wide)
    for number, reason in enumerate(reasons.reasons, 1):
        console.print(escape_terminal(f"  [{number}] {reason}"), markup=False, highlight=False)
    for flag in result["flags"]:
        console.print(escape_terminal(f"note: {flag}"), markup=False, highlight=False)


def _format_value(m: Measurement, notes: Notes) -> str:
    """Format a measurement's value with its unit, or n/a and the number of the reason."""
    if m["value"] is None:
        return f"n/a [{notes.number_reason(m['reason'])}]"
    return format_number(m["value"], m["unit"])


def _format_range(m: Measurement) -> str:
    """Format a measurement's interval, with its unit once: `0.3 to 0.5 %`; "" without one."""
    if m["low"] is None:
        return ""
    low, high = (format_number(m[end], m["unit"]) for end in ("low", "high"))
    return f"{low.removesuffix(' %')} to {high}"
