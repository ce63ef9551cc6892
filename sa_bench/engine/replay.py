"""Samples of θ* that methods learn from: replay, surrogate, c_f, and a method's own prompts.

Where sampling is slow a set is drawn once, kept in the store, and shared by every method and seed;
where it is cheap (VAE) new samples are drawn each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.contracts import (
    Condition,
    Generator,
    Progress,
    Sampler,
    Source,
    image_seed,
    key_values,
)
from sa_bench.core.parts import load_part, parts_of, save_part
from sa_bench.core.store import digest, file_digest, write_atomic
from sa_bench.data import datasets, images
from sa_bench.engine.cells import Cell
from sa_bench.models.family import get_family

if TYPE_CHECKING:  # keys are made without torch
    import torch

VERSION = 1  # raised when a fixed set of the same inputs comes to hold other samples
PARTED_VERSION = 1  # the same for sets that are drawn in independent parts
LONG = 1_000_000_000
"""Values denoised from which on a set is drawn, and F estimated, in independent parts: on several devices,
in any order. What is shorter takes minutes at most, and all of it comes from one generator."""
PART, PART_LARGE = (512, 32)
"""Images of a fixed set between two writes, and the same for pretrained models."""
SETS = ("surrogate", "replay", "own", "captioned")  # `own`: samples of c_f


@dataclass(frozen=True)
class FixedSet:
    """A fixed set: its key inputs besides the base model, and the conditions of its samples."""

    name: str
    inputs: dict[str, Any]
    conditions: list[Condition]
    seed: int = 0


class BaseSamples:
    """The sample sets that a cell's method may learn from, by the task and the method.

    Needs no model.
    """

    def __init__(self, cell: Cell) -> None:
        """Take the cell; nothing is drawn yet."""
        self.cell, self.task = cell, cell.task
        self.cheap = get_family(self.task.family).samples_are_cheap

    def is_long(self, looks: int) -> bool:
        """Tell whether so many images through the network are worth more than one device."""
        return not self.cheap and looks * math.prod(datasets.image_shape(self.task)) >= LONG

    @property
    def part_size(self) -> int | None:
        """Images of a fixed set between two writes; None draws the whole set at once."""
        if self.cheap:
            return None
        return PART_LARGE if self.task.model else PART

    def _version_key(self, n: int) -> dict[str, Any]:
        """Key of how a fixed set of `n` images is drawn."""
        if not self.is_long(n * max(1, self.task.sampler.steps)):
            return {"version": VERSION}
        return {"version": PARTED_VERSION, "part": self.part_size}

    @property
    def images_per_class(self) -> int:
        """Number of images in a fixed set of one class."""
        task = self.task
        return task.surrogate_images or max(100, task.replay_images // max(1, len(task.retain)))

    @property
    def replay_seed(self) -> int:
        """Seed of the fixed replay set: the forgetting seed, or 0 where all seeds share one set."""
        return 0 if self.task.replay_shared else self.cell.seed

    @cached_property
    def shown_prompts(self) -> list[str]:
        """Prompts whose images by θ* the method learns from; [] for most methods."""
        return list(self.cell.build_method().shows(self.task))

    @cached_property
    def surrogate_key(self) -> str:
        """Key of the surrogate q, by content."""
        kind, _, argument = self.task.surrogate.partition(":")
        if kind in ("class", "prompt") and not self.cheap:
            return f"{self.task.surrogate}, a set of {self.images_per_class}"
        if kind != "folder":
            return self.task.surrogate
        return digest([file_digest(path) for path in images.list_image_files(Path(argument))])

    def key_inputs(self, name: str) -> dict[str, Any]:
        """Give what keys a set of `SETS` besides the base model.

        Returns:
            {} where there is no such set: the samples are drawn on the fly, or do not come from the
                model. With a key "n" the set is fixed and stored; replay without "n" is drawn on
                the fly, but not for every class.
        """
        return getattr(self, f"_{name}_key_inputs")()

    def replay_key(self) -> dict[str, Any]:
        """Give the key inputs of stages that draw from replay: the set, and how much of it is used."""
        used = {"used": self.task.replay_used} if self.task.replay_used else {}
        return {**self.key_inputs("replay"), **used}

    def fixed_set(self, name: str) -> FixedSet | None:
        """Give the stored set `name` of `SETS`; None if the set is not stored or does not exist."""
        inputs = self.key_inputs(name)
        if "n" not in inputs:
            return None
        texts: list[Condition]
        if name == "replay":
            texts = self.task.replay_conditions()
        elif name == "own":
            texts = self.task.conditions_of_concepts()
        else:
            texts = list(inputs["texts"])
        conditions = [texts[i % len(texts)] for i in range(inputs["n"])]
        return FixedSet(name, inputs, conditions, self.replay_seed if name == "replay" else 0)

    def _surrogate_key_inputs(self) -> dict[str, Any]:
        task, (kind, _, argument) = self.task, self.task.surrogate.partition(":")
        if kind not in ("class", "prompt") or self.cheap:
            return {}
        texts = [argument] if kind == "prompt" else task.prompts_for(int(argument), "replay")
        return {
            "n": self.images_per_class,
            "texts": texts,
            **self._version_key(self.images_per_class),
            "sampler": key_values(task.sampler),
        }

    def _replay_key_inputs(self) -> dict[str, Any]:
        task = self.task
        inputs: dict[str, Any] = {} if task.replay_every == 1 else {"covered": task.covered}
        texts = [text for c in task.covered for text in task.prompts_for(c, "replay")]
        if task.retains_prompts:
            texts = task.replay_conditions()
        inputs |= task.prompt_key_inputs("texts", texts)
        if task.replay_images:
            inputs |= {"n": task.replay_images, "covered": task.covered, "seed": self.replay_seed}
            inputs |= {**self._version_key(task.replay_images), "sampler": key_values(task.sampler)}
        return inputs

    def _own_key_inputs(self) -> dict[str, Any]:
        task = self.task
        if self.cheap:
            return {}
        texts = task.prompt_key_inputs("texts", task.conditions_of_concepts())
        inputs: dict[str, Any] = {
            "n": self.images_per_class,
            "concept": task.concept,
            **self._version_key(self.images_per_class),
        }
        inputs |= {"also": task.also} if task.also else {}
        return inputs | {"sampler": key_values(task.sampler), **texts}

    def _captioned_key_inputs(self) -> dict[str, Any]:
        if not self.shown_prompts:
            return {}
        inputs: dict[str, Any] = {
            "set": "captioned",
            "n": self.images_per_class,
            "texts": self.shown_prompts,
        }
        return inputs | {
            **self._version_key(self.images_per_class),
            "sampler": key_values(self.task.sampler),
        }


def draw_part(
    model: Callable[[], Generator],
    fixed: FixedSet,
    sampler: Sampler,
    part_size: int,
    parts: Path,
    number: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one part of a set with a generator of its own, or read it from the folder `parts`.

    Returns:
        Samples of θ*, and their conditions.
    """
    file = parts / f"part-{number:05d}.safetensors"
    if (stored := load_part(file)) is None:
        star = model()
        import torch

        start = number * part_size
        conditions = star.conditions(fixed.conditions[start : start + part_size])
        rng = torch.Generator().manual_seed(image_seed(f"{fixed.name}/{number}", fixed.seed))
        stored = {"x": star.simulate(conditions, rng, sampler).cpu(), "c": conditions.cpu()}
        save_part(file, stored)
    return stored["x"], stored["c"]


