"""Figures for papers (SVG, PDF, PNG): trade-offs, the Pareto front, sweeps, images on the same seeds.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every line also has a
marker of its own, so that a figure can be read in grey. The same results give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.analysis.attacks import find_floors
from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.figure_samples import draw_overview, draw_samples, has_images, highest_scored
from sa_bench.analysis.figure_style import (
    COLOURS,
    GREY,
    MARKERS,
    SMALL,
    STYLE,
    Size,
    add_legend,
    choose_styles,
    drawable_lines,
    new_figure,
)
from sa_bench.analysis.plots import describe_axis, swept_fields
from sa_bench.analysis.scales import Scale, find_ends, find_span
from sa_bench.core.counts import describe_count
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.results.format import format_number, is_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
LETTER = 0.55  # mean width of a letter, of its height
MOST_TICKS = 6  # swept values that are all named on a logarithmic axis


def render(
    kind: str,
    board: Board,
    ending: str,
    field: str = "",
    columns: int = 8,
    explicit: bool = False,
    sort: str = "",
    size: Size | None = None,
) -> bytes:
    """Draw a figure of one board, and return the file's bytes.

    Args:
        kind: `tradeoff`, `pareto`, `sweep` or `samples`.
        board: the board to draw.
        ending: svg, pdf or png.
        field: for `sweep`, the field on the x axis; "" means the first that varies.
        columns: for `samples`, the number of images per row.
        explicit: for `samples`, do not blur what may be nudity.
        sort: for `samples`, a measurement: each row shows the images with its highest scores; ""
            means the first images.
        size: width and height in inches; None fits them to what is drawn.

    Raises:
        SaBenchError: the kind or ending is unknown, matplotlib is missing, or there is nothing to
            draw.
    """
    if kind not in KINDS:
        raise unknown_name("figure", kind, KINDS)
    if sort and kind != "samples":
        raise SaBenchError(
            f"--sort orders images, and a figure {kind} has none; use: figure samples --sort {sort}."
        )
    if ending not in FORMATS:
        raise unknown_name("figure format", ending or "none", FORMATS)
    try:
        import matplotlib
    except ImportError as error:
        raise SaBenchError(
            "Figures need matplotlib: python -m pip install 'sa_bench[figures]'."
        ) from error
    with matplotlib.rc_context(STYLE):
        if kind == "samples":
            drawn = draw_samples(board, columns, explicit, sort)
        elif kind == "overview":
            drawn = draw_overview(board, columns, explicit)
        else:
            drawn = KINDS[kind](board, field, size)
        if size is not None:
            drawn.set_size_inches(*size)
        buffer = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[ending]
        drawn.savefig(buffer, format=ending, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _bar_lengths(endpoint: Endpoint) -> list[float]:
    """Compute how far the error bar goes down and up."""
    value, (low, high) = endpoint.value or 0.0, find_ends(endpoint)
    return [value - low, high - value]


def _draw_scatter(
    axes: Axes, board: Board, lines: Sequence[Line], across: str
) -> list[tuple[Any, float, str]]:
    """Draw a panel of retention over another endpoint.

    Returns:
        For each point: x, y, and a remark to print beside its number.
    """
    keep = board.primary[2]
    low, high = find_span(lines, keep)
    margin = 0.06 * (high - low or 1.0)
    scale = Scale(low - margin, high + margin)
    axes.set_ylim(scale.low, scale.high)
    endpoint = lines[0].endpoints[across]
    if is_rate(endpoint.unit):
        # most rates of interest are small
        axes.set_xscale("function", functions=(_square_root, np.square))
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
        axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.4g}")
    axes.set_xlabel(
        describe_axis(board, across, "\n")
        + (", %, square-root scale" if is_rate(endpoint.unit) else "")
    )
    points = []
    for line, style in zip(lines, choose_styles(lines), strict=True):
        x, y = line.endpoints[across], line.endpoints[keep]
        shown_y, beyond = scale.clip(y.value or 0.0)
        axes.errorbar(
            [x.value or 0.0],
            [shown_y],
            xerr=[[v] for v in _bar_lengths(x)],
            yerr=None if beyond else [[v] for v in _bar_lengths(y)],
            elinewidth=0.8,
            markersize=6,
            linestyle="none",
            label=line.label,
            clip_on=False,
            **style,
        )
        remark = f" ({format_number(y.value, y.unit)})" if beyond else ""
        points.append((x.value, shown_y, remark))
    return points


def _square_root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


def _label_points(
    axes: Axes, points: Sequence[tuple[Any, float, str]], names: Sequence[str]
) -> bool:
    """Write its name and remark beside each point, none on a point or on another name.

    Returns:
        False, with nothing written, if they do not all fit into the panel.
    """
    scale = 72 / axes.figure.dpi
    edges = axes.get_window_extent()
    marks = [axes.transData.transform((x, y)) * scale for x, y, _ in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    places = []
    for (_, _, remark), name, (x, y) in zip(points, names, marks, strict=True):
        width, high = LETTER * SMALL * len(name + remark), 1.1 * SMALL
        for side, up in product((1, -1), (0, 1, -1, 2, -2, 3, -3)):
            left = x + 6 if side > 0 else x - 6 - width
            box = (left, y + (up - 0.5) * high, left + width, y + (up + 0.5) * high)
            inside = (
                edges.x0 * scale <= box[0]
                and box[2] <= edges.x1 * scale
                and edges.y0 * scale <= box[1]
                and box[3] <= edges.y1 * scale
            )
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                places.append((name + remark, side, up * high))
                break
        else:
            return False
    for (text, side, up), (x, y, _) in zip(places, points, strict=True):
        axes.annotate(
            text,
            (x, y),
            (6 * side, up),
            textcoords="offset points",
            fontsize=SMALL,
            ha="left" if side > 0 else "right",
            va="center",
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
        )
    return True


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether two boxes (left, bottom, right, top) share an area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _number_points(axes: Axes, points: Sequence[tuple[Any, float, str]]) -> None:
    """Number the points, each label beside its point and none on another.

    The label of a value beyond the edge is longer, and stands inside the panel.
    """
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform((x, y)) * scale for x, y, _ in points]
    middle = axes.transAxes.transform((0.5, 0.5)) * scale
    taken = list(places)
    around = [
        (r * np.cos(a), r * np.sin(a)) for r in (8, 13, 19, 26) for a in np.arange(8) * np.pi / 4
    ]
    for number, ((x, y, remark), place) in enumerate(zip(points, places, strict=True), 1):
        aside, inwards = np.where(place < middle, 1, -1)
        moves = [(6 * aside, inwards * high) for high in (8, 16, 24, 32)] if remark else around

        def room(move: tuple[float, float], place: Any = place) -> float:
            return float(np.hypot(*(place + move - np.array(taken)).T).min())

        move = next((m for m in moves if room(m) > 7), max(moves, key=room))
        taken.append(place + move)
        far = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY}
        axes.annotate(
            f"{number}{remark}",
            (x, y),
            move,
            textcoords="offset points",
            fontsize=6.5,
            ha=("left" if aside > 0 else "right") if remark else "center",
            va="center",
            arrowprops=far if np.hypot(*move) > 9 else None,
            annotation_clip=False,
        )


def _draw_floors(axes: Axes, board: Board, forgetting: bool) -> None:
    """Draw the gate or, for recovery, what comes back in a model that never saw c_f."""
    if forgetting:
        axes.axvline(board.chance, color=GREY, linewidth=0.8, linestyle="--")
    elif floor := find_floors(board).get(board.primary[1]):
        axes.axvline(floor.value or 0.0, color=GREY, linewidth=0.8, linestyle=":")


def _draw_panels(board: Board, across: Sequence[str], size: Size | None) -> Figure:
    """Draw one panel per endpoint of `across`, each against retention.

    Points bear their names if these fit into every panel, else numbers that the legend explains.
    """
    keep = board.primary[2]
    lines = drawable_lines(board, [*across, keep])
    figure, panels = new_figure(len(across), size=size)
    points = []
    for axes, name in zip(panels, across, strict=True):
        points.append(_draw_scatter(axes, board, lines, name))
        _draw_floors(axes, board, name == board.primary[0])
    panels[0].set_ylabel(describe_axis(board, keep, "\n"))
    remarks = [remark for placed in points for _, _, remark in placed]
    used = {
        "filled: on the Pareto front": any(line.front for line in lines),
        "×: collapsed": any(line.collapsed for line in lines),
        "grey: controls and references": any(line.standing != "method" for line in lines),
        "(value): beyond the edge": any(remarks),
    }
    explanations = [text for text, is_used in used.items() if is_used]
    pairs = ["; ".join(explanations[i : i + 2]) for i in range(0, len(explanations), 2)]
    title = "; ".join(explanations) if len(across) > 1 else ";\n".join(pairs)
    handles, names = panels[0].get_legend_handles_labels()
    axes_points = list(zip(panels, points, strict=True))
    figure.draw_without_rendering()  # now the panels have their sizes
    if all(_label_points(axes, placed, names) for axes, placed in axes_points):
        figure.supxlabel(title, fontsize=SMALL)
        return figure
    for axes in panels:
        for written in list(axes.texts):
            written.remove()
    numbered = [f"{number}  {name}" for number, name in enumerate(names, 1)]
    add_legend(figure, handles, numbered, 2 * len(across), title, fixed=size is not None)
    figure.draw_without_rendering()
    for axes, placed in axes_points:
        _number_points(axes, placed)
    return figure


def _draw_tradeoff(board: Board, field: str, size: Size | None) -> Figure:
    """Draw forgetting against retention."""
    return _draw_panels(board, board.primary[:1], size)


def _draw_pareto(board: Board, field: str, size: Size | None) -> Figure:
    """Draw forgetting and recovery against retention."""
    return _draw_panels(board, board.primary[:2], size)


def _draw_sweep(board: Board, field: str, size: Size | None) -> Figure:
    """Draw the three endpoints over a field, one curve per method."""
    sweeps = swept_fields(board)
    field = field or next(iter(sweeps), "")
    curves = sweeps.get(field, {})
    if not sweeps:
        raise SaBenchError(
            f"{board.task}: no method has several values of a field; make some: run --sweep lam=1,10,50."
        )
    if not curves:
        names = ", ".join(sweeps)
        raise SaBenchError(
            f"{board.task}: no method has two values of {field!r}; fields that vary: {names}."
        )
    figure, panels = new_figure(3, 2.6, size)
    for axes, name in zip(panels, board.primary, strict=True):
        for (method, points), colour, marker in zip(
            curves.items(), cycle(COLOURS), cycle(MARKERS), strict=False
        ):
            measured = [(x, line.endpoints[name]) for x, line in points if line.known(name)]
            xs, endpoints = [x for x, _ in measured], [e for _, e in measured]
            axes.errorbar(
                xs,
                [e.value or 0.0 for e in endpoints],
                yerr=np.array([_bar_lengths(e) for e in endpoints]).T if endpoints else None,
                color=colour,
                marker=marker,
                linewidth=1,
                elinewidth=0.8,
                markersize=4,
                label=method,
            )
        xs = [x for points in curves.values() for x, _ in points]
        if min(xs) > 0 and max(xs) >= 10 * min(xs):
            axes.set_xscale("log")
            if len(set(xs)) <= MOST_TICKS:
                axes.set_xticks(sorted(set(xs)))
            # matplotlib's own formatter writes TeX
            axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
            axes.xaxis.set_minor_formatter(lambda v, _: "")
        if is_rate(next(x.endpoints[name] for x in board.lines if name in x.endpoints).unit):
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.4g} %")
        axes.set_xlabel(f"{field}, log scale" if axes.get_xscale() == "log" else field)
        axes.set_title(describe_axis(board, name, "\n"), fontsize=8)
        bases = [e.base for x in board.lines if (e := x.known(name)) and e.base is not None]
        if bases and name != board.primary[0]:
            axes.axhline(bases[0], color=GREY, linewidth=0.8, linestyle=":", label="base model")
    panels[0].axhline(board.chance, color=GREY, linewidth=0.8, linestyle="--", label="gate")
    handles = {
        label: h
        for axes in panels
        for h, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    add_legend(figure, list(handles.values()), list(handles), 6, fixed=size is not None)
    return figure


KINDS = {
    "tradeoff": _draw_tradeoff,
    "pareto": _draw_pareto,
    "sweep": _draw_sweep,
    "samples": draw_samples,
    "overview": draw_overview,
}


OF_IMAGES = ("samples", "overview")
"""Kinds that show images and no bars."""


def caption(board: Board, kind: str, sort: str = "", left_out: int = 0) -> str:
    """Write the caption of a figure of this `kind`: the board, its runs, and what is drawn of them.

    `left_out` is the number of rows of the board that are not drawn.
    """
    omitted = (
        f" {describe_count(left_out, 'more row')} of the board are left out; name any with --method."
        if left_out
        else ""
    )
    describe = _describe_images if kind in OF_IMAGES else _describe_bars
    return describe(board, sort) + omitted


def _describe_images(board: Board, sort: str) -> str:
    """Describe the board and which images of it are drawn, `sort`ed by a score or the first ones."""
    if sort:
        unscored = [
            x.label
            for x in board.lines
            if has_images(x) and highest_scored(x.cells[0], sort, 1, x.label) is None
        ]
        text = f"{board.title}, scale {board.scale}; of each row's first run the images of {board.concept} with the highest "
        text += f"{sort}, which stands below each."
        return text + (f" Without a score: {', '.join(unscored)}." if unscored else "")
    return f"{board.title}, scale {board.scale}; the first images of each row's first run, none chosen."


def _describe_bars(board: Board, sort: str) -> str:
    """Describe the board, its runs, and what bars are."""
    keep = board.primary[2]
    runs = sorted({len(x.cells) for x in board.lines if x.cells})
    run_count = (
        describe_count(runs[0], "run") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    )
    base = next((e.base for x in board.lines if (e := x.known(keep)) and e.base is not None), None)
    unit = next((e.unit for x in board.lines if (e := x.known(keep))), None)
    text = f"{board.title}, scale {board.scale}; {run_count} a row. "
    text += "Bars: one run's 95 % interval, of several the lowest and highest."
    return text + (
        f" Base model: {format_number(base, unit)} {unit or ''}".rstrip() + "."
        if base is not None
        else ""
    )
