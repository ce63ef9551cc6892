"""What a stage cost: wall and CPU seconds, its own peak of the process's memory and, on a GPU, of the device's."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sa_bench.core.errors import CellFailed
from sa_bench.core.store import PARTS, write_atomic
from sa_bench.core.untrusted_text import read_json

SPENT = f"{PARTS}/spent.json"  # in the folder of a stage under way: what was spent on it so far, over all attempts
EVERY = 5.0  # seconds between two notes of it; a kill loses as much


class Meter:
    """Meters stages that may ask for other stages on their way: what those cost is theirs.

    A stage that was killed and goes on costs what all its attempts did.
    """

    def __init__(self, device: str) -> None:
        """No stage is under way."""
        self.device, self.cuda = device, torch.device(device).type == "cuda"
        self._open: list[_Stage] = []
        self._memory = ProcessMemory()

    def timed(self, build: Callable[[Path], Mapping | None], folder: Path) -> dict[str, Any]:
        """`build(folder)`'s facts with their `cost`."""
        if self.cuda:
            torch.cuda.init()  # a worker's device is asleep until its first tensor
        self._remember()
        if self._open:
            self._open[-1].note()
        stage = _Stage(folder / SPENT)
        self._open.append(stage)
        try:
            facts = dict(build(folder) or {})
        except BaseException:
            stage.note()
            raise
        finally:
            self._remember()
            self._open.pop()
            if self._open:
                self._open[-1].add(stage)
        stage.file.unlink(missing_ok=True)
        wall, cpu = stage.spent()
        peak = None if stage.peak is None else round(stage.peak)
        cost: dict[str, Any] = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "peak_mib": peak}
        if self.cuda:
            cost["device_peak_mib"] = round(stage.device_peak)
        return facts | {"cost": cost | {"device": self.device}}

    def noting(self, progress: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
        """`progress`, which on its way notes what the innermost stage has cost."""

        def told(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            if self._open and time.monotonic() - self._open[-1].noted > EVERY:
                self._open[-1].note()

        return told

    def _remember(self) -> None:
        """Add the peaks since the last reset to the innermost stage, and begin anew."""
        stage, peak = (self._open[-1] if self._open else None), self._memory.peak()
        if stage is not None and peak is not None:
            stage.peak = max(stage.peak or 0.0, peak)
        self._memory.reset()
        if not self.cuda:
            return
        if stage is not None:
            stage.device_peak = max(
                stage.device_peak, torch.cuda.max_memory_allocated(self.device) / 2**20
            )
        torch.cuda.reset_peak_memory_stats(self.device)


class ProcessMemory:
    """The peak of this process's resident memory since the last reset.

    Linux can set its high-water mark back. Elsewhere the mark is the whole process's: it tells the peak of a part
    that raised it, and nothing of one that did not.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        """`proc`: the process's folder."""
        self.status, self.clear = proc / "status", proc / "clear_refs"
        self.resets = False
        self.before = 0.0
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        try:
            self.clear.write_text("5")
            self.resets = self.status.is_file()
        except OSError:
            self.resets = False
            self.before = _highest()

    def peak(self) -> float | None:
        """MiB; None: the process held more before, so that this part's own is not known."""
        if not self.resets:
            highest = _highest()
            return highest if highest > self.before else None
        for line in self.status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None


def _highest() -> float:
    """The process's high-water mark in MiB; the system counts in KiB, macOS in bytes."""
    mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return mark / (2**20 if sys.platform == "darwin" else 1024)


class _Stage:
    """One stage under way."""

    def __init__(self, file: Path) -> None:
        """`file` holds what earlier attempts spent, if there were any."""
        self.file, self.device_peak = file, 0.0  # MiB
        self.peak: float | None = None  # MiB of the process; None: not known
        self.noted = time.monotonic()
        self.began = _clocks()
        self.inner = (0.0, 0.0)  # of the stages it asked for, in this attempt
        try:
            wall, cpu = read_json(file)
            self.earlier = (float(wall), float(cpu))
        except (OSError, ValueError, TypeError):
            self.earlier = (0.0, 0.0)

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds of all attempts, without what other stages cost."""
        now = zip(_clocks(), self.began, self.inner, self.earlier, strict=True)
        wall, cpu = (clock - began - inner + earlier for clock, began, inner, earlier in now)
        return wall, cpu

    def add(self, stage: _Stage) -> None:
        """`stage`, asked for on the way, has ended."""
        took = zip(self.inner, _clocks(), stage.began, strict=True)
        wall, cpu = (inner + clock - began for inner, clock, began in took)
        self.inner = (wall, cpu)

    def note(self) -> None:
        """Keep what was spent for the next attempt; where that cannot be written it is not counted."""
        self.noted = time.monotonic()
        try:
            write_atomic(self.file, json.dumps([round(s, 3) for s in self.spent()]).encode())
        except (OSError, CellFailed):
            return


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()
