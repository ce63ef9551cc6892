"""Figures for papers (SVG, PDF, PNG): trade-offs, the Pareto front, sweeps, and images on the same seeds.

Colours are Okabe and Ito's, which colour-blind readers tell apart; every line has a marker of its own as well, so that
a figure can be read in grey. The same results give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image, ImageFilter

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.plots import swept_fields
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.data.sample_sets import load_arrays
from sa_bench.results.files import read_columns_of
from sa_bench.results.format import format_number
from sa_bench.results.rows import may_be_explicit, metric_of

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
WHAT = {
    "forget_top1": "images of c_f still judged so",
    "recovery": "come back when refitted",
}
"""Endpoints in the words of an axis; others by their names."""


def render(
    kind: str,
    board: Board,
    ending: str,
    field: str = "",
    columns: int = 8,
    explicit: bool = False,
    sort: str = "",
) -> bytes:
    """A figure of one board.

    Args:
        kind: `tradeoff`, `pareto`, `sweep` or `samples`.
        board: what it shows.
        ending: svg, pdf or png.
        field: of a sweep: the field on the x axis; empty: the one that varies.
        columns: of samples: images a row.
        explicit: of samples: show what may be nudity unblurred.
        sort: of samples: a measurement, of whose scores each row shows the images with the highest; empty: the first ones.

    Raises:
        SaBenchError: another kind or ending, matplotlib is missing, or the board has nothing to show.
    """
    if kind not in KINDS:
        raise unknown_name("figure", kind, KINDS)
    if sort and kind != "samples":
        raise SaBenchError(
            f"Images are sorted, and a figure {kind} has none: figure samples --sort {sort}."
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
        made = (
            _samples(board, columns, explicit, sort)
            if kind == "samples"
            else KINDS[kind](board, field)
        )
        buffer = io.BytesIO()
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[ending]
        made.savefig(buffer, format=ending, dpi=200, metadata=dated)
    return buffer.getvalue()


def _figure(panels: int, high: float = 3.2) -> tuple[Figure, list[Axes]]:
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


def _legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int, title: str = ""
) -> None:
    """A legend below the panels in at most `columns`, up to a third wider than these; the figure grows to hold it."""
    wide, high = figure.get_size_inches()
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
    figure.set_size_inches(max(wide, box.width / figure.dpi), high + box.height / figure.dpi)


def _drawn(board: Board, names: Sequence[str]) -> list[Line]:
    """The lines that have a value of every endpoint in `names`.

    Raises:
        SaBenchError: none has.
    """
    found = [line for line in board.lines if all(line.known(name) for name in names)]
    if not found:
        raise SaBenchError(
            f"{board.task}: no line has {' and '.join(names)}, so there is nothing to draw."
        )
    return found


def _looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Colour and marker of every line: methods bright and filled if on the front, all else grey."""
    bright = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    found = []
    for line in lines:
        if line.standing == "method":
            colour, marker = next(bright)
            face = colour if line.front else "white"
            found.append(
                {
                    "color": colour,
                    "marker": "x" if line.collapsed else marker,
                    "markerfacecolor": face,
                }
            )
        else:
            marker = {"reference": "*", "target": "*"}.get(line.standing, "+")
            found.append({"color": GREY, "marker": marker, "markerfacecolor": "white"})
    return found


def _spread(found: Endpoint) -> list[float]:
    """How far the error bar goes down and up."""
    value = found.value or 0.0
    low, high = (value if v is None else v for v in (found.low, found.high))
    return [
        max(0.0, value - low),
        max(0.0, high - value),
    ]  # the mean of equal values may lie beside them


def _axis(board: Board, name: str) -> str:
    found = next(x.endpoints[name] for x in board.lines if name in x.endpoints)
    what = WHAT.get(name, name).replace("c_f", board.concept)
    notes = [found.unit] if found.unit and found.unit not in ("rate", "probability") else []
    notes += [f"{found.better} is better"] if found.better else []
    return f"{what}\n({', '.join(notes)})" if notes else what


