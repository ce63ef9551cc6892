"""Sample sets: which images are made, from which noise, and how they are kept.

The noise of image i of a set depends only on (set, i), through its own CPU generator: any image can
be made again alone, in any batch, and the same image of two models starts from the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Generator, Request, Task
from sa_bench.errors import SaBenchError
from sa_bench.sample_sets import SampleSet
from sa_bench.training import Progress

SHARD = 512  # images between two writes: what a kill can cost


def image_seed(name: str, i: int) -> int:
    """The seed of image `i` of the set `name`, in [0, 2⁶³)."""
    return int.from_bytes(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8], "big") >> 1


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, (N, *shape) float32 on the CPU, row i from `seeds[i]` alone."""
    rng = torch.Generator()
    return torch.stack([torch.randn(shape, generator=rng.manual_seed(seed)) for seed in seeds])


def requests(task: Task, name: str) -> list[Request]:
    """The images of the task's set `name`: `forget` (c_f only) or `retain` (every scored class)."""
    if name == "forget":
        conditions = [task.concept] * task.n_forget
    elif name == "retain":
        conditions = [c for c in task.scored for _ in range(task.n_retain)]
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
