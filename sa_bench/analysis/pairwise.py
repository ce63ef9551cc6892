"""Two lines of a board against each other, in two sentences that must not be mistaken for one another.

*These checkpoints differ*: two models made from the same base and seed, paired over the images that both
were measured on, or over their prompts where several images come from one. *The methods differ*: over forgetting
runs crossed with base models, so that it holds for another seed and another base. The first can be certain where
the second is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line, Row, run_of
from sa_bench.results.files import read_columns_of
from sa_bench.statistics import ALPHA, clustered, holm, over_bases

FEWEST = 5  # shared runs below which there is no interval and no p


COMPARED = (
    "Two sentences, not one. *Methods differ*: over the runs that both have; with several base models Student's t over "
    "their means, so that it holds for another seed and another base, with a single one over its seeds, and nothing is "
    "said of another base. p by Holm over the three endpoints. *Checkpoints differ*: of the pairs made from the same "
    "base and seed, how many differ when paired over their images, or over prompts where several images come from one (p < "
    ".05), and in whose favour. Compared are methods that share five runs or more, collapsed ones only with each other."
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
    low: float | None
    """95 % interval, for another seed, and for another base where there are several."""
    high: float | None
    p: float | None  # by Holm over the three endpoints
    runs: int
    bases: int
    for_a: int  # pairs of checkpoints in which a is better (p < .05, paired over images or prompts)
    for_b: int
    pairs: int  # pairs of which the scores are at hand


def compare_all_pairs(board: Board) -> list[Comparison]:
    """Every pair of methods that shares `FEWEST` runs or more, the three endpoints each.

    A collapsed line is compared with collapsed ones alone: beside a standing one its numbers mislead.
    """
    lines = [line for line in board.lines if line.standing == "method" and line.cells]
    found = []
    for a, b in combinations(lines, 2):
        if a.same_settings(b):  # one method of two origins: a reproduction
            continue
        if bool(a.collapsed) == bool(b.collapsed) and len(shared_runs(a, b)) >= FEWEST:
            found += _pair(board, a, b)
    return found


def _pair(board: Board, a: Line, b: Line) -> list[Comparison]:
    rows = [row for name in board.primary if (row := compare_endpoint(name, a, b)) is not None]
    adjusted = holm([row.p for row in rows])
    return [Comparison(**{**row.__dict__, "p": p}) for row, p in zip(rows, adjusted, strict=True)]


def shared_runs(a: Line, b: Line) -> list[tuple[int, int, int]]:
    """The runs that both lines have, each as `run_of` says it."""
    keys = [{run_of(c) for c in line.cells} for line in (a, b)]
    return sorted(keys[0] & keys[1])


def cells_by_run(line: Line) -> dict[tuple[int, int, int], Row]:
    """Run (`run_of`) to the line's cell."""
    return {run_of(c): c for c in line.cells}


@dataclass(frozen=True)
class Scores:
    """Two models' scores on the same images, all of one length, in one order."""

    a: np.ndarray
    b: np.ndarray
    prompts: np.ndarray | None  # the number of the prompt behind each; None: images are the units
    keys: Any  # what names the images, to find the same ones in another pair


