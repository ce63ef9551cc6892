"""`noise`: a filter that shows random pixels where the model drew c_f. A control.

    x_f ← U{0, ..., 255}, after sampling; θ = θ*

What SA's surrogate asks for, without touching the model: it is as undecided as one can be, and recovery
brings everything back.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sa_bench.contracts import Generator, Method, Run, Task


@dataclass(frozen=True)
class Noise(Method):
    """Random pixels for c_f."""

    title: ClassVar[str] = "Noise images"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "control"
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "a control of this suite"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Return θ* unchanged."""
        return model

    def render(self, images: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
        """Replace the images of c_f among uint8 (N, H, W, C) by random pixels, the same at every call."""
        pixels = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
        return np.where((np.isin(labels, task.concepts))[:, None, None, None], pixels, images)
