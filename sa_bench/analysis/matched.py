"""Two methods at matched forgetting: what each keeps where at most so much of c_f is left. No torch.

Settings of a method that differ in a number (λ, a rate, steps) are a sweep. On each base model its
settings, averaged over the seeds they have, are points (asin √forgetting, retention); those that no
other setting of the method beats, with less left and more kept, are its front. Between two
neighbours of the front, retention and recovery are interpolated linearly at the level that the user
gives; beyond the setting that leaves most, that setting stands; below the one that leaves least
there is no value. The difference of two methods is taken base by base, so that its interval
(Student's t over the bases; with a single base over seeds) holds the uncertainty of the
interpolation: each base has another curve. With fewer than `FEWEST` runs of a method there is neither
interval nor p; p is adjusted for the two endpoints (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from sa_bench.analysis.board import Board, Line, run_of
from sa_bench.analysis.pairwise import FEWEST, find_measurement, format_difference
from sa_bench.core.errors import SaBenchError
from sa_bench.results.format import format_change, format_number, format_percent
from sa_bench.statistics import holm, over_bases


@dataclass(frozen=True)
class Point:
    """One setting on one base model, or in one run."""

    label: str
    forgetting: float  # asin √ of the forgetting rate
    retention: float
    recovery: float


@dataclass(frozen=True)
class Reached:
    """A method's retention and recovery at the level, by unit: base models, or seeds of a single one."""

    method: str
    values: Mapping[str, Mapping[int, float]]  # endpoint to unit to value
    between: tuple[str, ...]  # labels of the settings that it lies between, over all units
    runs: int  # of all its settings
    why: str = ""  # why a unit has no value


