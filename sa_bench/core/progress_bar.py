"""The bar that the functions of `sa_bench.api` show while they work, in a notebook or a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Self, TextIO

from tqdm.auto import tqdm

SELDOM = 30.0  # seconds between two writes into a file, where a bar cannot be drawn over


class ProgressBar:
    """One bar for each working cell: its stage, count, rate and remaining time."""

    def __init__(self, shown: bool = True, file: TextIO | None = None) -> None:
        """Show nothing yet.

        Args:
            shown: False never shows a bar.
            file: where bars are written; None takes stderr.
        """
        self.shown, self.file = shown, file
        self.bars: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}  # stage of each bar; all metrics are one, `measure`
        self.titles: Mapping[str, str] = {}
        """Title of each cell by its id; a cell without one is called by its name."""

    def __enter__(self) -> Self:
        """Show nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all bars."""
        for cell in list(self.bars):
            self._close(cell)

    def update(self, cell: str, stage: str, done: int, total: int, worker: str = "") -> None:
        """Show that `done` of `total` steps of a stage are done in the cell of that name."""
        if not self.shown:
            return
        kind = "measure" if stage.startswith("measure ") else stage
        text = f"{self.titles.get(cell.rpartition('-')[2], cell)}: {stage}"
        if cell in self.bars and self.kinds[cell] != kind:
            self._close(cell)
        if cell not in self.bars:
            draws_over = _draws_over(self.file or sys.stderr)
            every = 0.1 if draws_over else SELDOM
            self.kinds[cell] = kind
            self.bars[cell] = tqdm(
                desc=text,
                initial=done,
                total=total,
                leave=False,
                file=self.file,
                delay=0 if draws_over else SELDOM,
                mininterval=every,
                maxinterval=max(every, 10.0),
            )
        bar = self.bars[cell]
        bar.set_description(text, refresh=False)
        bar.update(done - bar.n)

    def finish(self, cell: str) -> None:
        """Remove the bar of the cell whose name ends in that id."""
        for name in [name for name in self.bars if name.endswith(cell)]:
            self._close(name)

    def _close(self, cell: str) -> None:
        self.bars.pop(cell).close()


def _draws_over(file: TextIO) -> bool:
    """Return whether a bar can be drawn over: on a terminal and in a notebook."""
    return file.isatty() or "ipykernel" in sys.modules
