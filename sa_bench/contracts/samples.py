"""Define a sample set: images with the condition and the seed of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SampleSet:
    """Images with their conditions and seeds, in one order."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,) the condition each was made from, or its true class
    seeds: np.ndarray  # int64 (N,); −1 for an image without a seed (real data)
    prompts: np.ndarray | None = None  # int64 (N,) number of each prompt; None: made from classes
    finite: np.ndarray | None = None  # bool (N,) whether the model's values were; None: all were

    def __len__(self) -> int:
        """Count the images, N."""
        return len(self.images)

    def of(self, label: int) -> SampleSet:
        """Take the images of one class."""
        return self.take(self.labels == label)

    def take(self, rows: np.ndarray | slice) -> SampleSet:
        """Take some images, by mask, indices or slice."""
        prompts, finite = (
            None if column is None else column[rows] for column in (self.prompts, self.finite)
        )
        return SampleSet(self.images[rows], self.labels[rows], self.seeds[rows], prompts, finite)

    @property
    def broken(self) -> int:
        """Number of images whose values were not finite."""
        return 0 if self.finite is None else int((~self.finite).sum())

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns beside each image's score: its seed and, if any, prompt number."""
        return {"seed": self.seeds} | ({} if self.prompts is None else {"prompt": self.prompts})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays to be stored, by name."""
        import numpy as np  # lists of components are printed without it

        return {
            name: np.ascontiguousarray(array)
            for name, array in vars(self).items()
            if array is not None
        }

    @staticmethod
    def concatenate(sets: Sequence[SampleSet]) -> SampleSet:
        """Concatenate sample sets, in order."""
        import numpy as np

        finite = [
            np.ones(len(samples), bool) if samples.finite is None else samples.finite
            for samples in sets
        ]
        prompts = [samples.prompts for samples in sets if samples.prompts is not None]
        return SampleSet(
            np.concatenate([samples.images for samples in sets]),
            np.concatenate([samples.labels for samples in sets]),
            np.concatenate([samples.seeds for samples in sets]),
            np.concatenate(prompts) if len(prompts) == len(sets) else None,
            None if all(samples.finite is None for samples in sets) else np.concatenate(finite),
        )
