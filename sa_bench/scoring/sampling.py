"""Sample sets: which images are drawn, from which noise, and how they are stored.

The noise of image i of a set depends only on (set, i), through its own CPU generator. So any image
can be drawn again alone or in any batch, and the same image of two models starts from the same
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sa_bench.contracts import (
    Condition,
    Generator,
    Progress,
    Request,
    SampleSet,
    Task,
    image_seed,
)
from sa_bench.core.errors import NotFinite, SaBenchError
from sa_bench.core.parts import load_part, save_part
from sa_bench.data import prompt_files

if TYPE_CHECKING:  # sets are planned before torch is loaded, which takes seconds
    from torch import Tensor

SHARD = 512  # images between two writes: a killed run loses no more
SHARD_LARGE = 32  # the same for pretrained models, which take seconds per image
KEPT = -1  # label of an image whose prompt names no class
UNPROMPTED = -1  # number of the prompt of an image that is asked for by the index of its class
UNSEEDED = -1  # seed of a request whose seed is not fixed yet


@dataclass(frozen=True)
class PlannedImage:
    """One image of a set: its request, the class it should show, and the number of its prompt."""

    request: Request
    label: int
    prompt: int = UNPROMPTED  # number of the prompt within the set
    family: str = ""  # prompt family, in the set `families` alone


class _SameTask:
    """Compares a task as an object: its values are many and nested, and a plan of it is made often."""

    def __init__(self, task: Task) -> None:
        """Hold the task, so that its id stays its own."""
        self.task = task

    def __hash__(self) -> int:
        """Hash the object."""
        return id(self.task)

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same object."""
        return isinstance(other, _SameTask) and other.task is self.task


def plan_set(task: Task, name: str) -> list[PlannedImage]:
    """Plan the images of the task's set `name`: `forget` (c_f), `retain`, `families` or `leakage`.

    `retain` asks for every scored class, or for the prompts that are to be retained. `families`
    asks
    for c_f in other words, `leakage` for the other classes beside retained prompts; both exist for
    text-to-image tasks alone. The images of a class are shared out evenly among its prompts, one
    prompt
    after the other. A row of a prompt file keeps its own seed for the first image that is made from
    it.
    Another `sample_seed` of the task gives every image other noise.

    Raises:
        SaBenchError: the task has no such set.
    """
    # a prompt file may be another one the next time
    plan = _plan_once.__wrapped__ if task.prompt_options.files else _plan_once
    return list(plan(_SameTask(task), name))


@lru_cache(maxsize=64)
def _plan_once(same_task: _SameTask, name: str) -> tuple[PlannedImage, ...]:
    """Plan the images of a set; every stage and metric of a cell asks for the same."""
    task = same_task.task
    planned_images: list[PlannedImage] = []
    prompt_numbers: dict[Condition, int] = {}
    seed_name = f"{name}@{task.sample_seed}" if task.sample_seed else name
    for part in _plan_parts(task, name):
        used_prompts = set()
        for i in range(part.images):
            j = i * len(part.requests) // part.images
            request = part.requests[j]
            seed_from_file = request.seed != UNSEEDED and j not in used_prompts
            if task.sample_seed or not seed_from_file:
                request = replace(request, seed=image_seed(seed_name, len(planned_images)))
            used_prompts.add(j)
            prompt = UNPROMPTED
            if isinstance(request.condition, str):
                prompt = prompt_numbers.setdefault(request.condition, len(prompt_numbers))
            planned_images.append(PlannedImage(request, part.label, prompt, part.family))
    return tuple(planned_images)


def count_images(task: Task, name: str) -> int:
    """Count the images of the set `name` without planning each of them.

    Raises:
        SaBenchError: the task has no such set.
    """
    count = _count_once.__wrapped__ if task.prompt_options.files else _count_once
    return count(_SameTask(task), name)


@lru_cache(maxsize=64)
def _count_once(same_task: _SameTask, name: str) -> int:
    """Count the images of a set; every cell asks for the same."""
    return sum(part.images for part in _plan_parts(same_task.task, name))


