"""A sample set: images with the condition and the seed of each, and how it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sa_bench.errors import SaBenchError, first_line
from sa_bench.store import write_atomic
from sa_bench.untrusted_arrays import read_header


def file_hash(array: np.ndarray) -> str:
    """A hash of an array's bytes and shape."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + str(array.shape).encode()).hexdigest()


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a sample set's file.

    Raises:
        SaBenchError: it is cut short or something else.
    """
    try:
        read_header(path)
        found = load_file(path)
        if not {"images", "labels"} <= set(found):
            raise ValueError(f"it holds {', '.join(found)}")
    except (SafetensorError, OSError, ValueError) as error:
        raise SaBenchError(
            f"{path} holds no sample set ({first_line(error)}). Delete its folder and run the command again."
        ) from error
    return found


@dataclass(frozen=True)
class SampleSet:
    """Images with their conditions and seeds."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,) the condition each was made from, or its true class
    seeds: np.ndarray  # int64 (N,); −1 where an image has none (real data)
    prompts: np.ndarray | None = None  # int64 (N,) number of the prompt behind each; None: made from classes
    finite: np.ndarray | None = None  # bool (N,) whether the model's values were; None: all of them

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    def of(self, label: int) -> SampleSet:
        """The rows of one class."""
        return self.take(self.labels == label)

    def take(self, rows: np.ndarray | slice) -> SampleSet:
        """Some rows, by mask, indices or slice."""
        prompts, finite = (None if part is None else part[rows] for part in (self.prompts, self.finite))
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
        return {k: np.ascontiguousarray(v) for k, v in vars(self).items() if v is not None}

    @staticmethod
    def concatenate(parts: Sequence[SampleSet]) -> SampleSet:
        """All rows of `parts`, in order."""
        marks = [np.ones(len(p), bool) if p.finite is None else p.finite for p in parts]
        return SampleSet(
            np.concatenate([p.images for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.seeds for p in parts]),
            None if any(p.prompts is None for p in parts) else np.concatenate([p.prompts for p in parts]),  # type: ignore[misc]
            None if all(p.finite is None for p in parts) else np.concatenate(marks),
        )


def save_samples(samples: SampleSet, path: Path) -> None:
    """Write a sample set as safetensors, atomically."""
    write_atomic(path, save(samples.arrays()))


def load_samples(path: Path) -> SampleSet:
    """Read what `save_samples` wrote.

    Raises:
        SaBenchError: as `arrays`, or other arrays than those of a set.
    """
    found = arrays(path)
    marks = found.get("finite", np.ones(len(found["images"]), bool))
    known = {column.name for column in fields(SampleSet)}
    if "seeds" not in found or not set(found) <= known or marks.dtype != bool or marks.ndim != 1:
        raise SaBenchError(f"{path} holds no sample set (it holds {', '.join(found)}).")
    if len({len(column) for column in found.values()}) > 1:
        raise SaBenchError(f"{path} holds no sample set: its arrays are not of one length.")
    return SampleSet(**found)
