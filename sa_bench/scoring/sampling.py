"""Sample sets: which images are made, from which noise, and how they are kept.

The noise of image i of a set depends only on (set, i), through its own CPU generator: any image can
be made again alone, in any batch, and the same image of two models starts from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Generator, Progress, Prompted, Request, SampleSet, Task, image_seed
from sa_bench.core.errors import NotFinite, SaBenchError
from sa_bench.core.parts import PARTS, load_part, save_part
from sa_bench.data import prompt_files
from sa_bench.data.sample_sets import save_samples

SHARD = 512  # images between two writes: what a kill can cost
SHARD_LARGE = 32  # of pretrained models, seconds each
KEPT = -1  # the label of an image that no class was asked for
UNSEEDED = -1


@dataclass(frozen=True)
class PlannedImage:
    """One image of a set: what is asked, what it should show, which prompt of the set asks for it."""

    request: Request
    label: int
    prompt: int = -1  # of `texts`; −1: a class is asked for by its index
    family: str = ""  # of the set `families`


def plan_set(task: Task, name: str) -> list[PlannedImage]:
    """The images of the task's set `name`: `forget` (c_f), `retain`, `families` or `leakage`.

    `retain` asks for every scored class, or for the prompts that are to be kept. `families` asks for c_f in further
    ways, `leakage` for the other classes beside kept prompts; both exist for text-to-image tasks alone. A class's
    images are shared out evenly among its prompts, one prompt after the other. A prompt file's row keeps its seed
    for the first image made from it. Another `sample_seed` of the task is other noise for every image.

    Raises:
        SaBenchError: there is no such set.
    """
    found, number = [], {}
    draw = f"{name}@{task.sample_seed}" if task.sample_seed else name
    for family, label, asked, n in _plan_parts(task, name):
        used = set()
        for i in range(n):
            j = i * len(asked) // n
            own = asked[j].seed != UNSEEDED and j not in used and not task.sample_seed
            seed = asked[j].seed if own else image_seed(draw, len(found))
            used.add(j)
            request, c = replace(asked[j], seed=seed), asked[j].condition
            prompt = -1 if task.prompts is None else number.setdefault(c, len(number))
            found.append(PlannedImage(request, label, prompt, family))
    return found


def count_images(task: Task, name: str) -> int:
    """The number of images of the set `name`; none is thought up for it.

    Raises:
        SaBenchError: there is no such set.
    """
    return sum(n for *_, n in _plan_parts(task, name))


def prompts_of_set(task: Task, name: str) -> list[tuple[int, str]]:
    """The prompts that the set `name` asks with, (row, text): rows from 1 in its list, those it leaves out not given.

    Raises:
        SaBenchError: there is no such set.
    """
    found, before = [], 1
    for _, _, asked, n in _plan_parts(task, name):
        used = (
            range(len(asked))
            if n >= len(asked)
            else sorted({i * len(asked) // n for i in range(n)})
        )
        found += [(before + j, str(asked[j].condition)) for j in used]
        before += len(asked)
    return found


def _plan_parts(task: Task, name: str) -> list[tuple[str, int, list[Request], int]]:
    """(family, label, what asks for it, images) of every part of a set."""
    if name not in set_names(task):
        raise SaBenchError(f"Unknown sample set {name!r}. Available: {', '.join(set_names(task))}.")
    if name == "forget":
        return [("", task.concept, _requests_for_class(task, task.concept, "test"), task.n_forget)]
    if name == "retain" and task.retains_prompts:
        return [("", KEPT, _requests_for_class(task, KEPT, "kept"), task.n_retain)]
    if name == "retain":
        return [("", c, _requests_for_class(task, c, "test"), task.n_retain) for c in task.scored]
    if name == "leakage":
        return [
            ("", c, _requests_for_class(task, c, "leakage"), task.leakage_images)
            for c in task.retain
        ]
    further = {
        f: [Request(t, UNSEEDED) for t in texts] for f, texts in prompt_families(task).items()
    }
    return [(f, task.concept, asked, task.family_images) for f, asked in further.items()]


def set_names(task: Task) -> tuple[str, ...]:
    """The sample sets of a task."""
    if task.prompts is None:
        return ("forget", "retain")
    further = (
        ("families", task.family_images and prompt_families(task)),
        ("leakage", task.leakage_images),
    )
    return ("forget", "retain", *(name for name, there in further if there))


def _requests_for_class(task: Task, c: int, role: str) -> list[Request]:
    """What asks for class `c` in a role, seeds yet to be given; a file's rows with what they say of themselves."""
    prompts = task.prompts
    if prompts is None or role not in prompts.files:
        texts = (
            task.prompts_for(c, role)
            if c != KEPT
            else [t for t in prompts.kept if not task.mentions_concept(t)]
            if prompts
            else []
        )
        return [Request(text, UNSEEDED) for text in texts]
    own, kept = prompts.rows == "own", c == KEPT
    return [
        Request(
            r.text,
            UNSEEDED if r.seed is None else r.seed,
            r.guidance if own else None,
            r.size if own else None,
        )
        for r in prompt_files.read_rows(prompts.files[role])
        if not (kept and task.mentions_concept(r.text))
    ]