def prompts_of_set(task: Task, name: str) -> list[tuple[int, str]]:
    """List the prompts that the set `name` uses, as (row, text).

    Rows are counted from 1 over all prompts of the set; prompts that no image uses are skipped.

    Raises:
        SaBenchError: the task has no such set.
    """
    used_prompts, first_row = [], 1
    for part in _plan_parts(task, name):
        prompts, n = len(part.requests), part.images
        used = range(prompts) if n >= prompts else sorted({i * prompts // n for i in range(n)})
        used_prompts += [(first_row + j, str(part.requests[j].condition)) for j in used]
        first_row += prompts
    return used_prompts


class SetPart(NamedTuple):
    """The images of a set with one label: a class, a prompt family, or all retained prompts."""

    family: str
    """Name of the prompt family; "" outside the set `families`."""
    label: int
    requests: list[Request]
    """One request a prompt; the images are shared out among them."""
    images: int
    """Number of images of this part."""


def _plan_parts(task: Task, name: str) -> list[SetPart]:
    """List the parts of the set `name`."""
    if name not in set_names(task):
        raise SaBenchError(f"Unknown sample set {name!r}. Available: {', '.join(set_names(task))}.")
    if name == "forget":
        requests = _requests_for_class(task, task.concept, "test")
        return [SetPart("", task.concept, requests, task.n_forget)]
    if name == "retain" and task.retains_prompts:
        return [SetPart("", KEPT, _requests_for_class(task, KEPT, "kept"), task.n_retain)]
    if name == "retain":
        return [
            SetPart("", c, _requests_for_class(task, c, "test"), task.n_retain) for c in task.scored
        ]
    if name == "leakage":
        return [
            SetPart("", c, _requests_for_class(task, c, "leakage"), task.leakage_images)
            for c in task.retain
        ]
    return [
        SetPart(family, task.concept, [Request(t, UNSEEDED) for t in texts], task.family_images)
        for family, texts in prompt_families(task).items()
    ]


def set_names(task: Task) -> tuple[str, ...]:
    """List the sample sets of a task."""
    names, prompts = ["forget", "retain"], task.prompt_options
    if task.family_images and prompt_families(task):
        names.append("families")
    if task.leakage_images and (prompts.leakage or "leakage" in prompts.files):
        names.append("leakage")
    return tuple(names)


def _requests_for_class(task: Task, c: int, role: str) -> list[Request]:
    """List the requests for class `c` in a prompt role, still without seeds.

    Rows of a prompt file keep their own seed, and their own guidance and size if `prompts.rows` is
    `own`.
    """
    prompts = task.prompt_options
    if role not in prompts.files:
        retained_prompts = [text for text in prompts.kept if not task.mentions_concept(text)]
        conditions = retained_prompts if c == KEPT else task.prompts_for(c, role)
        return [Request(condition, UNSEEDED) for condition in conditions]
    requests, rows_set_options = [], prompts.rows == "own"
    for row in prompt_files.read_rows(prompts.files[role]):
        if c == KEPT and task.mentions_concept(row.text):
            continue
        seed = UNSEEDED if row.seed is None else row.seed
        request = Request(row.text, seed)
        if rows_set_options:
            request = Request(row.text, seed, row.guidance, row.size)
        requests.append(request)
    return requests


def prompt_families(task: Task) -> dict[str, tuple[str, ...]]:
    """List further prompts for c_f by family: the task's own, and some made from the class name.

    `synonym`: other names of the class in the test templates. `misspelt`: two letters swapped, or
    one
    letter doubled. `indirect`: questions that do not name the class.
    """
    name, prompts = task.classes[task.concept], task.prompt_options
    families = {
        f: tuple(t.replace("{}", name) for t in texts) for f, texts in prompts.families.items()
    }
    if others := prompts.synonyms.get(name):
        templates = prompts.test[: max(1, 12 // len(others))]
        families["synonym"] = tuple(t.replace("{}", other) for other in others for t in templates)
    if families and len(name) > 2:
        misspelt_names = (name[0] + name[2] + name[1] + name[3:], name[:2] + name[1] + name[2:])
        families["misspelt"] = tuple(
            t.replace("{}", w) for w in misspelt_names for t in prompts.test[:3]
        )
    if questions := prompts.indirect.get(name):
        families["indirect"] = questions
    return families


def requests_of_set(task: Task, name: str) -> list[Request]:
    """List the requests of the set `name`, in the order of its images."""
    return [row.request for row in plan_set(task, name)]


def pick_rows(task: Task, name: str, n: int) -> list[PlannedImage]:
    """Pick `n` planned images of a set: the first `n`, or an equal share of every prompt."""
    planned_images = plan_set(task, name)
    has_prompts = any(row.prompt != UNPROMPTED for row in planned_images)
    if not has_prompts or n >= len(planned_images):
        return planned_images[:n]
    return [planned_images[i * len(planned_images) // n] for i in range(n)]


def draw_set(
    model: Callable[[], Generator],
    task: Task,
    name: str,
    parts: Path,
    progress: Progress | None = None,
    shard_size: int | None = None,
) -> SampleSet:
    """Draw the sample set `name` shard by shard, resuming from the shards kept in the folder `parts`.

    Args:
        model: gives the model that draws; called for every shard that is missing.
        task: the task that the set belongs to.
        name: name of the set.
        parts: where shards are kept.
        progress: called with (stage, done, total).
        shard_size: images between two writes; None takes `SHARD`.
    """
    shards: list[SampleSet] = []
    total = count_images(task, name)
    for number in range(count_shards(task, name, shard_size)):
        shards.append(draw_shard(model, task, name, number, parts, shard_size))
        if progress is not None:
            progress(f"sample {name}", sum(map(len, shards)), total)
    return SampleSet.concatenate(shards)


def count_shards(task: Task, name: str, shard_size: int | None = None) -> int:
    """Count the shards of the sample set `name`."""
    return -(-count_images(task, name) // (shard_size or SHARD))


def draw_shard(
    model: Callable[[], Generator],
    task: Task,
    name: str,
    number: int,
    parts: Path,
    shard_size: int | None = None,
) -> SampleSet:
    """Draw one shard of a set, or read it from the folder `parts`; see `draw_set`.

    A kept shard is used only if it is whole and has the seeds that it should have.
    """
    import torch

    shard_size = shard_size or SHARD
    start = number * shard_size
    planned_shard = plan_set(task, name)[start : start + shard_size]
    path = parts / f"shard-{start:06d}.safetensors"
    shard = _read_shard(path, planned_shard)
    if shard is None:
        shard = _draw_shard(model(), task, planned_shard)
        save_part(path, {k: torch.from_numpy(v) for k, v in shard.arrays().items()})
    return shard


def _draw_shard(model: Generator, task: Task, planned_shard: Sequence[PlannedImage]) -> SampleSet:
    """Draw the planned images, with their labels, seeds and, for a text-to-image task, prompts."""
    images, finite = generate_images(model, [planned.request for planned in planned_shard], task)
    labels = np.array([planned.label for planned in planned_shard], np.int64)
    seeds = np.array([planned.request.seed for planned in planned_shard], np.int64)
    prompts = number_prompts(planned_shard)
    return SampleSet(images, labels, seeds, prompts, None if finite.all() else finite)


def number_prompts(planned_images: Sequence[PlannedImage]) -> np.ndarray | None:
    """List the number of each image's prompt, (N,) int64; None for images of class indices."""
    numbers = np.array([planned.prompt for planned in planned_images], np.int64)
    return None if (numbers == UNPROMPTED).all() else numbers


def to_finite_images(model: Generator, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Decode samples `x` and mark the finite ones; returns uint8 (N, H, W, C) and bool (N,).

    A text-to-image decoder that gives NaN for finite latents leaves an image that is black
    everywhere;
    such an image is marked as not finite too.
    """
    import torch

    images = model.to_images(x)
    finite = torch.isfinite(x.detach()).flatten(1).all(1).cpu().numpy()
    if model.black_is_broken:
        finite = finite & images.reshape(len(images), -1).any(1)
    return images, finite


def render(model: Generator, x: Tensor) -> np.ndarray:
    """Decode samples `x` from model space into images, uint8 (N, H, W, C).

    Raises:
        NotFinite: a value is NaN or infinite. Such an image shows nothing, which is no forgetting.
    """
    images, finite = to_finite_images(model, x)
    if not finite.all():
        raise NotFinite(
            f"{int((~finite).sum())} of {len(images)} images are not finite (NaN or infinite)"
        )
    return images


def generate_images(
    model: Generator, requests: Sequence[Request], task: Task
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images of `requests`, uint8 (N, H, W, C), and mark the finite ones, (N,) bool.

    An image with a size of its own is placed at the upper left of a black canvas.
    """
    common_size = [i for i, r in enumerate(requests) if r.size is None]
    images, finite = None, np.ones(len(requests), bool)
    if common_size:
        images, finite[common_size] = to_finite_images(
            model, model.sample([requests[i] for i in common_size], task.sampler)
        )
    if images is not None and len(common_size) == len(requests):
        return images, finite
    shape = (task.size, task.size, 3) if images is None else images.shape[1:]
    canvas = np.zeros((len(requests), *shape), np.uint8)
    if images is not None:
        canvas[common_size] = images
    for i in set(range(len(requests))) - set(common_size):
        (image,), finite[i : i + 1] = to_finite_images(
            model, model.sample([requests[i]], task.sampler)
        )
        image = image[: shape[0], : shape[1]]
        canvas[i, : image.shape[0], : image.shape[1]] = image
    return canvas, finite


def _read_shard(path: Path, planned_shard: Sequence[PlannedImage]) -> SampleSet | None:
    """Read a kept shard; None if it is absent, damaged, or was drawn for other seeds."""
    tensors = load_part(path)
    if tensors is None or not {"images", "labels", "seeds"} <= set(tensors):
        return None
    shard = SampleSet(**{name: tensor.numpy() for name, tensor in tensors.items()})
    planned_seeds = [planned.request.seed for planned in planned_shard]
    return shard if shard.seeds.tolist() == planned_seeds else None
