"""Figures that show images: rows of c_f on the same seeds, the highest scored ones, and the overview."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image, ImageFilter

from sa_bench.analysis.attacks import find_curve
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.figure_style import choose_styles
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.data.sample_sets import load_arrays
from sa_bench.results.files import read_columns_of
from sa_bench.results.rows import find_sample_set, may_be_explicit, metric_of
from sa_bench.results.schema import ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_samples(board: Board, columns: int, explicit: bool, sort: str = "") -> Figure:
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
            highest = highest_scored(cell, sort, columns, line.label)
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
        if sort and any(has_images(line) for line in board.lines):
            _refuse_score(board, sort)
        raise SaBenchError(
            f"{board.task}: these results have no images (packed results never do); give the run folder."
        )
    from matplotlib.figure import Figure

    columns = min(columns, max(len(images) for _, images, _ in rows))
    size = 0.5  # inches of an image
    label_width = 0.25 + 0.06 * max(len(label) for label, _, _ in rows)  # of letters of 7 points
    width, height = size * columns + label_width, size * len(rows) * (1.3 if sort else 1)
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    margin = 0.05 / height
    figure.subplots_adjust(
        label_width / width,
        margin + 0.13 / height * bool(sort),
        0.99,
        1 - margin,
        0.06,
        0.4 if sort else 0.06,
    )
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


def draw_overview(board: Board, columns: int, explicit: bool) -> Figure:
    """Draw what a board says in one picture: images before and after, and what comes back by the attack.

    The images are of c_f, on the same seeds. The curve is the endpoint of recovery over the steps in
    which c_f's condition is fitted again, with the most images that the attacker has.
    """
    from matplotlib.figure import Figure

    rows: list[tuple[str, np.ndarray]] = []
    for line in (line for line in board.lines if line.cells):
        cell = line.cells[0]
        veiled = may_be_explicit(cell["task_values"]) and not explicit
        for label, name in (("before", "forget-base"), (line.label, "forget")):
            images = _load_images(find_sample_set(cell, name), slice(columns), veiled)
            if images is not None and not any(np.array_equal(images, old) for _, old in rows):
                rows.append((label, images))
    curves = [(line, curve) for line in board.lines if (curve := find_mean_curve(board, line))]
    if len(rows) < 2 or not curves:
        missing = "no images (packed results never do)" if len(rows) < 2 else "no curve of recovery"
        raise SaBenchError(f"{board.task}: these results have {missing}; give the run folder.")
    size = 0.36
    figure = Figure(figsize=(size * columns + 4.6, max(2.3, size * len(rows) + 0.6)))
    halves: Any = figure.subfigures(1, 2, width_ratios=(size * columns + 1.4, 3.2))
    left, right = halves
    grid = left.subplots(len(rows), columns, squeeze=False)
    left.subplots_adjust(0.24, 0.05, 0.99, 0.82, 0.05, 0.05)
    left.suptitle(f"asked for {board.concept}, the same seeds", fontsize=8)
    for (label, images), axes_row in zip(rows, grid, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, image in zip(axes_row, images, strict=False):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes_row[0].text(
            -0.2, 0.5, label, transform=axes_row[0].transAxes, ha="right", va="center", fontsize=7
        )
    _draw_curves(right.subplots(), curves)
    right.subplots_adjust(0.17, 0.19, 0.74, 0.82)
    right.suptitle(f"{board.concept} comes back when its condition is fitted again", fontsize=8)
    return figure


def find_mean_curve(board: Board, line: Line) -> list[tuple[int, float]]:
    """Find (steps, share that comes back), the mean over a row's runs; [] without a curve."""
    curve = find_curve(line, board.primary[1])
    return [(steps, fmean(p["value"] for p in points)) for steps, points in curve.items()]


def _draw_curves(axes: Axes, curves: Sequence[tuple[Line, Sequence[tuple[int, float]]]]) -> None:
    """Draw a curve a row, each named at its end."""
    styles = choose_styles([line for line, _ in curves])
    for (line, points), style in zip(curves, styles, strict=True):
        xs, ys = zip(*points, strict=True)
        is_method = line.standing == "method"
        axes.plot(
            xs,
            [100 * y for y in ys],
            color=style["color"],
            marker=style["marker"],
            markersize=3,
            linewidth=1.6 if is_method else 1,
            linestyle="-" if is_method else "--",
        )
    lowest = -100.0
    for line, points in sorted(curves, key=lambda curve: curve[1][-1][1]):
        y = 100 * points[-1][1]
        lowest = max(y, lowest + 9)  # names do not overlap
        role = {"control": "a control", "reference": "the floor"}.get(line.standing)
        text = f"{line.label}, {role}" if role else line.label
        place = (max(points[-1][0] for _, points in curves) * 1.03, lowest)
        axes.annotate(text, place, fontsize=7, va="center", annotation_clip=False)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("steps of the attack")
    axes.set_ylabel("images shown again, %")


def has_images(line: Line) -> bool:
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
        if has_images(line):
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


def highest_scored(
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
