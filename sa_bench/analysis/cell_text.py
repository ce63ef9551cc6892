"""The text of a board's cells, the same in every report: marks, values, small print, cost. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.wording import FEW, Notes, format_interval
from sa_bench.results.format import format_change, format_number, format_unit

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


def format_small_print(endpoint: Endpoint, brief: bool = False) -> str:
    """Format what stands under a value: its interval or points, its n, and the runs without a value.

    `brief` leaves out that a span of runs is the lowest to the highest; a tooltip says it.
    """
    runs, n = len(endpoint.points), format_count(endpoint.n, endpoint.n_unit)
    text = format_interval(endpoint, " to ") or "no interval"
    if 1 < runs < FEW or (runs > 1 and brief):
        text = f"{runs} runs: {text}"
    elif runs > 1:
        text = f"lowest to highest of {runs} runs: {text}"
    if n:
        text += f"; n\u00a0=\u00a0{n}" + (" a run" if runs > 1 and not brief else "")
    return text + (f"; {endpoint.missing} n/a: {endpoint.reason}" if endpoint.missing else "")


def format_against_base(endpoint: Endpoint) -> str:
    """Format the change against the base model, `-1.49 nats`; the value where no base was measured."""
    if endpoint.value is None or endpoint.base is None:
        return format_number(endpoint.value, endpoint.unit) + format_unit(endpoint.unit)
    return format_change(endpoint.value - endpoint.base, endpoint.unit)


def list_notes(board: Board) -> tuple[list[str], list[list[str]]]:
    """List the flags of a board's runs: those that every line carries, and the others of each line.

    Flags of a line that differ in their numbers alone are listed once, with the number of runs. What the
    line's sentence says already is left out.
    """
    flags = [
        [flag for cell in (*line.cells, *line.failed) for flag in cell["flags"]]
        for line in board.lines
    ]
    shared = set.intersection(*map(set, flags)) if len(flags) > 1 else set()
    everywhere = [flag for flag in dict.fromkeys(flags[0]) if flag in shared] if flags else []
    others = [
        [
            text
            for first, text in _join_alike([flag for flag in texts if flag not in shared])
            if first not in line.sentence
        ]
        for line, texts in zip(board.lines, flags, strict=True)
    ]
    return everywhere, others


def _join_alike(flags: Sequence[str]) -> list[tuple[str, str]]:
    """Join flags that are equal but for their numbers.

    Returns:
        For each group its first flag, and that flag with the number of its runs.
    """
    alike: dict[str, list[str]] = {}
    for flag in flags:
        alike.setdefault(re.sub(r"\d[\d.,]*", "#", flag), []).append(flag)
    texts = []
    for group in alike.values():
        differ = ", numbers differ" if len(set(group)) > 1 else ""
        runs = f" ({len(group)} runs{differ})" if len(group) > 1 else ""
        texts.append((group[0], group[0] + runs))
    return texts


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
