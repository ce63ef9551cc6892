"""Two lines of a board against each other, in two statements that must not be confused.

*These checkpoints differ*: two models made from the same base model and seed, paired over the
images that both were measured on, or over prompts where several images come from one. *The methods
differ*: over forgetting runs crossed with base models, so that it holds for another seed and
another base model. The first statement can be certain where the second is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line, run_of
from sa_bench.results.files import read_columns_of
from sa_bench.results.format import format_change, is_rate, unit_of_change
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.statistics import ALPHA, clustered, holm, over_bases

MATRIX = 24  # methods that a page compares with each other: more fit on none
FEWEST = 5  # below this number of shared runs there is no interval and no p

LEFT_OUT = (
    "This page compares no more methods of the board with each other; these two can be compared by "
    "python -m sa_bench compare."
)
"""Why a pair is not among those of `compare_first`, though nothing speaks against comparing it."""

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
    """Of the 95 % interval, for another seed; with several base models also for another one."""
    high: float | None
    p: float | None  # adjusted by Holm over the three endpoints
    runs: int
    bases: int
    for_a: int  # pairs of checkpoints in which a is better (p < .05, paired over images or prompts)
    for_b: int
    pairs: int  # pairs of checkpoints whose scores are stored


def compare_all_pairs(board: Board) -> list[Comparison]:
    """Compare every pair of methods that shares `FEWEST` runs or more on the three endpoints.

    A collapsed line is compared only with collapsed ones: beside others its numbers mislead.
    """
    lines = [line for line in board.lines if line.standing == "method" and line.cells]
    comparisons = []
    for a, b in combinations(lines, 2):
        if not explain_missing(a, b):
            comparisons += _compare_pair(board, a, b)
    return comparisons


def explain_missing(a: Line, b: Line) -> str:
    """Explain why two lines of a board are not compared with each other; "" if they are."""
    for line in (a, b):
        if line.standing != "method":
            return f"Only methods are compared with each other; {line.label} is a {line.standing}."
        if not line.cells:
            return f"No run of {line.label} was finished."
    if a.same_settings(b):
        return "Both are one method with the same settings: the one repeats the other."
    if bool(a.collapsed) != bool(b.collapsed):
        return "One of them collapsed; beside a method that did not, its numbers mislead."
    shared = len(shared_runs(a, b))
    if shared < FEWEST:
        return f"Of base models and seeds they share {shared}; a comparison takes {FEWEST}."
    return ""


def compare_first(board: Board) -> tuple[list[Comparison], int]:
    """Compare the methods that a page can show against each other: `MATRIX` at most.

    Of more, those on the front come first, then the ranked ones, then the others in the board's order.

    Returns:
        The comparisons, and how many methods were left out.
    """
    methods = [line for line in board.lines if line.standing == "method" and line.cells]
    by_worth = sorted(methods, key=lambda line: (not line.front, line.rank is None))
    chosen = {id(line) for line in by_worth[:MATRIX]}
    part = replace(board, lines=[line for line in methods if id(line) in chosen])
    return compare_all_pairs(part), len(methods) - len(part.lines)


@dataclass(frozen=True)
class Matrix:
    """Every compared method against every other, in the order of the board."""

    labels: list[str]
    cells: dict[tuple[str, str], list[tuple[str, str]]]
    """(row, column) to a sign and a sentence per endpoint; only pairs that share runs enough."""


BETTER, WORSE, NOT_SHOWN = "+", "−", "·"


def make_matrix(board: Board, comparisons: Sequence[Comparison]) -> Matrix:
    """Make the matrix of comparisons: whether the method of a row is better than that of a column."""
    compared = {label for c in comparisons for label in (c.a, c.b)}
    cells: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for c in comparisons:
        for row, column, turned in ((c.a, c.b, False), (c.b, c.a, True)):
            signed = (_find_sign(c, turned), describe_comparison(c, turned))
            cells.setdefault((row, column), []).append(signed)
    labels = [line.label for line in board.lines if line.label in compared]
    return Matrix(labels, cells)


def _find_sign(row: Comparison, turned: bool) -> str:
    """Find whether `a` (with `turned`: `b`) is shown to be better."""
    if row.p is None or row.p >= ALPHA or row.better not in ("lower", "higher"):
        return NOT_SHOWN
    a_is_better = (row.difference < 0) == (row.better == "lower")
    return BETTER if a_is_better is not turned else WORSE


def name_verdict(row: Comparison) -> str:
    """Name which of both methods is shown to be better; that neither is, or that nothing can be said."""
    if row.p is None:
        return f"nothing is said: fewer than {FEWEST} runs, or no spread between them"
    sign = _find_sign(row, turned=False)
    return {BETTER: f"{row.a} is better", WORSE: f"{row.b} is better"}.get(
        sign, "neither is shown to be better"
    )


def describe_comparison(row: Comparison, turned: bool = False) -> str:
    """Describe one comparison in a sentence, with `turned` as b against a."""
    a, b = (row.b, row.a) if turned else (row.a, row.b)
    low, high, sign = row.low, row.high, 1
    if turned:
        sign, low, high = -1, *(None if end is None else -end for end in (row.high, row.low))
    difference = format_difference(sign * row.difference, low, high, row.unit)
    p = "" if row.p is None else f", p = {row.p:.2g}"
    bases = f"{row.bases} base{'' if row.bases == 1 else 's'}"
    return f"{row.metric}: {a} − {b} is {difference}{p}; {row.runs} runs on {bases}"


def _compare_pair(board: Board, a: Line, b: Line) -> list[Comparison]:
    """Compare two lines on the three endpoints, with p adjusted over these by Holm."""
    comparisons = [
        comparison
        for name in board.primary
        if (comparison := compare_endpoint(name, a, b)) is not None
    ]
    adjusted_p = holm([comparison.p for comparison in comparisons])
    return [replace(comparison, p=p) for comparison, p in zip(comparisons, adjusted_p, strict=True)]


def shared_runs(a: Line, b: Line) -> list[tuple[int, int, int]]:
    """List the runs that both lines have, each in the form of `run_of`."""
    keys = [{run_of(c) for c in line.cells} for line in (a, b)]
    return sorted(keys[0] & keys[1])


def cells_by_run(line: Line) -> dict[tuple[int, int, int], ResultRow]:
    """Map runs (`run_of`) to the line's cells."""
    return {run_of(c): c for c in line.cells}