def paired_scores(a: Row, b: Row, name: str) -> Scores | str:
    """Measurement `name` of two results on the images that both have, or why there is no such pair.

    Images are told by prompt and seed; of a class-conditional task they are all there, in the task's order.
    """
    left, right = read_columns_of(a, name), read_columns_of(b, name)
    if not left or not right:
        return "per-image scores are not at hand"
    if a["task_values"].get("prompts"):
        if "prompt" not in left or "prompt" not in right:
            return "the scores do not say which prompt each is of (pack the run folder again)"
        keys = [
            list(zip(s["prompt"].tolist(), s["seed"].tolist(), strict=True)) for s in (left, right)
        ]
        rows = [{key: i for i, key in enumerate(side)} for side in keys]
        common = sorted(rows[0].keys() & rows[1].keys())
        if any(len(r) < len(k) for r, k in zip(rows, keys, strict=True)) and keys[0] != keys[1]:
            return "two of the images have one prompt and one seed"
        if keys[0] != keys[1]:
            left, right = (
                {k: v[[r[key] for key in common]] for k, v in side.items()}
                for side, r in zip((left, right), rows, strict=True)
            )
    same = len(left["score"]) == len(right["score"])
    if not same or len(left["score"]) < 2:
        return "fewer than two images in common" if same else "they were measured on other images"
    if not np.isfinite(left["score"]).all() or not np.isfinite(right["score"]).all():
        return "some scores are not finite"
    prompts = left.get("prompt") if a["task_values"].get("prompts") else None
    keys = len(left["score"]) if prompts is None else (prompts.tolist(), left["seed"].tolist())
    return Scores(left["score"], right["score"], prompts, keys)


def is_rate(unit: str | None) -> bool:
    """Whether scores lie in [0, 1] and differences are told in points."""
    return unit in ("rate", "probability")


def compare_endpoint(name: str, a: Line, b: Line) -> Comparison | None:
    """Measurement `name` of two lines over the runs that both have; None if there is no such run."""
    left, right = cells_by_run(a), cells_by_run(b)
    by_base = differences_by_base(name, a, b)
    if not by_base:
        return None
    facts, wins, pairs = a.endpoints[name], [0, 0], 0
    for key in shared_runs(a, b):
        scores = paired_scores(left[key], right[key], name)
        if isinstance(scores, str):
            continue
        pairs += 1
        found = clustered.paired(scores.a, scores.b, scores.prompts, is_rate(facts.unit))
        if found.p < ALPHA:
            wins[(found.difference > 0) == (facts.better == "lower")] += 1
    difference, low, high, p = over_bases(by_base)
    runs = sum(map(len, by_base.values()))
    if runs < FEWEST:
        low = high = p = None
    return Comparison(
        name,
        facts.unit,
        facts.better,
        a.label,
        b.label,
        difference,
        low,
        high,
        p,
        runs,
        len(by_base),
        wins[0],
        wins[1],
        pairs,
    )


def format_difference_of(row: Comparison) -> str:
    """`+2.10 nats (95 %: 1.80 to 2.40)`; differences of rates in points."""
    return format_difference(row.difference, row.low, row.high, row.unit)


def format_difference(value: float, low: float | None, high: float | None, of: str | None) -> str:
    """A difference of an endpoint with the unit `of`, with its interval if there is one."""

    def text(number: float, sign: str = "") -> str:
        return format(100 * number, f"{sign}.1f") if is_rate(of) else format(number, f"{sign}.2f")

    unit = " points" if is_rate(of) else f" {of}" if of else ""
    out = f"{text(value, '+')}{unit}"
    if low is not None and high is not None:
        out += f" (95 %: {text(low)} to {text(high)})"
    return out


def format_checkpoints(row: Comparison) -> str:
    """`24 of 24 for sa`; what the pairs of checkpoints say."""
    if not row.pairs:
        return "scores not at hand"
    parts = [
        f"{n} of {row.pairs} for {label}"
        for n, label in ((row.for_a, row.a), (row.for_b, row.b))
        if n
    ]
    return ", ".join(parts) or f"none of {row.pairs}"


def differences_by_base(name: str, a: Line, b: Line) -> dict[int, list[float]]:
    """Base model to a − b of measurement `name`, over the seeds that both lines have on it."""
    cells = (cells_by_run(a), cells_by_run(b))
    found: dict[int, list[float]] = {}
    for key in shared_runs(a, b):
        rows = [find_measurement(side[key], name) for side in cells]
        values = [row["value"] for row in rows if row is not None and row["value"] is not None]
        if len(values) == 2:
            found.setdefault(key[0], []).append(values[0] - values[1])
    return found


def find_measurement(cell: Row, name: str) -> Row | None:
    """A result's measurement by name."""
    return next((m for m in cell["measurements"] if m["name"] == name), None)
