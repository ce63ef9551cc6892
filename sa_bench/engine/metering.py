"""Meter what stages cost: wall and CPU seconds, peak memory of the process and of a GPU."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sa_bench.core.errors import CellFailed
from sa_bench.core.parts import load_record, on_kept, parts_of, save_record
from sa_bench.core.store import write_atomic
from sa_bench.core.untrusted_text import read_json

SPENT = "spent.json"
"""File among the parts of an unfinished stage: seconds spent on what is kept of it, over all attempts."""
PART_COSTS = "cost-*.json"
"""Files there with the cost of each part that was made by itself."""
T = TypeVar("T")


def note_cost(parts: Path, number: int, cost: Mapping[str, Any]) -> None:
    """Leave the cost of a part, made as an artifact of its own, in the folder `parts` of the whole."""
    if cost:
        save_record(parts / PART_COSTS.replace("*", f"{number:05d}"), dict(cost))


class Meter:
    """Meters nested stages: what an inner stage costs is not counted to the outer one.

    The cost of a stage that was killed and resumed is that of what it is made of: what an attempt did after the last
    part or checkpoint that it kept is done again, and not counted.
    """

    def __init__(self, device: str, divisor: int = 1) -> None:
        """Begin with no stage under way; `divisor` is recorded, see `Chain`."""
        self.divisor, self._divided = divisor, divisor
        self.device, self.cuda = device, device.partition(":")[0] == "cuda"
        self._open: list[_Stage] = []
        self._memory = ProcessMemory()

    def timed(self, build: Callable[[Path], Mapping | None], folder: Path) -> dict[str, Any]:
        """Run `build(folder)` and return what it returns, with its `cost`.

        The cost is the sum over all that attempts kept and over the parts that other workers made.
        """
        parts = parts_of(folder)
        meta, cost = self._time(lambda: dict(build(folder) or {}), parts / SPENT)
        part_costs = [load_record(file) for file in sorted(parts.glob(PART_COSTS))]
        return meta | {"cost": add_costs([cost, *filter(None, part_costs)])}

    def timed_part(self, build: Callable[[Path, int], object], parts: Path, number: int) -> None:
        """Make one part of a stage in the folder `parts`, and leave its cost there."""
        file = parts / PART_COSTS.replace("*", f"{number:05d}")
        _, cost = self._time(lambda: build(parts, number), parts / f"spent-{number:05d}.json")
        if not file.is_file():
            save_record(file, cost)

    def note_divided(self, divisor: int) -> None:
        """Note that the stage under way had to take its images in so many pieces."""
        self._divided = max(self._divided, divisor)

    def _time(self, build: Callable[[], T], spent: Path) -> tuple[T, dict[str, Any]]:
        """Run `build` and return what it returns, and its cost with that of earlier attempts.

        The file `spent` keeps, for the next attempt, what was spent when a part was last kept.
        """
        if self.cuda:
            import torch

            torch.cuda.init()  # a worker's device is not initialised before its first tensor
        self._record_peaks()
        self._divided = self.divisor
        stage = _Stage(spent)
        self._open.append(stage)
        try:
            with on_kept(stage.note):
                result = build()
        finally:
            self._record_peaks()
            self._open.pop()
            if self._open:
                self._open[-1].add(stage)
        stage.file.unlink(missing_ok=True)
        wall, cpu = stage.spent()
        peak = None if stage.peak is None else round(stage.peak)
        cost: dict[str, Any] = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "peak_mib": peak}
        if self.cuda:
            cost["device_peak_mib"] = round(stage.device_peak)
        if self._divided > 1:
            cost["divisor"] = self._divided
        return result, cost | {"device": self.device}

    def _record_peaks(self) -> None:
        """Add the peaks since the last reset to the innermost stage, and reset them."""
        stage, peak = (self._open[-1] if self._open else None), self._memory.peak()
        if stage is not None and peak is not None:
            stage.peak = max(stage.peak or 0.0, peak)
        self._memory.reset()
        if not self.cuda:
            return
        import torch

        if stage is not None:
            stage.device_peak = max(
                stage.device_peak, torch.cuda.max_memory_allocated(self.device) / 2**20
            )
        torch.cuda.reset_peak_memory_stats(self.device)


def add_costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the seconds of a stage's parts; memory is that of the largest."""
    total = dict(costs[0])
    for cost in costs[1:]:
        for name in ("wall_s", "cpu_s"):
            total[name] = round(total[name] + cost[name], 3)
        for name in ("peak_mib", "device_peak_mib", "divisor"):
            peaks = [c[name] for c in (total, cost) if c.get(name) is not None]
            total |= {name: max(peaks)} if peaks else {}
    return total


class ProcessMemory:
    """Peak of this process's resident memory since the last reset.

    Linux can reset its high-water mark. Elsewhere the mark covers the whole process: it gives the
    peak of a stage that raised it, and nothing for one that did not.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        """Take the process's folder in /proc."""
        self.status, self.clear = proc / "status", proc / "clear_refs"
        self.resets = False
        self.before = 0.0
        self.reset()

    def reset(self) -> None:
        """Reset the peak."""
        try:
            self.clear.write_text("5")
            self.resets = self.status.is_file()
        except OSError:
            self.resets = False
            self.before = _read_high_water_mark()

    def peak(self) -> float | None:
        """Read the peak in MiB; None if the process held more before the reset, which hides it."""
        if not self.resets:
            highest = _read_high_water_mark()
            return highest if highest > self.before else None
        for line in self.status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None


def _read_high_water_mark() -> float:
    """Read the process's high-water mark in MiB; the system counts in KiB, macOS in bytes."""
    mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return mark / (2**20 if sys.platform == "darwin" else 1024)


class _Stage:
    """One stage under way: when it began, and what it has cost so far."""

    def __init__(self, file: Path) -> None:
        """Read what earlier attempts spent from `file`, if there were any."""
        self.file, self.device_peak = file, 0.0  # MiB
        self.peak: float | None = None  # MiB of the process; None if unknown
        self.began = _read_clocks()
        self.inner = (0.0, 0.0)  # seconds of inner stages, in this attempt
        try:
            wall, cpu = read_json(file)
            self.earlier = (float(wall), float(cpu))
        except (OSError, ValueError, TypeError):
            self.earlier = (0.0, 0.0)

    def spent(self) -> tuple[float, float]:
        """Sum the wall and CPU seconds of this attempt and of what earlier ones kept, without those of inner stages."""
        now = zip(_read_clocks(), self.began, self.inner, self.earlier, strict=True)
        wall, cpu = (clock - began - inner + earlier for clock, began, inner, earlier in now)
        return wall, cpu

    def add(self, stage: _Stage) -> None:
        """Count the time of an inner stage that has ended."""
        took = zip(self.inner, _read_clocks(), stage.began, strict=True)
        wall, cpu = (inner + clock - began for inner, clock, began in took)
        self.inner = (wall, cpu)

    def note(self) -> None:
        """Save the seconds for the next attempt.

        Where they cannot be written they are not counted.
        """
        try:
            write_atomic(self.file, json.dumps([round(s, 3) for s in self.spent()]).encode())
        except (OSError, CellFailed):
            return


def _read_clocks() -> tuple[float, float]:
    """Read the wall and the CPU clock in seconds."""
    return time.monotonic(), time.process_time()
