"""Tables for a terminal, in which no word is broken as long as there is room for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sa_bench.core.escaping import escape_terminal

BETWEEN = 3  # characters between two columns


@dataclass(frozen=True)
class Column:
    """A column of a table; its cells break at line ends and, if it wraps, between words."""

    heading: str
    cells: Sequence[str]
    wraps: bool = False
    """Whether its cells may break between words."""

    @property
    def widest(self) -> int:
        """Width, in characters, of its longest line."""
        return max(cell_len(line) for text in self._list_texts() for line in text.split("\n"))

    @property
    def narrowest(self) -> int:
        """Width, in characters, below which a word would be broken."""
        if not self.wraps:
            return self.widest
        return max(cell_len(word) for text in self._list_texts() for word in text.split() or [""])

    def _list_texts(self) -> list[str]:
        return [escape_terminal(text) for text in (self.heading, *self.cells)]


def narrowest_width(columns: Sequence[Column]) -> int:
    """Compute the width, in characters, below which a table would break a word."""
    return sum(column.narrowest for column in columns) + BETWEEN * (len(columns) - 1)


def choose_layout(layouts: Iterable[Sequence[Column]], width: int) -> Sequence[Column]:
    """Choose the first layout that fits into `width` characters; the last one if none does."""
    columns: Sequence[Column] = ()
    for columns in layouts:
        if narrowest_width(columns) <= width:
            break
    return columns


def print_columns(columns: Sequence[Column], width: int, wide: bool = False) -> None:
    """Print a table of plain texts.

    Args:
        columns: of the same length each.
        width: of the terminal. What it leaves over goes to the columns that wrap, the first one
            first.
        wide: whether its rows may be longer than `width`, so that none is broken.
    """
    if wide:
        unbroken = sum(column.widest for column in columns) + BETWEEN * (len(columns) - 1)
        width = max(width, unbroken)
    table = Table(title=None, show_edge=False, pad_edge=False)
    spare = width - narrowest_width(columns)
    for column in columns:
        added = max(0, min(spare, column.widest - column.narrowest))
        spare -= added
        heading = Text(escape_terminal(column.heading))
        table.add_column(heading, overflow="fold", width=column.narrowest + added)
    for row in zip(*(column.cells for column in columns), strict=True):
        # as Text: in a plain string rich would take the brackets of `fid[judge-mnist]` for a style
        table.add_row(*(Text(escape_terminal(cell)) for cell in row))
    Console(width=width).print(table)
