"""The plots of the HTML report as numbers in an SVG's view box.

Points, curves, ticks, and labels that do not overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from sa_bench.analysis.attacks import find_curve
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.scales import Scale, find_ends, find_span
from sa_bench.contracts import flatten
from sa_bench.core.declarations import read_axis
from sa_bench.results.format import format_number, format_unit, is_rate
from sa_bench.results.rows import metric_of

# in units of the view box
WIDTH, LEFT, TOP, PLOT = 400, 52, 24, 210
GAP = 15  # between the baselines of two labels
LETTER = 8.0  # a generous mean width of a letter at 13 px
FEW_LINES = 8  # up to this number of lines a plot names all of them
MOST_NAMES = 14  # labels that fit beside a plot
MOST_OUTLIERS = 3  # values beyond the edge that a plot names, the farthest first
ROOT_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)  # of an axis of rates


def shorten(label: str, letters: int) -> str:
    """Cut a label in its middle: labels of one method start alike, and their ends differ."""
    if len(label) <= letters:
        return label
    return label[: letters // 3] + "…" + label[len(label) - (letters - letters // 3 - 1) :]


def nice_ticks(low: float, high: float) -> list[float]:
    """Choose four to eight round numbers that span low to high."""
    raw = max(high - low, 1e-9) / 4
    power = 10 ** np.floor(np.log10(raw))
    step = float(next(m for m in (1, 2, 5, 10) if m * power >= raw) * power)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    return [float(i * step) for i in np.arange(first, last + 1)]


def spread_apart(positions: Sequence[float], low: float, high: float) -> list[float]:
    """Move positions apart by `GAP` with the least moves; they keep their order, and end above `high`."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved, edge = list(positions), low
    for i in order:
        moved[i] = max(positions[i], edge)
        edge = moved[i] + GAP
    edge = high
    for i in reversed(order):
        moved[i] = min(moved[i], edge)
        edge = moved[i] - GAP
    return moved


class Point(TypedDict):
    """A point of the trade-off plot, in the view box; `place_labels` adds what is not required."""

    line: Line
    x: float
    y: float
    xs: list[float]  # ends of the horizontal interval
    ys: list[float]
    text: str
    beyond: str  # `below` or `above` for a value beyond the edge, where it is drawn; else ""
    named: bool  # whether it wants a label
    name: str  # the label that it wants
    label: NotRequired[str]  # the label that found a place
    anchor: NotRequired[str]  # `start` or `end`
    lx: NotRequired[float]  # where the label is anchored
    ly: NotRequired[float]


class RecoveryPoint(TypedDict):
    """A point of a recovery curve."""

    steps: int
    rate: float
    x: float  # in the view box
    y: float
    ys: tuple[float, float]  # ends of its interval, or its extremes over cells


class RecoveryCurve(TypedDict):
    """The recovery curve of one line."""

    line: Line
    path: list[RecoveryPoint]
    label: str  # "" for a curve that only a pointer names
    ly: NotRequired[float]  # where the label stands


class SweepPoint(TypedDict):
    """A point of a sweep, in the view box."""

    x: float
    y: float
    text: str
    ys: list[float]  # ends of its interval


class SweepCurve(TypedDict):
    """The points of one method in a panel of a sweep."""

    method: str
    path: list[SweepPoint]
    ly: NotRequired[float]  # where the label stands


def choose_named(lines: Sequence[Line]) -> list[Line]:
    """Choose the lines that a plot names; a pointer on a mark names any.

    Of many lines these are the ones on the front and the floors to compare with.
    """
    if len(lines) <= FEW_LINES:
        return [*lines]
    named = [line for line in lines if line.front or line.standing == "reference"]
    return named if len(named) <= MOST_NAMES else named[:MOST_NAMES]


def describe_axis(board: Board, name: str, between: str = " ") -> str:
    """Describe the axis of a measurement: what it shows and, after `between`, its unit and better side."""
    measurements = (m for line in board.lines for c in line.cells for m in c["measurements"])
    first = next(m for m in measurements if m["name"] == name)
    title = (read_axis(metric_of(first)) or first["title"]).replace("c_f", board.concept)
    notes = [format_unit(first["unit"]).strip()]
    notes += [f"{first['better']} is better"] if first["better"] else []
    notes = [note for note in notes if note]
    return f"{title}{between}({', '.join(notes)})" if notes else title


def _root(rate: float) -> float:
    """Take the square root of a rate: most rates of interest are small."""
    return math.sqrt(min(max(rate, 0.0), 1.0))