@dataclass(frozen=True)
class Scores:
    """Two models' scores on the same images, all of one length, in one order."""

    a: np.ndarray
    b: np.ndarray
    prompts: np.ndarray | None
    """Number of the prompt of each image; None if images are the independent units."""
    keys: Any  # identifies the images, to tell whether another pair was scored on the same ones


def paired_scores(a: ResultRow, b: ResultRow, name: str) -> Scores | str:
    """Pair the scores of measurement `name` of two results over the images that both have.

    An image is identified by its prompt and seed; results of a class-conditional task all hold the same
    images, in the task's order.

    Returns:
        The scores, or the reason why they cannot be paired.
    """
    left, right = read_columns_of(a, name), read_columns_of(b, name)
    if not left or not right:
        return "per-image scores are not at hand"
    if a["task_values"].get("prompts"):
        if "prompt" not in left or "prompt" not in right:
            return "the scores do not name their prompts (pack the run folder again)"
        keys = [
            list(zip(scores["prompt"].tolist(), scores["seed"].tolist(), strict=True))
            for scores in (left, right)
        ]
        positions = [{key: i for i, key in enumerate(side)} for side in keys]
        shared_images = sorted(positions[0].keys() & positions[1].keys())
        if (
            any(len(index) < len(k) for index, k in zip(positions, keys, strict=True))
            and keys[0] != keys[1]
        ):
            return "two images have the same prompt and seed"
        if keys[0] != keys[1]:
            left, right = (
                {k: v[[index[key] for key in shared_images]] for k, v in side.items()}
                for side, index in zip((left, right), positions, strict=True)
            )
    same_length = len(left["score"]) == len(right["score"])
    if not same_length or len(left["score"]) < 2:
        return (
            "fewer than two images in common"
            if same_length
            else "they were measured on different images"
        )
    if not np.isfinite(left["score"]).all() or not np.isfinite(right["score"]).all():
        return "some scores are not finite"
    prompts = left.get("prompt") if a["task_values"].get("prompts") else None
    keys = len(left["score"]) if prompts is None else (prompts.tolist(), left["seed"].tolist())
    return Scores(left["score"], right["score"], prompts, keys)


