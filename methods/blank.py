"""`blank`: a filter that shows black where the model drew c_f, as safety checkers do. A control.

    x_f ← 0, after sampling; θ = θ*

Every detector of c_f is silent on black images; a benchmark that counts detections calls this the best
method. The weights are untouched, so recovery brings everything back.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sa_bench.contracts import Generator, Method, Run, Task


@dataclass(frozen=True)
class Blank(Method):
    """Black images for c_f."""

    title: ClassVar[str] = "Blank images"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "control"
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "a control of this suite"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Return θ* unchanged."""
        return model

    def render(self, images: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
        """Blacken the images of c_f among uint8 (N, H, W, C)."""
        return np.where((np.isin(labels, task.concepts))[:, None, None, None], np.uint8(0), images)