def prompt_families(task: Task) -> dict[str, tuple[str, ...]]:
    """Further ways to ask for c_f, prompts by family: the task's own, and from its class's name and other names.

    `synonym`: other names in the test templates; `misspelt`: two letters swapped, a letter doubled; `indirect`.
    """
    if task.prompts is None:
        return {}
    name = task.classes[task.concept]
    found = {
        f: tuple(t.replace("{}", name) for t in texts) for f, texts in task.prompts.families.items()
    }
    if others := task.prompts.synonyms.get(name):
        templates = task.prompts.test[: max(1, 12 // len(others))]
        found["synonym"] = tuple(t.replace("{}", other) for other in others for t in templates)
    if found and len(name) > 2:
        wrong = (name[0] + name[2] + name[1] + name[3:], name[:2] + name[1] + name[2:])
        found["misspelt"] = tuple(t.replace("{}", w) for w in wrong for t in task.prompts.test[:3])
    if questions := task.prompts.indirect.get(name):
        found["indirect"] = questions
    return found


def requests_of_set(task: Task, name: str) -> list[Request]:
    """What is asked of the model for the set `name`."""
    return [row.request for row in plan_set(task, name)]


def pick_rows(task: Task, name: str, n: int) -> list[PlannedImage]:
    """`n` rows of a set: its first or, where prompts ask, as many of every prompt as can be."""
    found = plan_set(task, name)
    if task.prompts is None or n >= len(found):
        return found[:n]
    return [found[i * len(found) // n] for i in range(n)]


def draw_set(
    model: Generator, task: Task, name: str, folder: Path, progress: Progress | None = None
) -> SampleSet:
    """Make the sample set `name` in `folder`, keeping a shard at a time among its parts and resuming from these.

    A shard is trusted only if it has its hash and the seeds it should have.
    """
    wanted_rows, parts = plan_set(task, name), []
    shard = SHARD_LARGE if task.model else SHARD
    for start in range(0, len(wanted_rows), shard):
        wanted = wanted_rows[start : start + shard]
        path = folder / PARTS / f"shard-{start:06d}.safetensors"
        part = _read_shard(path, wanted)
        if part is None:
            images, finite = generate_images(model, [r.request for r in wanted], task)
            labels, seeds = ([r.label for r in wanted], [r.request.seed for r in wanted])
            prompts = (
                None if task.prompts is None else np.array([r.prompt for r in wanted], np.int64)
            )
            marks = None if finite.all() else finite
            part = SampleSet(
                images, np.array(labels, np.int64), np.array(seeds, np.int64), prompts, marks
            )
            save_part(path, {k: torch.from_numpy(v) for k, v in part.arrays().items()})
        parts.append(part)
        if progress is not None:
            progress(f"sample {name}", start + len(wanted), len(wanted_rows))
    whole = SampleSet.concatenate(parts)
    save_samples(whole, folder / f"{name}.safetensors")
    return whole


def to_finite_images(model: Generator, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The images of samples `x` in model space, uint8 (N, H, W, C), and which have finite values alone, (N,) bool.

    A picture that is decoded from finite latents and is not finite itself is black, in every pixel.
    """
    images = model.to_images(x)
    finite = torch.isfinite(x.detach()).flatten(1).all(1).cpu().numpy()
    return images, finite & images.reshape(len(images), -1).any(1) if isinstance(
        model, Prompted
    ) else finite


def render(model: Generator, x: Tensor) -> np.ndarray:
    """The images of samples `x` in model space, uint8 (N, H, W, C).

    Raises:
        NotFinite: a value is NaN or infinite: such an image shows nothing, and that is no forgetting.
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
    """The images of `requests`, uint8 (N, H, W, C), and which have finite values alone, (N,) bool.

    An image with a size of its own lies at the upper left of a black one.
    """
    plain = [i for i, r in enumerate(requests) if r.size is None]
    images, finite = None, np.ones(len(requests), bool)
    if plain:
        images, finite[plain] = to_finite_images(
            model, model.sample([requests[i] for i in plain], task.sampler)
        )
    if images is not None and len(plain) == len(requests):
        return images, finite
    shape = (task.size, task.size, 3) if images is None else images.shape[1:]
    canvas = np.zeros((len(requests), *shape), np.uint8)
    if images is not None:
        canvas[plain] = images
    for i in set(range(len(requests))) - set(plain):
        (image,), finite[i : i + 1] = to_finite_images(
            model, model.sample([requests[i]], task.sampler)
        )
        image = image[: shape[0], : shape[1]]
        canvas[i, : image.shape[0], : image.shape[1]] = image
    return canvas, finite


def _read_shard(path: Path, wanted: Sequence[PlannedImage]) -> SampleSet | None:
    kept = load_part(path)
    if kept is None or not {"images", "labels", "seeds"} <= set(kept):
        return None
    part = SampleSet(**{name: tensor.numpy() for name, tensor in kept.items()})
    return part if part.seeds.tolist() == [r.request.seed for r in wanted] else None