def compare_endpoint(name: str, a: Line, b: Line) -> Comparison | None:
    """Compare measurement `name` of two lines over their shared runs; None if there are none."""
    left, right = cells_by_run(a), cells_by_run(b)
    by_base = differences_by_base(name, a, b)
    if not by_base:
        return None
    endpoint = a.endpoints[name]
    for_a = for_b = pairs = 0
    for key in shared_runs(a, b):
        scores = paired_scores(left[key], right[key], name)
        if isinstance(scores, str):
            continue
        pairs += 1
        paired = clustered.paired(scores.a, scores.b, scores.prompts, is_rate(endpoint.unit))
        if paired.p >= ALPHA:
            continue
        if (paired.difference > 0) == (endpoint.better == "lower"):
            for_b += 1
        else:
            for_a += 1
    difference, low, high, p = over_bases(by_base)
    runs = sum(map(len, by_base.values()))
    if runs < FEWEST:
        low = high = p = None
    return Comparison(
        name,
        endpoint.unit,
        endpoint.better,
        a.label,
        b.label,
        difference,
        low,
        high,
        p,
        runs,
        len(by_base),
        for_a,
        for_b,
        pairs,
    )


def format_difference_of(row: Comparison) -> str:
    """Format a comparison: `+2.10 nats (95 %: 1.80 to 2.40)`; differences of rates in points."""
    return format_difference(row.difference, row.low, row.high, row.unit)


def format_difference(value: float, low: float | None, high: float | None, unit: str | None) -> str:
    """Format a difference of an endpoint in `unit`, with its interval if there is one.

    All three numbers have as many decimals as show three digits of the largest: 0.0042, not 0.00.
    """
    if low is None or high is None:
        return format_change(value, unit)
    factor = 100 if is_rate(unit) else 1
    largest = factor * max(map(abs, (value, low, high)))
    decimals = max(2, 2 - math.floor(math.log10(largest))) if 0 < largest < math.inf else 2
    decimals = 1 if is_rate(unit) else decimals
    shown, lower, upper = (f"{factor * x:.{decimals}f}" for x in (value, low, high))
    sign = "" if value < 0 else "+"
    return f"{sign}{shown}{unit_of_change(unit)} (95 %: {lower} to {upper})"


def format_checkpoints(row: Comparison) -> str:
    """Format how many pairs of checkpoints differ, and in whose favour: `24 of 24 for sa`."""
    if not row.pairs:
        return "scores not at hand"
    wins = [
        f"{n} of {row.pairs} for {label}"
        for n, label in ((row.for_a, row.a), (row.for_b, row.b))
        if n
    ]
    return ", ".join(wins) or f"none of {row.pairs}"


def differences_by_base(name: str, a: Line, b: Line) -> dict[int, list[float]]:
    """Map base models to the differences a − b of measurement `name`, one for each shared seed.

    Several draws of one model's images are one run: their mean counts.
    """
    cells = (cells_by_run(a), cells_by_run(b))
    differences: dict[int, dict[int, list[float]]] = {}
    for key in shared_runs(a, b):
        base, seed, _ = key
        measurements = [find_measurement(side[key], name) for side in cells]
        values = [m["value"] for m in measurements if m is not None and m["value"] is not None]
        if len(values) == 2:
            differences.setdefault(base, {}).setdefault(seed, []).append(values[0] - values[1])
    return {base: [fmean(draws) for draws in seeds.values()] for base, seeds in differences.items()}


def find_measurement(cell: ResultRow, name: str) -> Measurement | None:
    """Find a result's measurement by name; None if it has none."""
    return next((m for m in cell["measurements"] if m["name"] == name), None)
