"""A sample set: images with the condition and the seed of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SampleSet:
    """Images with their conditions and seeds."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,) the condition each was made from, or its true class
    seeds: np.ndarray  # int64 (N,); −1 where an image has none (real data)
    prompts: np.ndarray | None = (
        None  # int64 (N,) number of the prompt behind each; None: made from classes
    )
    finite: np.ndarray | None = None  # bool (N,) whether the model's values were; None: all of them

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    def of(self, label: int) -> SampleSet:
        """The rows of one class."""
        return self.take(self.labels == label)

    def take(self, rows: np.ndarray | slice) -> SampleSet:
        """Some rows, by mask, indices or slice."""
        prompts, finite = (
            None if part is None else part[rows] for part in (self.prompts, self.finite)
        )
        return SampleSet(self.images[rows], self.labels[rows], self.seeds[rows], prompts, finite)

    @property
    def broken(self) -> int:
        """Images whose values were not finite."""
        return 0 if self.finite is None else int((~self.finite).sum())

    def columns(self) -> dict[str, np.ndarray]:
        """What stands beside each image's score: its seed and, where there is one, the number of its prompt."""
        return {"seed": self.seeds} | ({} if self.prompts is None else {"prompt": self.prompts})

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept, by name."""
        import numpy as np  # lists of components are printed without it

        return {k: np.ascontiguousarray(v) for k, v in vars(self).items() if v is not None}

    @staticmethod
    def concatenate(parts: Sequence[SampleSet]) -> SampleSet:
        """All rows of `parts`, in order."""
        import numpy as np

        marks = [np.ones(len(p), bool) if p.finite is None else p.finite for p in parts]
        return SampleSet(
            np.concatenate([p.images for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.seeds for p in parts]),
            None
            if any(p.prompts is None for p in parts)
            else np.concatenate([p.prompts for p in parts]),  # type: ignore[misc]
            None if all(p.finite is None for p in parts) else np.concatenate(marks),
        )
