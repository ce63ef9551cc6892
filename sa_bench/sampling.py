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


@dataclass(frozen=True)
class Row:
    """One image of a set: what is asked, what it should show, which prompt of the set asks for it."""

    request: Request
    label: int
    prompt: int = -1  # of `texts`; −1: a class is asked for by its index
    family: str = ""  # of the set `families`


def rows(task: Task, name: str) -> list[Row]:
    """The images of the task's set `name`: `forget` (c_f), `retain` (every scored class) or `families`.

    `families` asks for c_f in further ways and exists for text-to-image tasks alone. A class's images are shared
    out evenly among its prompts, one prompt after the other.

    Raises:
        SaBenchError: there is no such set.
    """
    if name == "forget":
        wanted = [("", task.concept, task.asked(task.concept), task.n_forget)]
    elif name == "retain":
        wanted = [("", c, task.asked(c), task.n_retain) for c in task.scored]
    elif name == "families" and task.prompts is not None:
        wanted = [(f, task.concept, [*texts], task.family_images) for f, texts in families(task).items()]
    else:
        raise SaBenchError(f"Unknown sample set {name!r}. Available: forget, retain.")
    found, number = [], {}
    for family, label, asked, n in wanted:
        for i in range(n):
            c = asked[i * len(asked) // n]
            request = Request(c, image_seed(name, len(found)))
            prompt = -1 if task.prompts is None else number.setdefault(c, len(number))
            found.append(Row(request, label, prompt, family))
    return found


def families(task: Task) -> dict[str, tuple[str, ...]]:
    """Further ways to ask for c_f, prompts by family: the task's own, and from its class's name and other names.

    `synonym`: other names in the test templates; `misspelt`: two letters swapped, a letter doubled; `indirect`.
    """
    if task.prompts is None:
        return {}
    name = task.classes[task.concept]
    found = {f: tuple(t.replace("{}", name) for t in texts) for f, texts in task.prompts.families.items()}
    if others := task.prompts.synonyms.get(name):
        templates = task.prompts.test[: max(1, 12 // len(others))]
        found["synonym"] = tuple(t.replace("{}", other) for other in others for t in templates)
    if found and len(name) > 2:
        wrong = (name[0] + name[2] + name[1] + name[3:], name[:2] + name[1] + name[2:])
        found["misspelt"] = tuple(t.replace("{}", w) for w in wrong for t in task.prompts.test[:3])
    if questions := task.prompts.indirect.get(name):
        found["indirect"] = questions
    return found


def requests(task: Task, name: str) -> list[Request]:
    """What is asked of the model for the set `name`."""
    return [row.request for row in rows(task, name)]


def draw_set(
    model: Generator, task: Task, name: str, folder: Path, progress: Progress | None = None
) -> SampleSet:
    """Make the sample set `name`, writing a shard at a time into `folder` and resuming from what is there.

    A shard is trusted only if it reads back whole with the seeds it should have.
    """
    wanted_rows, parts = rows(task, name), []
    finished = _read_shard(folder / f"{name}.safetensors", wanted_rows)
    if finished is not None:
        return finished
    for start in range(0, len(wanted_rows), SHARD):
        wanted = wanted_rows[start : start + SHARD]
        path = folder / f"shard-{start:06d}.safetensors"
        part = _read_shard(path, wanted)
        if part is None:
            images = model.to_images(model.sample([r.request for r in wanted], task.sampler))
            labels, seeds = ([r.label for r in wanted], [r.request.seed for r in wanted])
            prompts = None if task.prompts is None else np.array([r.prompt for r in wanted], np.int64)
            part = SampleSet(images, np.array(labels, np.int64), np.array(seeds, np.int64), prompts)
            part.save(path)
        parts.append(part)
        if progress is not None:
            progress(f"sample {name}", start + len(wanted), len(wanted_rows))
    whole = SampleSet.concatenate(parts)
    whole.save(folder / f"{name}.safetensors")
    for path in folder.glob("shard-*"):
        path.unlink()
    return whole


def _read_shard(path: Path, wanted: Sequence[Row]) -> SampleSet | None:
    if not path.exists():
        return None
    try:
        part = SampleSet.load(path)
    except Exception:
        return None
    return part if part.seeds.tolist() == [r.request.seed for r in wanted] else None
