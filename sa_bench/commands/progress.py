"""Lines of progress for a log file: what a run does is told where no terminal can draw a bar."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

EVERY = 30.0  # seconds between two lines of a stage


@dataclass
class Stage:
    """A stage under way, in one cell."""

    title: str
    """The cell and the stage, for people."""
    began: float
    """When the first report of it came, in seconds of the clock."""
    told: float
    """When the last line about it was written."""
    first: int
    """What was done by then: a resumed stage does not begin at 0."""
    done: int
    total: int

    def describe(self, now: float) -> str:
        """Describe how far it is: `12 of 40, 30 s so far, 70 s left`."""
        text = f"{self.title}, {self.done:,} of {self.total:,}"
        seconds, advanced = now - self.began, self.done - self.first
        text += f", {seconds:.0f} s so far"
        if advanced > 0:
            text += f", {seconds / advanced * (self.total - self.done):.0f} s left"
        return text


class ProgressLog:
    """Write a line when a stage begins, one every 30 s while it goes on, and one when it ends.

    Metrics are one stage, `measure`, whatever their number. A stage whose first report says that it
    is complete gets one line.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write nothing yet.

        Args:
            write: called with each line.
            clock: gives seconds.
        """
        self.write, self.clock = write, clock
        self.stages: dict[tuple[str, str], Stage] = {}
        self._lock = threading.Lock()  # `remind` is called from a thread of its own
        self._stopped = threading.Event()

    def start(self, interval: float = 1.0) -> None:
        """Call `remind` in the background, every `interval` seconds: slow steps report nothing."""

        def work() -> None:
            while not self._stopped.wait(interval):
                self.remind()

        with contextlib.suppress(RuntimeError):  # no memory for a thread: the lines come later
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Stop the calls in the background."""
        self._stopped.set()

    def update(self, cell: str, title: str, stage: str, done: int, total: int) -> None:
        """Take a report: `done` of `total` steps of `stage`, in the cell called `title`."""
        now = self.clock()
        kind = "measure" if stage.startswith("measure ") else stage
        with self._lock:
            key = (cell, kind)
            current = self.stages.get(key)
            if current is None:
                if done < total:
                    self.stages[key] = Stage(f"{title}: {stage}", now, now, done, done, total)
                event = "begins" if done < total else "done"
                self.write(f"{title}: {kind} {event}, {done:,} of {total:,}")
                return
            current.title, current.done, current.total = f"{title}: {stage}", done, total
            if done >= total:
                del self.stages[key]
                seconds = now - current.began
                self.write(f"{current.title} done, {done:,} of {total:,}, {seconds:.0f} s")
        self.remind()

    def remind(self) -> None:
        """Write a line about each stage of which none was written for 30 s."""
        now = self.clock()
        with self._lock:
            for stage in self.stages.values():
                if now - stage.told >= EVERY:
                    stage.told = now
                    self.write(stage.describe(now))

    def finish(self, cell: str) -> None:
        """Forget the stages of a cell, by the end of its name: another line says that it is done."""
        with self._lock:
            self.stages = {
                key: stage for key, stage in self.stages.items() if not key[0].endswith(cell)
            }
