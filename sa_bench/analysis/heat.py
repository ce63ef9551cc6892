"""All measurements of a board in one table, methods by metrics, each column with its own heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.cell_text import format_against_base, format_small_print
from sa_bench.analysis.scales import Scale, find_span
from sa_bench.results.format import format_number, format_unit

STEPS = 8  # heat is one of 0 (the worst of the board) to 8 (the best)


@dataclass(frozen=True)
class HeatCell:
    """One measurement of one line."""

    text: str
    heat: int | None  # None where the metric has no direction, or the line no value
    detail: str
    value: float | None


@dataclass(frozen=True)
class HeatColumn:
    """One measurement over the lines of a board, in their order."""

    name: str
    cells: list[HeatCell]


def make_heat(board: Board, names: Sequence[str]) -> list[HeatColumn]:
    """Make the columns of those measurements that any line has a value of."""
    return [
        HeatColumn(name, _make_cells(board, name))
        for name in names
        if any(line.known(name) for line in board.lines)
    ]


def _make_cells(board: Board, name: str) -> list[HeatCell]:
    """Make the cells of one measurement; heat lies between the worst and the best of its column."""
    scale = Scale(*find_span(board.lines, name))
    return [_make_cell(line, line.endpoints.get(name), scale) for line in board.lines]


def _make_cell(line: Line, endpoint: Endpoint | None, scale: Scale) -> HeatCell:
    """Make the cell of one line."""
    if endpoint is None:
        return HeatCell("–", None, "failed" if not line.cells else "not measured", None)
    if endpoint.value is None:
        return HeatCell("n/a", None, endpoint.reason or "not measured", None)
    heat = None
    if endpoint.better in ("lower", "higher") and scale.high > scale.low:
        share = scale.share(endpoint.value)
        heat = round(STEPS * (share if endpoint.better == "higher" else 1 - share))
    detail = format_small_print(endpoint)
    if endpoint.base is not None:
        base = format_number(endpoint.base, endpoint.unit) + format_unit(endpoint.unit)
        detail += f"; base {base}, change {format_against_base(endpoint)}"
    text = format_number(endpoint.value, endpoint.unit).removesuffix(" %")
    return HeatCell(text, heat, detail, endpoint.value)
