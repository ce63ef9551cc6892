"""What a scale of one measurement spans on a board, and what lies beyond its edge.

Every picture uses this one rule: the plots and cells of a page, and the figures of a paper. A scale
spans the values with their intervals. A collapsed row, or one far from all others, would press the
others into one spot; it is drawn at the edge, with its value beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sa_bench.analysis.attacks import find_floors
from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.results.format import is_rate

FAR = 10.0  # how many spans of the middle half a value may lie beyond that half


@dataclass(frozen=True)
class Scale:
    """The span of a scale, in units of its measurement."""

    low: float
    high: float
    tick: float | None = (
        None  # what values are compared with: the gate, the floor or the base model
    )

    def clip(self, value: float) -> tuple[float, str]:
        """Move a value into the scale.

        Returns:
            The value, and where it was: `below`, `above`, or "" for one that was inside.
        """
        if value < self.low:
            return self.low, "below"
        return (self.high, "above") if value > self.high else (value, "")

    def share(self, value: float) -> float:
        """Place a value on the scale: 0 at its low end, 1 at its high end, never beyond."""
        return (self.clip(value)[0] - self.low) / ((self.high - self.low) or 1.0)


def find_ends(endpoint: Endpoint) -> tuple[float, float]:
    """Find the ends of an endpoint's interval, which hold its value; it stands for an end that is lacking."""
    value = endpoint.value or 0.0
    # rounding may put the mean of equal values outside of them
    return (
        value if endpoint.low is None else min(value, endpoint.low),
        value if endpoint.high is None else max(value, endpoint.high),
    )


def find_span(lines: Sequence[Line], name: str) -> tuple[float, float]:
    """Find the span of measurement `name` over lines that have it, less what is far from the others.

    References and targets always count, collapsed lines only where there are no others.

    Raises:
        ValueError: no line has a value.
    """
    measured = [(line, endpoint) for line in lines if (endpoint := line.known(name))]
    kept = [pair for pair in measured if not pair[0].collapsed] or measured
    quarter, three_quarters = np.quantile(
        [endpoint.value or 0.0 for _, endpoint in kept], [0.25, 0.75]
    )
    # with one value in more than half of the rows nothing says what is far
    reach = FAR * float(three_quarters - quarter) or np.inf
    near = [
        endpoint
        for line, endpoint in kept
        if line.standing in ("reference", "target")
        or quarter - reach <= (endpoint.value or 0.0) <= three_quarters + reach
    ]
    ends = [end for endpoint in near for end in find_ends(endpoint)]
    return min(ends), max(ends)


def find_scale(board: Board, name: str) -> Scale | None:
    """Find the scale of a primary endpoint in the cells of a board; None if no line has a value.

    Rates span 0 to 1. Its tick is the gate for forgetting, the floor for recovery, and the mean base
    model for what was kept.
    """
    measured = [endpoint for line in board.lines if (endpoint := line.known(name))]
    if not measured:
        return None
    tick = _find_tick(board, name)
    if is_rate(measured[0].unit):
        return Scale(0.0, 1.0, tick)
    low, high = find_span(board.lines, name)
    ends = [low, high, *([] if tick is None else [tick])]
    return Scale(min(ends), max(ends), tick)


def _find_tick(board: Board, name: str) -> float | None:
    """Find what an endpoint's values are compared with; None without it."""
    if name == board.primary[0]:
        return board.chance
    if name == board.primary[1] and board.excess:
        return 0.0
    if name == board.primary[1]:
        floor = find_floors(board).get(name)
        return None if floor is None else floor.value
    bases = [
        endpoint.base
        for line in board.lines
        if (endpoint := line.known(name)) and endpoint.base is not None
    ]
    return float(np.mean(bases)) if bases else None