def _scatter(
    axes: Axes, board: Board, lines: Sequence[Line], across: str
) -> list[tuple[Any, float, str]]:
    """Draw a panel; where its points are, and what is to be said beside the number of each."""
    keep = board.primary[2]
    low, high = _range(
        [line.endpoints[keep] for line in lines if not line.collapsed] or [lines[0].endpoints[keep]]
    )
    axes.set_ylim(low, high)
    found = lines[0].endpoints[across]
    if found.unit in ("rate", "probability"):
        axes.set_xscale(
            "function", functions=(_root, np.square)
        )  # most rates of interest are small
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
        axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f}")
    axes.set_xlabel(_axis(board, across) + (", %" if found.unit in ("rate", "probability") else ""))
    points = []
    for line, look in zip(lines, _looks(lines), strict=True):
        x, y = line.endpoints[across], line.endpoints[keep]
        at = min(max(y.value or 0.0, low), high)
        axes.errorbar(
            [x.value or 0.0],
            [at],
            xerr=[[v] for v in _spread(x)],
            yerr=[[v] for v in _spread(y)] if at == y.value else None,  # type: ignore[list-item]
            elinewidth=0.8,
            markersize=6,
            linestyle="none",
            label=f"{len(points) + 1}  {line.label}",
            clip_on=False,
            **look,
        )
        points.append(
            (x.value, at, "" if at == y.value else f" ({format_number(y.value, y.unit)})")
        )
    return points


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


def _range(found: Sequence[Endpoint]) -> tuple[float, float]:
    """The span of the values and their bars with a margin."""
    ends = [(e.value or 0.0) + sign * _spread(e)[sign > 0] for e in found for sign in (-1, 1)]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    return min(ends) - margin, max(ends) + margin


def _number(axes: Axes, points: Sequence[tuple[Any, float, str]]) -> None:
    """Number the points, each beside its own and none on another."""
    places = [axes.transData.transform((x, y)) * 72 / axes.figure.dpi for x, y, _ in points]
    taken = list(places)
    moves = [
        (r * np.cos(a), r * np.sin(a)) for r in (8, 13, 19, 26) for a in np.arange(8) * np.pi / 4
    ]
    for number, ((x, y, remark), place) in enumerate(zip(points, places, strict=True), 1):

        def room(move: tuple[float, float], place: Any = place) -> float:
            return min(float(np.hypot(*(place + move - other))) for other in taken)

        move = next((m for m in moves if room(m) > 7), max(moves, key=room))
        taken.append(place + move)
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY} if np.hypot(*move) > 9 else None
        axes.annotate(
            f"{number}{remark}",
            (x, y),
            move,
            textcoords="offset points",
            fontsize=6.5,
            ha="center",
            va="center",
            arrowprops=line,
            annotation_clip=False,
        )


def _floors(axes: Axes, board: Board, forgetting: bool) -> None:
    """The gate, or what a model brings back that never saw c_f."""
    if forgetting:
        axes.axvline(board.chance, color=GREY, linewidth=0.8, linestyle="--")
        return
    floor = [
        f.value
        for x in board.lines
        if x.standing == "reference" and (f := x.known(board.primary[1]))
    ]
    for value in floor:
        axes.axvline(value or 0.0, color=GREY, linewidth=0.8, linestyle=":")


def _panels(board: Board, across: Sequence[str]) -> Figure:
    keep = board.primary[2]
    lines = _drawn(board, [*across, keep])
    figure, panels = _figure(len(across))
    points = []
    for axes, name in zip(panels, across, strict=True):
        points.append(_scatter(axes, board, lines, name))
        _floors(axes, board, name == board.primary[0])
    panels[0].set_ylabel(_axis(board, keep))
    title = (
        "filled: on the Pareto front",
        "×: collapsed",
        "grey: controls and references",
        "(value): beyond the edge",
    )
    where = [";\n".join("; ".join(pair) for pair in (title[:2], title[2:])), "; ".join(title)][
        len(across) > 1
    ]
    _legend(figure, *panels[0].get_legend_handles_labels(), 2 * len(across), where)
    figure.draw_without_rendering()  # now the panels have their sizes
    for axes, found in zip(panels, points, strict=True):
        _number(axes, found)
    return figure