def tradeoff_plot(board: Board) -> dict[str, Any]:
    """Compute the forgetting-retention plot: points with intervals, labels that do not overlap.

    A value far from all others is drawn at the edge with an arrow (`scales`).
    """
    forgetting, keep = board.primary[0], board.primary[2]
    drawn = [(x, f, k) for x in board.lines if (f := x.known(forgetting)) and (k := x.known(keep))]
    if not drawn:
        return {"points": []}
    lines = [line for line, _, _ in drawn]
    ticks = nice_ticks(*find_span(lines, keep))
    scale, rate = Scale(ticks[0], ticks[-1]), is_rate(drawn[0][1].unit)
    span = [0.0, 1.0] if rate else nice_ticks(*find_span(lines, forgetting))
    width = Scale(span[0], span[-1])
    named = [id(line) for line in choose_named(lines)]
    beyond_edge = [(x, k.value or 0.0) for x, _, k in drawn if scale.clip(k.value or 0.0)[1]]
    middle = (scale.low + scale.high) / 2
    beyond_edge.sort(key=lambda pair: -abs(pair[1] - middle))
    named += [id(line) for line, _ in beyond_edge[:MOST_OUTLIERS]]
    bottom = TOP + PLOT

    def across(value: float) -> float:
        share = width.share(value)
        return LEFT + (WIDTH - LEFT - 14) * (_root(share) if rate else share)

    def up(value: float) -> float:
        return bottom - (bottom - TOP) * scale.share(value)

    points: list[Point] = []
    for line, f, k in drawn:
        value, beyond = scale.clip(k.value or 0.0)
        kept = f"{format_number(k.value, k.unit)}{format_unit(k.unit)}"
        points.append(
            {
                "line": line,
                "x": across(f.value or 0.0),
                "y": up(value),
                "xs": [across(end) for end in find_ends(f)],
                "ys": [up(value)] * 2 if beyond else [up(end) for end in find_ends(k)],
                "text": f"{format_number(f.value, f.unit)}, {kept}",
                "beyond": beyond,
                "named": id(line) in named,
                "name": f"{shorten(line.label, 22)} {kept}" if beyond else shorten(line.label, 22),
            }
        )
    place_labels(points, bottom)
    return {
        "points": points,
        "ticks": [(up(t), f"{t:.4g}") for t in ticks],
        "xs": [
            (across(x), f"{100 * x:.4g}" + (" %" if x == 1 else "") if rate else f"{x:.4g}")
            for x in (ROOT_TICKS if rate else span)
        ],
        "bottom": bottom,
        "across": across,
        "chance": board.chance,
        "titles": (describe_axis(board, forgetting), describe_axis(board, keep)),
    }


class Place(NamedTuple):
    """A candidate place of a label, in the view box."""

    side: str  # where the text is anchored: `start` or `end`
    x: float  # left end of the label
    y: float


def place_labels(points: list[Point], bottom: float) -> None:
    """Give every point that is to be named the nearest free place; a leader joins a far one to its point.

    A label without a free place is left out.
    """
    taken = [(p["x"] - 7, p["y"] - 7, p["x"] + 7, p["y"] + 7) for p in points]
    moves = [(dx, dy * GAP / 2) for dx in (12, 60, 140) for dy in range(-40, 41)]
    moves.sort(key=lambda move: abs(move[1]) + move[0] / 2)
    for p in sorted(points, key=lambda p: p["y"]):  # from the top, so that leaders cross less
        if not p["named"]:
            continue
        wide = LETTER * len(p["name"])
        for place in (
            Place(side, p["x"] + dx if side == "start" else p["x"] - dx - wide, p["y"] + dy)
            for dx, dy in moves
            for side in ("start", "end")
        ):
            box = (place.x, place.y - GAP / 2, place.x + wide, place.y + GAP / 2)
            inside = place.x >= LEFT and place.x + wide <= WIDTH
            if (
                not inside
                or not TOP + 6 <= place.y <= bottom - 6
                or any(
                    box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3]
                    for b in taken
                )
            ):
                continue
            taken.append(box)
            p["label"], p["anchor"] = p["name"], place.side
            p["lx"], p["ly"] = place.x if place.side == "start" else place.x + wide, place.y
            break