def draw_fixed_set(
    model: Generator,
    fixed: FixedSet,
    sampler: Sampler,
    folder: Path,
    progress: Progress,
    part_size: int | None,
) -> None:
    """Draw samples of θ* for a set's conditions into `folder`, part by part, from one generator.

    A killed run resumes at the part that it was drawing.

    Args:
        model: θ*.
        fixed: the set.
        sampler: settings with which the samples are drawn.
        folder: where the set is written.
        progress: called with (set, done, total).
        part_size: samples a part; None for one part.
    """
    import torch

    rng = torch.Generator().manual_seed(image_seed(fixed.name, fixed.seed))
    conditions = model.conditions(fixed.conditions)
    samples: list[torch.Tensor] = []
    for number, part_conditions in enumerate(conditions.split(part_size or len(conditions))):
        file = parts_of(folder) / f"part-{number:05d}.safetensors"
        stored = load_part(file)  # with the generator's state
        if stored is None:
            stored = {
                "x": model.simulate(part_conditions, rng, sampler).cpu(),
                "rng": rng.get_state(),
            }
            save_part(file, stored)
        rng.set_state(stored["rng"])
        samples.append(stored["x"])
        progress(fixed.name, sum(map(len, samples)), len(conditions))
    write_fixed_set(folder, torch.cat(samples), conditions.cpu())


def write_fixed_set(folder: Path, x: torch.Tensor, c: torch.Tensor) -> None:
    """Write samples and their conditions as the artifact of a fixed set."""
    from safetensors.torch import save

    write_atomic(folder / "replay.safetensors", save({"x": x, "c": c}))


def fresh_source(name: str, model: Generator, cell: Cell) -> Source:
    """Make the source `name` of samples that are drawn anew each time."""
    from sa_bench.training.sources import FreshReplay, OtherClassSamples

    task = cell.task
    if name == "replay":
        return FreshReplay(model, task.covered, task.sampler)
    if name == "own" and task.also:
        return FreshReplay(model, task.concepts, task.sampler)
    other = task.concept if name == "own" else int(task.surrogate.partition(":")[2])
    return OtherClassSamples(model, task.concept, other, task.sampler)


def foreign_surrogate(model: Generator, cell: Cell) -> Source:
    """Make the source of a surrogate from outside the model: images of a folder, or noise."""
    from sa_bench.training.sources import Images, Relabelled

    task, (kind, _, argument) = cell.task, cell.task.surrogate.partition(":")
    c_f = task.prompts_for(task.concept, "forget")
    if kind == "folder":
        height, width, channels = datasets.image_shape(task)
        pixels, _ = images.read_folder(Path(argument), channels, (height, width))
        return Relabelled(Images(model, pixels, np.full(len(pixels), task.concept)), model, c_f)
    return get_family(task.family).make_noise(model, task)


def names_without_text(names: Sequence[str], texts: Sequence[Condition]) -> list[str]:
    """List the class names that no text of a key has: a method may read them from the task all the same."""
    return [name for name in names if not any(name in str(text) for text in texts)]
