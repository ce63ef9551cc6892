"""What a person sees while a run works and when it has finished.

Progress is bars on a terminal, and lines elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sa_bench.analysis import cell_text
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import Notes
from sa_bench.commands.progress import ProgressLog
from sa_bench.core.escaping import escape_terminal
from sa_bench.engine.cells import Cell, title_cells
from sa_bench.results.format import format_number
from sa_bench.results.schema import ResultRow

WIDE = 110  # columns of a terminal from which on a table shows intervals, cost and runs


class Live:
    """Progress of every working cell: its stage, count, rate and remaining time.

    A terminal shows a bar for each cell; a log file gets lines (`ProgressLog`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Write progress to stderr; results go to stdout."""
        self.console = Console(stderr=True)
        self.log = None if self.console.is_terminal else ProgressLog(self._say, clock)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
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
        self._say(f"{len(cells)} cell(s): {names}; {seeds}")

    def update(self, cell: str, stage: str, done: int, total: int) -> None:
        """Show a stage's progress."""
        title = self.titles.get(cell.rpartition("-")[2], cell)
        if self.log is not None:
            self.log.update(cell, title, stage, done, total)
            return
        text = escape_terminal(f"{title}: {stage}")
        if cell not in self.bars or self.stages[cell] != stage:
            if cell in self.bars:
                self.progress.remove_task(self.bars[cell])
            self.bars[cell] = self.progress.add_task(text, total=total, rate="")
            self.stages[cell] = stage
        bar = self.bars[cell]
        self.progress.update(bar, completed=done, total=total)
        speed = next((t.speed for t in self.progress.tasks if t.id == bar), None)
        self.progress.update(bar, rate=f"{speed:,.0f}/s" if speed else "")

    def finish(self, result: ResultRow) -> None:
        """Print that a cell is done, or why it failed."""
        self.done += 1
        name = next((n for n in self.bars if n.endswith(result["cell"])), None)
        if name is not None:
            self.progress.remove_task(self.bars.pop(name))
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


def print_boards(results: Sequence[ResultRow]) -> None:
    """Print for each board the answer, a sentence per line, then the three endpoints."""
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
        notes = Notes()
        console.print(_endpoint_table(board, notes, wide=console.width >= WIDE))
        for number, reason in enumerate(notes.reasons, 1):
            console.print(escape_terminal(f"  [{number}] {reason}"), markup=False, highlight=False)


def _format_tag(line: Line) -> str:
    """Format what must be known of a line beside its name; a service's rank is among services."""
    return f" [{line.tag}]" if line.tag else ""


def _new_table(*headings: str) -> Table:
    """Make a table with these headings."""
    table = Table(title=None, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(Text(escape_terminal(heading)), overflow="fold")
    return table


def _add_row(table: Table, *cells: str) -> None:
    """Add a row of plain texts to a table."""
    # as Text: in a plain string rich would take the brackets of `fid[judge-mnist]` for a style
    table.add_row(*(Text(escape_terminal(cell)) for cell in cells))


def _endpoint_table(board: Board, notes: Notes, wide: bool) -> Table:
    """Make the table of outcomes and endpoints, a row per line of the board.

    A narrow one has the values alone; a `wide` one their intervals, the front, cost and runs too.
    """
    ranked = any(line.rank for line in board.lines)
    headings = ["method", "outcome", "still shown", "comes back", "kept"]
    further = ["front", "cost", "runs"] if wide else []
    table = _new_table(*(["#"] if ranked else []), *headings, *further)
    for line in board.lines:
        values = [
            cell_text.format_endpoint(line.endpoints.get(name), notes, unit=True, interval=wide)
            if line.cells
            else cell_text.DASH
            for name in board.primary
        ]
        service = " [service]" if line.threat == "service" else ""
        cells = [line.label + service, line.outcome.word, *values]
        if wide:
            cost = cell_text.format_cost(line, clock=True)
            cells += [line.pareto_label, cost, cell_text.count_runs(line)]
        _add_row(table, *([cell_text.mark_rank(line)] if ranked else []), *cells)
    return table


def print_measurements(result: ResultRow) -> None:
    """Print all measurements of one result."""
    console = Console()
    table = _new_table("metric", "value", "95 % interval", "n", "base", "better")
    for m in result["measurements"]:
        unit = m["unit"]
        interval = (
            ""
            if m["low"] is None
            else f"{format_number(m['low'], unit)} to {format_number(m['high'], unit)}"
        )
        value = format_number(m["value"], unit) if m["value"] is not None else f"n/a: {m['reason']}"
        count = f"{m['n']} {m['n_unit']}s" if m["n"] else ""
        _add_row(
            table,
            m["name"],
            value,
            interval,
            count,
            format_number(m["base"], unit),
            m["better"] or "–",
        )
    console.print(table)
    for flag in result["flags"]:
        console.print(escape_terminal(f"note: {flag}"), markup=False, highlight=False)