def _tradeoff(board: Board, field: str) -> Figure:
    """Forgetting against retention."""
    return _panels(board, board.primary[:1])


def _pareto(board: Board, field: str) -> Figure:
    """Forgetting and recovery against retention."""
    return _panels(board, board.primary[:2])


def _sweep(board: Board, field: str) -> Figure:
    """The three endpoints over a field, one curve a method."""
    there = swept_fields(board)
    field = field or next(iter(there), "")
    curves = there.get(field, {})
    if not curves:
        names = ", ".join(there) or "none"
        raise SaBenchError(
            f"{board.task}: no method has two values of {field!r}; fields that vary: {names}."
        )
    figure, panels = _figure(3, 2.6)
    for axes, name in zip(panels, board.primary, strict=True):
        for (method, points), colour, marker in zip(
            curves.items(), cycle(COLOURS), cycle(MARKERS), strict=False
        ):
            there = [(x, line.endpoints[name]) for x, line in points if line.known(name)]
            xs, found = [x for x, _ in there], [e for _, e in there]
            axes.errorbar(
                xs,
                [e.value or 0.0 for e in found],
                yerr=np.array([_spread(e) for e in found]).T if found else None,  # type: ignore[list-item]
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
            axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")  # that of matplotlib is TeX
            axes.xaxis.set_minor_formatter(lambda v, _: "")
        if next(x.endpoints[name] for x in board.lines if name in x.endpoints).unit in (
            "rate",
            "probability",
        ):
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        axes.set_xlabel(field)
        axes.set_title(_axis(board, name), fontsize=8)
        bases = [e.base for x in board.lines if (e := x.known(name)) and e.base is not None]
        if bases and name != board.primary[0]:
            axes.axhline(bases[0], color=GREY, linewidth=0.8, linestyle=":", label="base model")
    panels[0].axhline(board.chance, color=GREY, linewidth=0.8, linestyle="--", label="gate")
    handles = {
        label: h
        for axes in panels
        for h, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    _legend(figure, list(handles.values()), list(handles), 6)
    return figure


def _samples(board: Board, columns: int, explicit: bool, sort: str = "") -> Figure:
    """Images of c_f: the base model's and every line's on the same seeds or, sorted, those with the highest scores."""
    rows: list[tuple[str, np.ndarray, list[str]]] = []
    for line in board.lines:
        if not line.cells:
            continue
        cell = line.cells[0]
        veiled = may_be_explicit(cell["task_values"]) and not explicit
        folder = Path(cell["folder"])
        if sort:
            best = _highest(cell, sort, columns, line.label)
            if best is not None:
                shown_rows, scores = best
                images = _images(folder / "forget.safetensors", shown_rows, veiled)
                rows.append((line.label, images, [f"{score:.3g}" for score in scores]))  # type: ignore[arg-type]
            continue
        for label, name in (("before", "forget-base"), (line.label, "forget")):
            images = _images(folder / f"{name}.safetensors", slice(columns), veiled)
            # changed no image
            same = rows and images is not None and np.array_equal(images, rows[0][1])
            if images is not None and not same and (label != "before" or not rows):
                rows.append((label, images, []))
    if len(rows) < (1 if sort else 2):
        if sort and any(_stored(line) for line in board.lines):
            _refuse_score(board, sort)
        raise SaBenchError(
            f"{board.task}: no images here. Packed results have none: give the run folder."
        )
    from matplotlib.figure import Figure

    size = 0.5
    figure = Figure(
        figsize=(size * columns + 1.4, size * len(rows) * (1.3 if sort else 1)),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (label, images, scores), line_of in zip(rows, grid, strict=True):
        for axes in line_of:
            axes.set_axis_off()
        for axes, image in zip(line_of, islice(images, columns), strict=False):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for axes, score in zip(line_of, scores, strict=False):
            axes.text(
                0.5, -0.05, score, transform=axes.transAxes, ha="center", va="top", fontsize=5
            )
        line_of[0].text(
            -0.15, 0.5, label, transform=line_of[0].transAxes, ha="right", va="center", fontsize=7
        )
    return figure


def _stored(line: Line) -> bool:
    """Whether the images of c_f of a line's first run are here."""
    return bool(line.cells) and (Path(line.cells[0]["folder"]) / "forget.safetensors").is_file()


def _names(cell: Mapping[str, Any], sort: str) -> list[str]:
    """The measurements that `sort` names: one by its whole name, or by its metric's (`kid` of `kid[judge]`)."""
    return [m["name"] for m in cell["measurements"] if sort in (m["name"], metric_of(m))]


def _refuse_score(board: Board, sort: str) -> NoReturn:
    """Say that no line has scores of `sort` for its images of c_f, and which it has."""
    known = []
    for line in board.lines:
        if _stored(line):
            of_line = [m["name"] for m in line.cells[0]["measurements"]]
            known += [name for name in of_line if _scored_rows(line.cells[0], name) is not None]
    raise unknown_name("score of the images of c_f", sort, list(dict.fromkeys(known)))


def _scored_rows(cell: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Which of a run's images of c_f have a finite score of a measurement, and the scores; None: they have none of it.

    A score is joined to its image by seed and, where there is one, prompt; one that is of other images is not theirs. A
    metric that asks the model draws images of its own, as recovery does from the same seeds.
    """
    known = {entry.name for entry in registry.list_entries("metric")}
    of = {metric_of(m) for m in cell["measurements"] if m["name"] == name} & known
    if any("model" in registry.get_metric(metric).requires for metric in of):
        return None
    file, found = Path(cell["folder"]) / "forget.safetensors", read_columns_of(cell, name)
    if "seed" not in found or not file.is_file():
        return None
    kept = load_arrays(file)
    units = [
        k
        for k, column in (("seed", "seeds"), ("prompt", "prompts"))
        if k in found and column in kept
    ]
    asked = np.stack([kept[f"{k}s"] for k in units], 1).tolist()
    where = {tuple(key): i for i, key in reversed(list(enumerate(asked)))}
    keys = [tuple(key) for key in np.stack([found[k] for k in units], 1).tolist()]
    if not keys or any(key not in where for key in keys):
        return None
    rows, scores = np.array([where[key] for key in keys]), found["score"]
    finite = np.isfinite(scores)
    return (rows[finite], scores[finite]) if finite.any() else None


def _highest(
    cell: Mapping[str, Any], sort: str, count: int, label: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """The images of c_f with the highest scores, and these; None: a run without images, or without a score of any.

    Raises:
        SaBenchError: several measurements have that name.
    """
    names = _names(cell, sort)
    if len(names) > 1:
        raise SaBenchError(
            f"{label}: several scores are {sort}: {', '.join(names)}. Give one of them."
        )
    found = _scored_rows(cell, names[0]) if names else None
    if found is None:
        return None
    rows, scores = found
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


def _images(path: Path, rows: slice | np.ndarray, veiled: bool) -> np.ndarray | None:
    """Some images of a sample set, uint8 (N, H, W, C), blurred if veiled; None: the file is not there."""
    if not path.is_file():
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


KINDS = {"tradeoff": _tradeoff, "pareto": _pareto, "sweep": _sweep, "samples": _samples}


def caption(board: Board, sort: str = "") -> str:
    """What stands below a figure: the board, its runs, what the bars are or how the images are `sort`ed."""
    if sort:
        left = [
            x.label
            for x in board.lines
            if _stored(x) and _highest(x.cells[0], sort, 1, x.label) is None
        ]
        text = f"{board.title}, scale {board.scale}; of each row's first run the images of {board.concept} with the highest "
        text += f"{sort}, which stands below each."
        return text + (f" Without a score: {', '.join(left)}." if left else "")
    keep = board.primary[2]
    runs = sorted({len(x.cells) for x in board.lines if x.cells})
    many = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    base = next((e.base for x in board.lines if (e := x.known(keep)) and e.base is not None), None)
    unit = next((e.unit for x in board.lines if (e := x.known(keep))), None)
    text = f"{board.title}, scale {board.scale}; {many} run(s) a row. "
    text += "Bars: one run's 95 % interval, of several the lowest and highest."
    return text + (
        f" Base model: {format_number(base, unit)} {unit or ''}".rstrip() + "."
        if base is not None
        else ""
    )
