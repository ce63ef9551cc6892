"""The base model θ* of a cell: trained here, or given by somebody else."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from sa_bench.contracts import Generator, Progress, Recipe, Task
from sa_bench.core.store import Store
from sa_bench.data import datasets
from sa_bench.engine import replay
from sa_bench.models import base_models
from sa_bench.models.family import get_family
from sa_bench.scoring import sampling


class CellParts(Protocol):
    """What a base model is found with: parts of a cell's chain of stages."""

    task: Task
    store: Store
    device: str
    progress: Progress

    @property
    def base_seed(self) -> int:
        """Seed of the base model's training."""
        ...

    @cached_property
    def base(self) -> base_models.Base:
        """The weight file that was found."""
        ...

    def architecture(self) -> Any:
        """Build a model of θ*'s shape."""
        ...


class BaseSource(Protocol):
    """Where θ* comes from, and what follows from it."""

    @property
    def flip(self) -> bool:
        """Whether θ* was trained on mirrored images too: then batches of its samples are mirrored."""
        ...

    @property
    def shard_size(self) -> int:
        """Images of a sample set between two writes."""
        ...

    @property
    def part_size(self) -> int | None:
        """Images of a fixed set between two writes; None draws the whole set at once."""
        ...

    def find(self) -> base_models.Base:
        """Find or make the weight file."""
        ...

    def copy(self) -> Generator:
        """Make a copy of θ*."""
        ...

    def view(self) -> Generator:
        """Give θ* for reading."""
        ...

    def tokenizing_model(self) -> Any:
        """Give a model with θ*'s tokenizer, whatever its weights."""
        ...

    def complete(self, recipe: Recipe) -> Recipe:
        """Fill in what a method's recipe takes from the base model's."""
        ...


class TrainedBase:
    """A base model that ships, or is trained here and kept in the store."""

    def __init__(self, parts: CellParts) -> None:
        """Load nothing yet."""
        self.parts, self.task = parts, parts.task
        self.family = get_family(self.task.family)

    @property
    def flip(self) -> bool:
        """Whether θ* was trained on mirrored images too."""
        return self.family.get_recipe(self.task.base).flip

    @property
    def shard_size(self) -> int:
        """Images of a sample set between two writes."""
        return sampling.SHARD

    @property
    def part_size(self) -> int | None:
        """Images of a fixed set between two writes; None draws the whole set at once."""
        return None if self.family.samples_are_cheap else replay.PART

    def find(self) -> base_models.Base:
        """Find the shipped weights, or train θ*."""
        parts, task, seed = self.parts, self.task, self.parts.base_seed
        shipped = base_models.find_shipped(task.family, task.dataset, task.base, seed)
        if shipped is not None:
            return shipped
        data = datasets.load(task.dataset)
        return base_models.train_base(
            parts.store,
            task.family,
            task.dataset,
            (data.train.images, data.train.labels, data.content),
            task.base,
            seed,
            parts.progress,
            parts.device,
            task.train_precision,
        )

    def copy(self) -> Generator:
        """Load θ*."""
        return self.parts.architecture().load(self.parts.base.file).to(self.parts.device)

    def view(self) -> Generator:
        """Load θ*."""
        return self.copy()

    def tokenizing_model(self) -> Any:
        """Build a model of θ*'s shape."""
        return self.parts.architecture()

    def complete(self, recipe: Recipe) -> Recipe:
        """Take the base recipe's clipping and averaging where the recipe gives none."""
        base = self.family.get_recipe(self.task.base)
        return replace(recipe, clip=recipe.clip or base.clip, ema=recipe.ema or base.ema)


class GivenBase:
    """A pretrained base model (`task.model`); one copy stays open, since each takes GiB."""

    def __init__(self, parts: CellParts) -> None:
        """Open nothing yet."""
        self.parts, self.task = parts, parts.task

    @property
    def flip(self) -> bool:
        """False: how θ* was trained is not known."""
        return False

    @property
    def shard_size(self) -> int:
        """Images of a sample set between two writes."""
        return sampling.SHARD_LARGE

    @property
    def part_size(self) -> int | None:
        """Images of a fixed set between two writes."""
        return replay.PART_LARGE

    def find(self) -> base_models.Base:
        """Find the folder or file of the weights."""
        return base_models.find_pretrained(self.task.model, self.parts.store)

    @cached_property
    def _open_model(self) -> Generator:
        return base_models.open_pretrained(self.parts.base, self.task).to(self.parts.device)

    def copy(self) -> Generator:
        """Copy the open model."""
        return self._open_model.clone()

    def view(self) -> Generator:
        """Give the open model itself."""
        return self._open_model

    def tokenizing_model(self) -> Any:
        """Give the open model itself."""
        return self._open_model

    def complete(self, recipe: Recipe) -> Recipe:
        """Return the recipe as it is: how θ* was trained is not known."""
        return recipe