def recovery_curves(board: Board) -> dict[str, Any]:
    """Compute the recovery curves over steps, at the most images; a line's mean over its cells."""
    curves = [(x, curve) for x in board.lines if (curve := find_curve(x, board.primary[1]))]
    if not curves:
        return {"lines": []}
    most_steps = max(max(curve) for _, curve in curves) or 1
    named = choose_named([line for line, _ in curves])
    bottom, right = TOP + PLOT, 228.0

    def up(rate: float) -> float:
        return bottom - (bottom - TOP) * rate

    lines: list[RecoveryCurve] = []
    for line, curve in curves:
        path: list[RecoveryPoint] = []
        for steps, points_here in curve.items():
            rates = [p["value"] for p in points_here]
            low, high = (
                (points_here[0]["low"], points_here[0]["high"])
                if len(points_here) == 1
                else (min(rates), max(rates))
            )
            x, y = LEFT + (right - LEFT) * steps / most_steps, up(fmean(rates))
            path.append(
                {"steps": steps, "rate": fmean(rates), "x": x, "y": y, "ys": (up(low), up(high))}
            )
        is_named = any(line is other for other in named)
        label = shorten(line.label, 22) if is_named else ""
        lines.append({"line": line, "path": path, "label": label})
    labelled = [entry for entry in lines if entry["label"]]
    places = spread_apart([entry["path"][-1]["y"] for entry in labelled], TOP, bottom)
    for entry, y in zip(labelled, places, strict=True):
        entry["ly"] = y
    steps = sorted({(p["steps"], p["x"]) for entry in lines for p in entry["path"]})
    return {
        "lines": lines,
        "up": up,
        "bottom": bottom,
        "right": right,
        "images": next(iter(curves[0][1].values()))[0]["images"],
        "steps": [
            s
            for i, s in enumerate(steps)
            if s[0] == most_steps or all(abs(s[1] - t[1]) > 22 for t in steps[i + 1 :])
        ],
    }


def swept_fields(board: Board) -> dict[str, dict[str, list[tuple[float, Line]]]]:
    """Map numeric fields in which lines of one method differ to methods and their (value, line) in order."""
    sweeps: dict[str, dict[str, list[tuple[float, Line]]]] = {}
    by_method: dict[str, list[Line]] = {}
    for line in board.lines:
        if line.cells:
            by_method.setdefault(line.method, []).append(line)
    for method, lines in by_method.items():
        fields = [flatten(line.cells[0]["fields"]) for line in lines]
        for name in fields[0]:
            values = [f.get(name) for f in fields]
            if len({json.dumps(v) for v in values}) > 1 and all(
                type(v) in (int, float) for v in values
            ):
                points = [(float(v or 0), line) for v, line in zip(values, lines, strict=True)]
                sweeps.setdefault(name, {})[method] = sorted(points, key=lambda p: p[0])
    return sweeps


def sweep_panels(board: Board) -> list[dict[str, Any]]:
    """Compute one panel per endpoint for every field that three lines of a method differ in."""
    return [
        panel
        for field, curves in swept_fields(board).items()
        if max(map(len, curves.values())) > 2
        for name in board.primary
        if (panel := _make_panel(board, field, curves, name)) is not None
    ]


def _make_panel(
    board: Board, field: str, curves: dict[str, list[tuple[float, Line]]], name: str
) -> dict[str, Any] | None:
    """Compute one panel of a sweep; None without values or with a single field value."""
    endpoints_of = {
        method: [(x, e) for x, line in points if (e := line.known(name))]
        for method, points in curves.items()
    }
    extent = [
        v
        for points in endpoints_of.values()
        for _, e in points
        for v in (e.low, e.high, e.value)
        if v is not None
    ]
    xs = sorted({x for points in endpoints_of.values() for x, _ in points})
    if not extent or len(xs) < 2:
        return None
    ticks, bottom, right = nice_ticks(min(extent), max(extent)), TOP + PLOT, 270.0
    scale = math.log if xs[0] > 0 and xs[-1] / xs[0] > 10 else float

    def across(x: float) -> float:
        return (
            LEFT
            + 8
            + (right - LEFT - 16) * (scale(x) - scale(xs[0])) / (scale(xs[-1]) - scale(xs[0]))
        )

    def up(value: float) -> float:
        return bottom - (bottom - TOP) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    lines: list[SweepCurve] = []
    for method, points in endpoints_of.items():
        path: list[SweepPoint] = [
            {
                "x": across(x),
                "y": up(e.value or 0.0),
                "text": f"{x:g}: {format_number(e.value, e.unit)}{format_unit(e.unit)}",
                "ys": [up(end) for end in find_ends(e)],
            }
            for x, e in points
        ]
        if path:
            lines.append({"method": method, "path": path})
    places = spread_apart([line["path"][-1]["y"] for line in lines], TOP, bottom)
    for line, y in zip(lines, places, strict=True):
        line["ly"] = y
    first = next(e for points in endpoints_of.values() for _, e in points)
    rate = is_rate(first.unit)
    return {
        "field": field,
        "name": name,
        "lines": lines,
        "bottom": bottom,
        "right": right,
        "title": describe_axis(board, name),
        "ticks": [(up(t), f"{100 * t:.4g} %" if rate else f"{t:.4g}") for t in ticks],
        "xs": [
            (across(x), f"{x:g}")
            for i, x in enumerate(xs)
            if i in (0, len(xs) - 1) or len(xs) < 7 or i % 2 == 0
        ],
    }
