"""Figures for papers (SVG, PDF, PNG): trade-offs, the Pareto front, sweeps, images on the same seeds.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every line also has a
marker of its own, so that a figure can be read in grey. The same results give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image, ImageFilter

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.plots import describe_axis, swept_fields
from sa_bench.analysis.scales import Scale, find_ends, find_span
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.data.sample_sets import load_arrays
from sa_bench.results.files import read_columns_of
from sa_bench.results.format import format_number
from sa_bench.results.rows import find_sample_set, may_be_explicit, metric_of
from sa_bench.results.schema import ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
GREY = "#767676"
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "sa_bench",
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "text.parse_math": False,  # a name may hold a $
}
FORMATS = ("svg", "pdf", "png")


def render(
    kind: str,
    board: Board,
    ending: str,
    field: str = "",
    columns: int = 8,
    explicit: bool = False,
    sort: str = "",
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
        drawn = (
            _draw_samples(board, columns, explicit, sort)
            if kind == "samples"
            else KINDS[kind](board, field)
        )
        buffer = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[ending]
        drawn.savefig(buffer, format=ending, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _new_figure(panels: int, high: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side, `high` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * panels, high), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels, sharey=panels == 2)))


LEGEND: Any = {
    "fontsize": 6.5,
    "title_fontsize": 6.5,
    "handlelength": 1,
    "handletextpad": 0.5,
    "columnspacing": 0.8,
    "borderpad": 0,
}


def _add_legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int, title: str = ""
) -> None:
    """Add a legend below the panels, in at most `columns`; the figure grows to hold it.

    It may be up to a third wider than the panels.
    """
    width, height = figure.get_size_inches()
    while True:
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            title=title or None,
            **LEGEND,
        )
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width * 4 / 3:
            break
        legend.remove()
        columns -= 1
    figure.set_size_inches(max(width, box.width / figure.dpi), height + box.height / figure.dpi)


def _drawable_lines(board: Board, names: Sequence[str]) -> list[Line]:
    """Select the lines that have a value of every endpoint in `names`.

    Raises:
        SaBenchError: no line has.
    """
    drawable = [line for line in board.lines if all(line.known(name) for name in names)]
    if not drawable:
        raise SaBenchError(
            f"{board.task}: no line has {' and '.join(names)}, so there is nothing to draw."
        )
    return drawable


def _choose_styles(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Choose colour and marker of every line: methods coloured, filled if on the front; all else grey."""
    bright = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    styles = []
    for line in lines:
        if line.standing == "method":
            colour, marker = next(bright)
            face = colour if line.front else "white"
            styles.append(
                {
                    "color": colour,
                    "marker": "x" if line.collapsed else marker,
                    "markerfacecolor": face,
                }
            )
        else:
            marker = {"reference": "*", "target": "*"}.get(line.standing, "+")
            styles.append({"color": GREY, "marker": marker, "markerfacecolor": "white"})
    return styles


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
    if endpoint.unit in ("rate", "probability"):
        # most rates of interest are small
        axes.set_xscale("function", functions=(_square_root, np.square))
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
        axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}")
    axes.set_xlabel(
        describe_axis(board, across, "\n")
        + (", %" if endpoint.unit in ("rate", "probability") else "")
    )
    points = []
    for line, style in zip(lines, _choose_styles(lines), strict=True):
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
            label=f"{len(points) + 1}  {line.label}",
            clip_on=False,
            **style,
        )
        remark = f" ({format_number(y.value, y.unit)})" if beyond else ""
        points.append((x.value, shown_y, remark))
    return points


def _square_root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


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
        return
    floors = [
        f.value
        for x in board.lines
        if x.standing == "reference" and (f := x.known(board.primary[1]))
    ]
    for value in floors:
        axes.axvline(value or 0.0, color=GREY, linewidth=0.8, linestyle=":")


