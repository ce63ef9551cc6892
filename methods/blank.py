"""`blank`: a filter that shows black where the model drew c_f, as safety checkers do. A control.

    x_f ← 0, after sampling; θ = θ*

Every detector of c_f is silent on black images; a benchmark that counts detections calls this the best
method. The weights are untouched, so recovery brings everything back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sa_bench.contracts import Generator, Run, Task


@dataclass(frozen=True)
class Blank:
    """Black images for c_f."""

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "control"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "a control of this suite"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ*, unchanged."""
        return model

    def render(self, images: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
        """uint8 (N, H, W, C) with c_f's rows black."""
        return np.where((labels == task.concept)[:, None, None, None], np.uint8(0), images)
