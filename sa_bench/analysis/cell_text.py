"""The text of a board's cells, the same in every report: marks, values, small print, cost. No torch."""

from __future__ import annotations

from sa_bench.analysis.board import Endpoint, Line
from sa_bench.analysis.wording import FEW, Notes, format_interval
from sa_bench.results.format import format_number, format_unit

ENDPOINTS = ("still shown", "comes back", "kept")
"""The words for the three endpoints of a board, in the order of `Board.primary`."""
DASH = "–"  # what does not apply to a line


def format_endpoint(
    endpoint: Endpoint | None, notes: Notes, unit: bool = False, interval: bool = True
) -> str:
    """Format a value with its interval, `0.3 % (0.1 to 0.5)`, and its unit unless a heading has it.

    Without `interval` the value stands alone.

    Without a value it is n/a and the number of the reason in `notes`.
    """
    if endpoint is None or endpoint.value is None:
        return format_missing(endpoint, notes)
    text = format_number(endpoint.value, endpoint.unit)
    spread = format_interval(endpoint, " to ").removesuffix(" %") if interval else ""
    if spread:
        text += f" ({spread})"
    return text + (format_unit(endpoint.unit) if unit else "")


def format_missing(endpoint: Endpoint | None, notes: Notes) -> str:
    """Format a value that is missing: n/a and the number of the reason in `notes`."""
    return f"n/a [{notes.number(endpoint)}]"


def format_small_print(endpoint: Endpoint) -> str:
    """Format what stands under a value: its interval or points, its n, and the runs without a value."""
    runs, n = len(endpoint.points), format_count(endpoint.n, endpoint.n_unit)
    text = format_interval(endpoint, " to ") or "no interval"
    if 1 < runs < FEW:
        text = f"{runs} runs: {text}"
    elif runs > 1:
        text = f"lowest to highest of {runs} runs: {text}"
    if n:
        text += f"; n\u00a0=\u00a0{n}" + (" a run" if runs > 1 else "")
    return text + (f"; {endpoint.missing} n/a: {endpoint.reason}" if endpoint.missing else "")


def format_count(n: int | None, what: str | None) -> str:
    """Format a count, `200 images`, that is never broken over two lines; "" for 0 and None."""
    return f"{n:,}\u00a0{what or 'image'}{'' if n == 1 else 's'}" if n else ""


def mark_rank(line: Line) -> str:
    """Return a line's rank; a dash for one that is not ranked."""
    return str(line.rank or DASH)


def format_cost(line: Line, clock: bool = False) -> str:
    """Format the mean seconds of forgetting, with their clock unless a heading has it; n/a without."""
    if not line.cells:
        return DASH
    if line.seconds is None:
        return "n/a"
    return f"{line.seconds:.0f}" + (f" {line.clock}" if clock else "")


def count_runs(line: Line) -> str:
    """Count the runs of a line, and those that failed."""
    return f"{len(line.cells)}" + (f", {len(line.failed)} failed" if line.failed else "")
