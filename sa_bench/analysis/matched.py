"""Two methods at matched forgetting: what each keeps where at most so much of c_f is left. No torch.

A method's settings that differ in a number (λ, a rate, steps) are a sweep. On each base model its settings, averaged over
the seeds they have, are points (asin √forgetting, retention); those that no other setting of the method beats, less left
and more kept, are its front. Between two neighbours of the front retention and recovery are interpolated linearly at the
level asked for; beyond the setting that leaves most, that setting stands; below the one that leaves least there is
nothing. The difference of two methods is taken base by base, so that its interval (Student's t over the bases; with a
single base over seeds) holds the uncertainty of the interpolation: each base has another curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np

from sa_bench.analysis.board import Board, Line, run_of
from sa_bench.analysis.pairwise import find_measurement, format_difference
from sa_bench.core.errors import SaBenchError
from sa_bench.results.format import format_number, format_percent
from sa_bench.statistics import over_bases


@dataclass(frozen=True)
class Point:
    """One setting on one base model, or of one run."""

    label: str
    left: float  # asin √ of the forgetting rate
    kept: float  # retention
    back: float  # recovery


@dataclass(frozen=True)
class Reached:
    """What a method keeps, and what comes back, at the level asked for, by unit: base model or, of a single one, seed."""

    method: str
    values: Mapping[str, Mapping[int, float]]  # by endpoint
    between: tuple[str, ...]  # labels of the settings that it lies between, of all units
    why: str = ""  # why a unit has no value


def compare_at(board: Board, methods: Sequence[str], level: str) -> str:
    """Retention and recovery of two methods at the level `forget_top1=0.003` of forgetting, as text.

    Raises:
        SaBenchError: another metric than the board's forgetting endpoint, no number in [0, 1], a method without lines here.
    """
    name, _, number = level.partition("=")
    forgetting, recovery, retention = board.primary
    if name != forgetting:
        raise SaBenchError(
            f"--at {level}: methods are matched by {forgetting}, e.g. --at {forgetting}=0.003."
        )
    try:
        target = float(number)
    except ValueError:
        target = -1.0
    if not 0 <= target <= 1:
        raise SaBenchError(
            f"--at {level}: a rate from 0 to 1 is needed, e.g. --at {forgetting}=0.003."
        )
    sweeps = [_sweep(board, method) for method in methods]
    single = (
        len({run_of(cell)[0] for lines in sweeps for line in lines for cell in line.cells}) == 1
    )
    reached = [
        _reached(board, m, lines, target, single) for m, lines in zip(methods, sweeps, strict=True)
    ]
    text = [
        f"{board.title}, scale {board.scale}: {' and '.join(methods)} where at most {format_percent(target)} of the "
        f"images of {board.concept} are left",
        *(_where(of) for of in reached),
        *_text(board, reached, retention, single),
        *_text(board, reached, recovery, single),
        "\nInterpolated along the settings that each method has here; intervals: Student's t over "
        + (
            "seeds of one base model, and nothing is said of another." if single else "base models."
        ),
    ]
    return "\n".join(text)


def _sweep(board: Board, method: str) -> list[Line]:
    lines = [line for line in board.lines if line.method == method and line.cells]
    if not lines:
        raise SaBenchError(f"--at: {method} has no finished result on the board of {board.task}.")
    return lines


def _reached(
    board: Board, method: str, lines: Sequence[Line], target: float, single: bool
) -> Reached:
    """A method at the level, for every unit of which some setting leaves no more."""
    names = (board.primary[0], board.primary[2], board.primary[1])
    runs: dict[int, dict[str, list[list[float]]]] = {}
    for line in lines:
        for cell in line.cells:
            rows = [find_measurement(cell, name) for name in names]
            if any(row is None or row["value"] is None for row in rows):
                continue
            base, seed, _ = run_of(cell)
            setting = runs.setdefault(seed if single else base, {}).setdefault(line.label, [])
            setting.append([row["value"] for row in rows if row is not None])
    better = next(
        (e.better for line in lines if (e := line.endpoints.get(names[1])) is not None), None
    )
    values: dict[str, dict[int, float]] = {names[1]: {}, names[2]: {}}
    between: dict[str, None] = {}
    least = 0.0
    for unit, settings in sorted(runs.items()):
        means = {
            label: [fmean(column) for column in zip(*found, strict=True)]
            for label, found in settings.items()
        }
        points = [
            Point(k, float(np.arcsin(np.sqrt(left))), *others)
            for k, (left, *others) in means.items()
        ]
        front = pareto_points(points, better or "higher")
        least = max(least, float(np.sin(front[0].left) ** 2))
        found = interpolate(front, float(np.arcsin(np.sqrt(target))))
        if found is not None:
            values[names[1]][unit], values[names[2]][unit], labels = found
            between |= dict.fromkeys(labels)
    missing = len(runs) - len(values[names[1]])
    what = "seed" if single else "base model"
    why = (
        f"on {missing} of {len(runs)} {what}s no setting leaves so little (all do from {format_percent(least)} on)"
        if missing
        else ""
    )
    return Reached(
        method, values, tuple(between), why if runs else "no run has all three endpoints"
    )


def pareto_points(points: Sequence[Point], better: str) -> list[Point]:
    """The points that no other beats, with less left and more kept, from the least left on."""
    sign = 1 if better == "higher" else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.left, -sign * p.kept)):
        if not front or sign * point.kept > sign * front[-1].kept:
            front.append(point)
    return front


def interpolate(front: Sequence[Point], left: float) -> tuple[float, float, tuple[str, ...]] | None:
    """(kept, back, the labels it lies between) where at most so much is left; None where every point leaves more."""
    if left < front[0].left:
        return None
    for a, b in pairwise(front):
        if a.left < left < b.left:
            share = (left - a.left) / (b.left - a.left)
            return (
                a.kept + share * (b.kept - a.kept),
                a.back + share * (b.back - a.back),
                (a.label, b.label),
            )
    last = max((point for point in front if point.left <= left), key=lambda point: point.left)
    return last.kept, last.back, (last.label,)


def _where(of: Reached) -> str:
    if not of.between:
        return f"  {of.method}: not reached, {of.why}; run more of its settings"
    return f"  {of.method}: at {', '.join(of.between)}" + (f"; {of.why}" if of.why else "")


def _text(board: Board, reached: Sequence[Reached], name: str, single: bool) -> list[str]:
    facts = next(e for line in board.lines if (e := line.endpoints.get(name)) is not None)
    lines = [f"\n{name}" + (f" ({facts.better} is better)" if facts.better else "")]
    for of in reached:
        if points := list(of.values[name].values()):
            each = ", ".join(format_number(v, facts.unit) for v in points)
            lines.append(f"  {of.method}: {format_number(fmean(points), facts.unit)} ({each})")
    a, b = reached
    shared = sorted(a.values[name].keys() & b.values[name].keys())
    if not shared:
        return [*lines, f"  difference: none, no {'seed' if single else 'base model'} has both"]
    differences = [a.values[name][unit] - b.values[name][unit] for unit in shared]
    by_base = (
        {0: differences}
        if single
        else {unit: [d] for unit, d in zip(shared, differences, strict=True)}
    )
    mean, low, high, p = over_bases(by_base)
    text = f"  {a.method} − {b.method}: {format_difference(mean, low, high, facts.unit)}"
    text += f", p = {p:.2g}" if p is not None else ""
    return [
        *lines,
        f"{text}, {len(shared)} {'seed' if single else 'base model'}{'s' if len(shared) > 1 else ''}",
    ]