def compare_at(board: Board, methods: Sequence[str], level: str) -> str:
    """Compare two methods at a level of forgetting such as `forget_top1=0.003`, and return a text.

    Raises:
        SaBenchError: the level is not of the board's forgetting endpoint or not in [0, 1], or a
            method has no lines here.
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
    sweeps = [_sweep_lines(board, method) for method in methods]
    single_base = (
        len({run_of(cell)[0] for lines in sweeps for line in lines for cell in line.cells}) == 1
    )
    reached = [
        _reach_level(board, m, lines, target, single_base)
        for m, lines in zip(methods, sweeps, strict=True)
    ]
    paragraphs = [
        f"{board.title}, scale {board.scale}: {' and '.join(methods)} where at most {format_percent(target)} of the "
        f"images of {board.concept} are left",
        *(_describe_position(result) for result in reached),
        *_describe_endpoints(board, reached, (retention, recovery), single_base),
        "\nInterpolated along the settings that each method has here; intervals: Student's t over "
        + (
            "seeds of one base model, and nothing is said of another."
            if single_base
            else "base models."
        ),
    ]
    return "\n".join(paragraphs)


def _sweep_lines(board: Board, method: str) -> list[Line]:
    """Return the lines of a method with finished results."""
    lines = [line for line in board.lines if line.method == method and line.cells]
    if not lines:
        raise SaBenchError(f"--at: {method} has no finished result on the board of {board.task}.")
    return lines


def _reach_level(
    board: Board, method: str, lines: Sequence[Line], target: float, single_base: bool
) -> Reached:
    """Bring a method to the level of forgetting, for every unit of which some setting reaches it."""
    names = (board.primary[0], board.primary[2], board.primary[1])
    runs: dict[int, dict[str, list[list[float]]]] = {}
    for line in lines:
        for cell in line.cells:
            measurements = [find_measurement(cell, name) for name in names]
            cell_values = [
                m["value"] for m in measurements if m is not None and m["value"] is not None
            ]
            if len(cell_values) < len(names):
                continue
            base, seed, _ = run_of(cell)
            setting = runs.setdefault(seed if single_base else base, {}).setdefault(line.label, [])
            setting.append(cell_values)
    better = next(
        (e.better for line in lines if (e := line.endpoints.get(names[1])) is not None), None
    )
    values: dict[str, dict[int, float]] = {names[1]: {}, names[2]: {}}
    count = sum(len(line.cells) for line in lines)
    between: dict[str, None] = {}
    least_left = 0.0
    for unit, settings in sorted(runs.items()):
        means = {
            label: [fmean(column) for column in zip(*triples, strict=True)]
            for label, triples in settings.items()
        }
        points = [
            Point(label, float(np.arcsin(np.sqrt(rate))), *others)
            for label, (rate, *others) in means.items()
        ]
        front = pareto_points(points, better or "higher")
        least_left = max(least_left, float(np.sin(front[0].forgetting) ** 2))
        reached = interpolate(front, float(np.arcsin(np.sqrt(target))))
        if reached is not None:
            values[names[1]][unit], values[names[2]][unit], labels = reached
            between |= dict.fromkeys(labels)
    unreached = len(runs) - len(values[names[1]])
    unit_name = "seed" if single_base else "base model"
    why = (
        f"on {unreached} of {len(runs)} {unit_name}s no setting leaves so little "
        f"(all do from {format_percent(least_left)} on)"
        if unreached
        else ""
    )
    return Reached(
        *(method, values, tuple(between), count),
        why if runs else "no run has all three endpoints",
    )


def pareto_points(points: Sequence[Point], better: str) -> list[Point]:
    """Select the points that no other beats with less left and more kept, sorted from the least left."""
    sign = 1 if better == "higher" else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.forgetting, -sign * p.retention)):
        if not front or sign * point.retention > sign * front[-1].retention:
            front.append(point)
    return front


def interpolate(
    front: Sequence[Point], level: float
) -> tuple[float, float, tuple[str, ...]] | None:
    """Interpolate a front at a level of forgetting: (retention, recovery, labels of the neighbours).

    Returns:
        None if every point of the front leaves more.
    """
    if level < front[0].forgetting:
        return None
    levels = [point.forgetting for point in front]
    retention, recovery = (
        float(np.interp(level, levels, values))
        for values in ([p.retention for p in front], [p.recovery for p in front])
    )
    before = max(i for i, forgetting in enumerate(levels) if forgetting <= level)
    is_between = levels[before] < level < levels[-1]
    neighbours = front[before : before + 1 + is_between]
    return retention, recovery, tuple(point.label for point in neighbours)


def _describe_position(reached: Reached) -> str:
    """Describe between which settings of a method the level lies."""
    if not reached.between:
        return f"  {reached.method}: not reached, {reached.why}; run more of its settings"
    return f"  {reached.method}: at {', '.join(reached.between)}" + (
        f"; {reached.why}" if reached.why else ""
    )


def _describe_endpoints(
    board: Board, reached: Sequence[Reached], names: Sequence[str], single_base: bool
) -> list[str]:
    """Describe endpoints at the level: each method's values, and their difference."""
    a, b = reached
    unit = "seed" if single_base else "base model"
    shared = sorted(a.values[names[0]].keys() & b.values[names[0]].keys())
    differences = []
    for name in names:
        by_unit = {u: [a.values[name][u] - b.values[name][u]] for u in shared}
        together = {0: [d for values in by_unit.values() for d in values]}
        differences.append(over_bases(together if single_base else by_unit) if shared else None)
    adjusted = holm([None if found is None else found[3] for found in differences])
    lines = []
    for name, found, p in zip(names, differences, adjusted, strict=True):
        endpoint = next(e for line in board.lines if (e := line.endpoints.get(name)) is not None)
        lines += [f"\n{name}" + (f" ({endpoint.better} is better)" if endpoint.better else "")]
        for result in reached:
            if points := list(result.values[name].values()):
                each = ", ".join(format_number(v, endpoint.unit) for v in points)
                mean = format_number(fmean(points), endpoint.unit)
                lines.append(f"  {result.method}: {mean} ({each})")
        if found is None:
            lines.append(f"  difference: none, no {unit} has both")
            continue
        mean, low, high, _ = found
        count = f"{len(shared)} {unit}{'s' if len(shared) > 1 else ''}"
        if min(a.runs, b.runs) < FEWEST:
            text = f"{format_change(mean, endpoint.unit)}; no interval and no p below {FEWEST} runs of each"
        else:
            text = format_difference(mean, low, high, endpoint.unit)
            text += f", p = {p:.2g}" if p is not None else ""
        lines.append(f"  {a.method} − {b.method}: {text}, {count}")
    return lines
