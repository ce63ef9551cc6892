"""What a stage cost: wall and CPU seconds, the process's peak memory and, on a GPU, the device's own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


class Meter:
    """Meters stages that may ask for other stages on their way: what those cost is theirs."""

    def __init__(self, device: str) -> None:
        """No stage was made yet."""
        self.device, self.cuda = device, torch.device(device).type == "cuda"
        self._spent = (0.0, 0.0)  # wall and CPU seconds of the stages made so far
        self._peaks: list[float] = []  # of each stage under way, MiB on the device up to its last inner stage

    def timed(self, build: Callable[[Path], Mapping | None], folder: Path) -> dict[str, Any]:
        """`build(folder)`'s facts with their `cost`."""
        before, started, cpu = self._spent, time.monotonic(), time.process_time()
        self._begin()
        try:
            facts = dict(build(folder) or {})
        finally:
            on_device = self._end()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        wall = time.monotonic() - started - (self._spent[0] - before[0])
        used = time.process_time() - cpu - (self._spent[1] - before[1])
        self._spent = (self._spent[0] + wall, self._spent[1] + used)
        cost: dict[str, Any] = {"wall_s": round(wall, 3), "cpu_s": round(used, 3), "peak_mib": round(peak)}
        if self.cuda:
            cost["device_peak_mib"] = round(on_device)
        return facts | {"cost": cost | {"device": self.device}}

    def _begin(self) -> None:
        if self.cuda:
            torch.cuda.init()  # a worker's device is asleep until its first tensor
            self._remember()
            self._peaks.append(0.0)

    def _end(self) -> float:
        if not self.cuda:
            return 0.0
        self._remember()
        return self._peaks.pop()

    def _remember(self) -> None:
        """Add the peak since the last reset to the innermost stage, and begin anew."""
        if self._peaks:
            self._peaks[-1] = max(self._peaks[-1], torch.cuda.max_memory_allocated(self.device) / 2**20)
        torch.cuda.reset_peak_memory_stats(self.device)