def _draw_panels(board: Board, across: Sequence[str]) -> Figure:
    """Draw one panel per endpoint of `across`, each against retention."""
    keep = board.primary[2]
    lines = _drawable_lines(board, [*across, keep])
    figure, panels = _new_figure(len(across))
    points = []
    for axes, name in zip(panels, across, strict=True):
        points.append(_draw_scatter(axes, board, lines, name))
        _draw_floors(axes, board, name == board.primary[0])
    panels[0].set_ylabel(describe_axis(board, keep, "\n"))
    explanations = (
        "filled: on the Pareto front",
        "×: collapsed",
        "grey: controls and references",
        "(value): beyond the edge",
    )
    if len(across) > 1:
        title = "; ".join(explanations)
    else:
        title = ";\n".join("; ".join(pair) for pair in (explanations[:2], explanations[2:]))
    _add_legend(figure, *panels[0].get_legend_handles_labels(), 2 * len(across), title)
    figure.draw_without_rendering()  # now the panels have their sizes
    for axes, panel_points in zip(panels, points, strict=True):
        _number_points(axes, panel_points)
    return figure


def _draw_tradeoff(board: Board, field: str) -> Figure:
    """Draw forgetting against retention."""
    return _draw_panels(board, board.primary[:1])


def _draw_pareto(board: Board, field: str) -> Figure:
    """Draw forgetting and recovery against retention."""
    return _draw_panels(board, board.primary[:2])


def _draw_sweep(board: Board, field: str) -> Figure:
    """Draw the three endpoints over a field, one curve per method."""
    sweeps = swept_fields(board)
    field = field or next(iter(sweeps), "")
    curves = sweeps.get(field, {})
    if not curves:
        names = ", ".join(sweeps) or "none"
        raise SaBenchError(
            f"{board.task}: no method has two values of {field!r}; fields that vary: {names}."
        )
    figure, panels = _new_figure(3, 2.6)
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
        if min(xs) > 0 and max(xs) / min(xs) > 10:
            axes.set_xscale("log")
            # matplotlib's own formatter writes TeX
            axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
            axes.xaxis.set_minor_formatter(lambda v, _: "")
        if next(x.endpoints[name] for x in board.lines if name in x.endpoints).unit in (
            "rate",
            "probability",
        ):
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        axes.set_xlabel(field)
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
    _add_legend(figure, list(handles.values()), list(handles), 6)
    return figure


