"""Two lines of a board against each other, in two sentences that must not be mistaken for one another.

*These checkpoints differ*: two models made from the same base and seed, paired over the images that both
were measured on. *The methods differ*: over forgetting runs crossed with base models, so that it holds for
another seed and another base. The first can be certain where the second is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sa_bench.board import Board, Line
from sa_bench.results import scores_of
from sa_bench.statistics import holm, over_bases, paired_p

FEWEST = 5  # shared runs below which there is no interval and no p


COMPARED = (
    "Two sentences, not one. *Methods differ*: over the runs that both have; with several base models Student's t over "
    "their means, so that it holds for another seed and another base, with a single one over its seeds, and nothing is "
    "said of another base. p by Holm over the three endpoints. *Checkpoints differ*: of the pairs made from the same "
    "base and seed, how many differ when paired over their images (p < .05), and in whose favour. Compared are methods "
    "that share five runs or more, collapsed ones only with each other."
)


@dataclass(frozen=True)
class Comparison:
    """One endpoint of two lines, over the runs that both have."""

    metric: str
    unit: str | None
    better: str | None
    a: str  # labels
    b: str
    difference: float  # a − b, the mean over base models of the mean over seeds
    low: float | None  # 95 % interval, for another seed, and for another base where there are several
    high: float | None
    p: float | None  # by Holm over the three endpoints
    runs: int
    bases: int
    for_a: int  # pairs of checkpoints in which a is better (p < .05, paired over images)
    for_b: int
    pairs: int  # pairs of which the scores are at hand


def comparisons(board: Board) -> list[Comparison]:
    """Every pair of methods that shares `FEWEST` runs or more, the three endpoints each.

    A collapsed line is compared with collapsed ones alone: beside a standing one its numbers mislead.
    """
    lines = [line for line in board.lines if line.standing == "method" and line.cells]
    found = []
    for a, b in combinations(lines, 2):
        if a.same_settings(b):  # one method of two origins: a reproduction
            continue
        if bool(a.collapsed) == bool(b.collapsed) and len(_shared(a, b)) >= FEWEST:
            found += _pair(board, a, b)
    return found


def _pair(board: Board, a: Line, b: Line) -> list[Comparison]:
    rows = [row for name in board.primary if (row := endpoint(name, a, b)) is not None]
    adjusted = holm([row.p for row in rows])
    return [Comparison(**{**row.__dict__, "p": p}) for row, p in zip(rows, adjusted, strict=True)]


def _shared(a: Line, b: Line) -> list[tuple[int, int]]:
    """(base seed, seed) of the runs that both lines have."""
    keys = [{(c["base_seed"], c["seed"]) for c in line.cells} for line in (a, b)]
    return sorted(keys[0] & keys[1])


def endpoint(name: str, a: Line, b: Line) -> Comparison | None:
    """Measurement `name` of two lines over the runs that both have; None if there is no such run."""
    cells = [{(c["base_seed"], c["seed"]): c for c in line.cells} for line in (a, b)]
    by_base = differences(name, a, b)
    if not by_base:
        return None
    facts, wins, pairs = a.endpoints[name], [0, 0], 0
    for key in _shared(a, b):
        scores = [scores_of(side[key], name) for side in cells]
        if any(s is None for s in scores) or len(scores[0]) != len(scores[1]):  # type: ignore[arg-type]
            continue
        pairs += 1
        if paired_p(*scores) < 0.05:  # type: ignore[arg-type]
            higher = bool(np.mean(scores[0]) > np.mean(scores[1]))  # type: ignore[arg-type]
            wins[higher == (facts.better == "lower")] += 1
    difference, low, high, p = over_bases(by_base)
    runs = sum(map(len, by_base.values()))
    if runs < FEWEST:
        low = high = p = None
    return Comparison(
        name, facts.unit, facts.better, a.label, b.label, difference, low, high, p, runs, len(by_base),
        wins[0], wins[1], pairs,
    )  # fmt: skip


def difference(row: Comparison) -> str:
    """`+2.10 nats (95 %: 1.80 to 2.40)`; differences of rates in points."""
    rate = row.unit in ("rate", "probability")

    def text(value: float, sign: str = "") -> str:
        return format(100 * value, f"{sign}.1f") if rate else format(value, f"{sign}.2f")

    unit = " points" if rate else f" {row.unit}" if row.unit else ""
    out = f"{text(row.difference, '+')}{unit}"
    if row.low is not None and row.high is not None:
        out += f" (95 %: {text(row.low)} to {text(row.high)})"
    return out


def checkpoints(row: Comparison) -> str:
    """`24 of 24 for sa`; what the pairs of checkpoints say."""
    if not row.pairs:
        return "scores not at hand"
    parts = [f"{n} of {row.pairs} for {label}" for n, label in ((row.for_a, row.a), (row.for_b, row.b)) if n]
    return ", ".join(parts) or f"none of {row.pairs}"


def differences(name: str, a: Line, b: Line) -> dict[int, list[float]]:
    """Base model to a − b of measurement `name`, over the seeds that both lines have on it."""
    cells = [{(c["base_seed"], c["seed"]): c for c in line.cells} for line in (a, b)]
    found: dict[int, list[float]] = {}
    for key in _shared(a, b):
        rows = [_row(side[key], name) for side in cells]
        values = [row["value"] for row in rows if row is not None and row["value"] is not None]
        if len(values) == 2:
            found.setdefault(key[0], []).append(values[0] - values[1])
    return found


def _row(cell: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((m for m in cell["measurements"] if m["name"] == name), None)
