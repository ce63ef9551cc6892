"""The look of figures: fonts, colours, markers, legends; and which rows are drawn.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every row also has a
marker of its own, so that a figure can be read in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.analysis.board import Board, Line
from sa_bench.core.errors import SaBenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
GREY = "#767676"
SMALL = 6.5  # points, of names and legends
MOST = 12
"""Rows that are drawn unless the user names them."""
Size = tuple[float, float]
"""Width and height in inches."""
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


def new_figure(
    panels: int, high: float = 3.2, size: Size | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side, `high` inches high, or of the `size` given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (3.4 * panels, high), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels, sharey=panels == 2)))


LEGEND: Any = {
    "fontsize": SMALL,
    "title_fontsize": SMALL,
    "handlelength": 1,
    "handletextpad": 0.5,
    "columnspacing": 0.8,
    "borderpad": 0,
}


def add_legend(
    figure: Figure,
    handles: Sequence[Any],
    labels: Sequence[str],
    columns: int,
    title: str = "",
    fixed: bool = False,
) -> None:
    """Add a legend below the panels, in at most `columns`; the figure grows to hold it unless `fixed`.

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
    if fixed:
        return
    figure.set_size_inches(max(width, box.width / figure.dpi), height + box.height / figure.dpi)


def choose_rows(lines: Sequence[Line]) -> list[Line]:
    """Choose at most MOST rows, in their order: the front, references, other methods, controls."""

    def importance(line: Line) -> tuple[int, int]:
        groups = [
            line.front,
            line.standing in ("reference", "target"),
            line.standing == "method" and not line.collapsed,
            line.standing == "control",
            True,
        ]
        return groups.index(True), lines.index(line)

    chosen = sorted((x for x in lines if x.cells), key=importance)[:MOST]
    return [line for line in lines if line in chosen]


def drawable_lines(board: Board, names: Sequence[str]) -> list[Line]:
    """Select the lines that have a value of every endpoint in `names`.

    Raises:
        SaBenchError: no line has.
    """
    drawable = [line for line in board.lines if all(line.known(name) for name in names)]
    if not drawable:
        raise SaBenchError(
            f"{board.task}: no row has {' and '.join(names)}, so there is nothing to draw."
        )
    return drawable


def choose_styles(lines: Sequence[Line]) -> list[dict[str, Any]]:
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