def _draw_samples(board: Board, columns: int, explicit: bool, sort: str = "") -> Figure:
    """Draw images of c_f: the base model's and every line's, one row each, on the same seeds.

    If `sort` is given, each row shows the images with the highest scores instead.
    """
    rows: list[tuple[str, np.ndarray, list[str]]] = []
    for line in board.lines:
        if not line.cells:
            continue
        cell = line.cells[0]
        veiled = may_be_explicit(cell["task_values"]) and not explicit
        if sort:
            highest = _highest_scored(cell, sort, columns, line.label)
            if highest is not None:
                image_rows, scores = highest
                images = _load_images(find_sample_set(cell, "forget"), image_rows, veiled)
                if images is not None:
                    rows.append((line.label, images, [f"{score:.3g}" for score in scores]))
            continue
        for label, name in (("before", "forget-base"), (line.label, "forget")):
            images = _load_images(find_sample_set(cell, name), slice(columns), veiled)
            unchanged = rows and images is not None and np.array_equal(images, rows[0][1])
            if images is not None and not unchanged and (label != "before" or not rows):
                rows.append((label, images, []))
    if len(rows) < (1 if sort else 2):
        if sort and any(_has_images(line) for line in board.lines):
            _refuse_score(board, sort)
        raise SaBenchError(
            f"{board.task}: these results have no images (packed results never do); give the run folder."
        )
    from matplotlib.figure import Figure

    size = 0.5
    figure = Figure(
        figsize=(size * columns + 1.4, size * len(rows) * (1.3 if sort else 1)),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (label, images, scores), axes_row in zip(rows, grid, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, image in zip(axes_row, islice(images, columns), strict=False):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for axes, score in zip(axes_row, scores, strict=False):
            axes.text(
                0.5, -0.05, score, transform=axes.transAxes, ha="center", va="top", fontsize=5
            )
        axes_row[0].text(
            -0.15, 0.5, label, transform=axes_row[0].transAxes, ha="right", va="center", fontsize=7
        )
    return figure


def _has_images(line: Line) -> bool:
    """Tell whether the images of c_f of a line's first run are here."""
    if not line.cells:
        return False
    return find_sample_set(line.cells[0], "forget") is not None


def _measurement_names(cell: ResultRow, sort: str) -> list[str]:
    """List the measurements that `sort` names, by whole name or by metric (`kid` for `kid[judge]`)."""
    return [m["name"] for m in cell["measurements"] if sort in (m["name"], metric_of(m))]


def _refuse_score(board: Board, sort: str) -> NoReturn:
    """Raise the error that no line has scores of `sort` for its images of c_f; name those it has."""
    scored_names = []
    for line in board.lines:
        if _has_images(line):
            line_names = [m["name"] for m in line.cells[0]["measurements"]]
            scored_names += [
                name for name in line_names if _scored_rows(line.cells[0], name) is not None
            ]
    raise unknown_name("score of the images of c_f", sort, list(dict.fromkeys(scored_names)))


def _scored_rows(cell: ResultRow, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Find which of a run's images of c_f have a finite score of a measurement.

    A score is joined to its image by seed and, where there is one, prompt; scores of other images do not
    count. A metric that uses the model draws images of its own, as recovery does from the same seeds.

    Returns:
        (rows of the sample set, scores), or None if no image has a score.
    """
    known_metrics = {entry.name for entry in registry.list_entries("metric")}
    metrics = {metric_of(m) for m in cell["measurements"] if m["name"] == name} & known_metrics
    if any("model" in registry.get_metric(metric).requires for metric in metrics):
        return None
    file = find_sample_set(cell, "forget")
    columns = read_columns_of(cell, name)
    if "seed" not in columns or file is None:
        return None
    sample_set = load_arrays(file)
    key_columns = [
        k
        for k, column in (("seed", "seeds"), ("prompt", "prompts"))
        if k in columns and column in sample_set
    ]
    image_keys = np.stack([sample_set[f"{k}s"] for k in key_columns], 1).tolist()
    row_of_key = {tuple(key): i for i, key in reversed(list(enumerate(image_keys)))}
    keys = [tuple(key) for key in np.stack([columns[k] for k in key_columns], 1).tolist()]
    if not keys or any(key not in row_of_key for key in keys):
        return None
    rows, scores = np.array([row_of_key[key] for key in keys]), columns["score"]
    finite = np.isfinite(scores)
    return (rows[finite], scores[finite]) if finite.any() else None


def _highest_scored(
    cell: ResultRow, sort: str, count: int, label: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the images of c_f with the highest scores.

    Returns:
        (rows of the sample set, scores); None if the run has no images or no scores of them.

    Raises:
        SaBenchError: several measurements have that name.
    """
    names = _measurement_names(cell, sort)
    if len(names) > 1:
        raise SaBenchError(
            f"{label}: several scores are called {sort}: {', '.join(names)}. Give --sort one of these names."
        )
    scored = _scored_rows(cell, names[0]) if names else None
    if scored is None:
        return None
    rows, scores = scored
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


def _load_images(path: Path | None, rows: slice | np.ndarray, veiled: bool) -> np.ndarray | None:
    """Load some images of a sample set, uint8 (N, H, W, C), blurred if veiled; None without the file."""
    if path is None:
        return None
    images = load_arrays(path)["images"][rows]
    if not veiled:
        return images
    blur = ImageFilter.GaussianBlur(max(images.shape[1:3]) / 12)
    return np.stack(
        [
            np.asarray(Image.fromarray(image.squeeze()).filter(blur)).reshape(image.shape)
            for image in images
        ]
    )


KINDS = {
    "tradeoff": _draw_tradeoff,
    "pareto": _draw_pareto,
    "sweep": _draw_sweep,
    "samples": _draw_samples,
}


def caption(board: Board, sort: str = "") -> str:
    """Write the caption: the board, its runs, and what bars are or how images are `sort`ed."""
    if sort:
        unscored = [
            x.label
            for x in board.lines
            if _has_images(x) and _highest_scored(x.cells[0], sort, 1, x.label) is None
        ]
        text = f"{board.title}, scale {board.scale}; of each row's first run the images of {board.concept} with the highest "
        text += f"{sort}, which stands below each."
        return text + (f" Without a score: {', '.join(unscored)}." if unscored else "")
    keep = board.primary[2]
    runs = sorted({len(x.cells) for x in board.lines if x.cells})
    run_count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    base = next((e.base for x in board.lines if (e := x.known(keep)) and e.base is not None), None)
    unit = next((e.unit for x in board.lines if (e := x.known(keep))), None)
    text = f"{board.title}, scale {board.scale}; {run_count} run(s) a row. "
    text += "Bars: one run's 95 % interval, of several the lowest and highest."
    return text + (
        f" Base model: {format_number(base, unit)} {unit or ''}".rstrip() + "."
        if base is not None
        else ""
    )
