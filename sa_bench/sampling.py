"""Sample sets: which images are made, from which noise, and how they are kept.

The noise of image i of a set depends only on (set, i), through its own CPU generator: any image can
be made again alone, in any batch, and the same image of two models starts from the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor

from sa_bench.contracts import Generator, Request, Task
from sa_bench.errors import SaBenchError
from sa_bench.store import write_atomic
from sa_bench.training import Progress

SHARD = 512  # images between two writes: what a kill can cost


def image_seed(name: str, i: int) -> int:
    """The seed of image `i` of the set `name`, in [0, 2⁶³)."""
    return int.from_bytes(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8], "big") >> 1


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, (N, *shape) float32 on the CPU, row i from `seeds[i]` alone."""
    rng = torch.Generator()
    return torch.stack([torch.randn(shape, generator=rng.manual_seed(seed)) for seed in seeds])


@dataclass(frozen=True)
class SampleSet:
    """Images with their conditions and seeds."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,) the condition each was made from, or its true class
    seeds: np.ndarray  # int64 (N,); −1 where an image has none (real data)

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    def of(self, label: int) -> SampleSet:
        """The rows of one class."""
        return self.take(self.labels == label)

    def take(self, rows: np.ndarray | slice) -> SampleSet:
        """Some rows, by mask, indices or slice."""
        return SampleSet(self.images[rows], self.labels[rows], self.seeds[rows])

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {"images": self.images, "labels": self.labels, "seeds": self.seeds}
        write_atomic(path, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))

    @staticmethod
    def load(path: Path) -> SampleSet:
        """Read what `save` wrote."""
        return SampleSet(**load_file(path))

    @staticmethod
    def concatenate(parts: Sequence[SampleSet]) -> SampleSet:
        """All rows of `parts`, in order."""
        return SampleSet(
            np.concatenate([p.images for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.seeds for p in parts]),
        )


def requests(task: Task, name: str) -> list[Request]:
    """The images of the task's set `name`: `forget` (c_f only) or `retain` (every other class)."""
    if name == "forget":
        conditions = [task.concept] * task.n_forget
    elif name == "retain":
        conditions = [c for c in task.retain for _ in range(task.n_retain)]
    else:
        raise SaBenchError(f"Unknown sample set {name!r}. Available: forget, retain.")
    return [Request(c, image_seed(name, i)) for i, c in enumerate(conditions)]


def draw_set(
    model: Generator, task: Task, name: str, folder: Path, progress: Progress | None = None
) -> SampleSet:
    """Make the sample set `name`, writing a shard at a time into `folder` and resuming from what is there.

    A shard is trusted only if it reads back whole with the seeds it should have.
    """
    rows, parts = requests(task, name), []
    finished = _read_shard(folder / f"{name}.safetensors", rows)
    if finished is not None:
        return finished
    for start in range(0, len(rows), SHARD):
        wanted = rows[start : start + SHARD]
        path = folder / f"shard-{start:06d}.safetensors"
        part = _read_shard(path, wanted)
        if part is None:
            images = model.to_images(model.sample(wanted, task.sampler))
            labels = np.array([r.condition for r in wanted], np.int64)
            part = SampleSet(images, labels, np.array([r.seed for r in wanted], np.int64))
            part.save(path)
        parts.append(part)
        if progress is not None:
            progress(f"sample {name}", start + len(wanted), len(rows))
    whole = SampleSet.concatenate(parts)
    whole.save(folder / f"{name}.safetensors")
    for path in folder.glob("shard-*"):
        path.unlink()
    return whole


def _read_shard(path: Path, wanted: Sequence[Request]) -> SampleSet | None:
    if not path.exists():
        return None
    try:
        part = SampleSet.load(path)
    except Exception:
        return None
    return part if part.seeds.tolist() == [r.seed for r in wanted] else None
