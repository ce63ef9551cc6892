"""The base model θ* of a cell: trained here, or given by somebody else."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from sa_bench.contracts import Generator, Progress, Recipe, Task
from sa_bench.core.store import Artifact, Store
from sa_bench.data import datasets
from sa_bench.engine.stage import Stage
from sa_bench.models import base_models
from sa_bench.models.family import get_family
from sa_bench.scoring import sampling


class CellParts(Protocol):
    """What a base model is found with: parts of a cell's chain of stages."""

    task: Task
    store: Store
    device: str
    progress: Progress
    bf16: bool

    def make(self, stage: Stage) -> Artifact:
        """Make a stage or find it in the store."""
        ...

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

    def find(self) -> base_models.Base:
        """Find or make the weight file."""
        ...

    def stage(self) -> Stage | None:
        """Give the stage of its training; None if it need not be trained."""
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

    def find(self) -> base_models.Base:
        """Find the shipped weights, or train θ*."""
        shipped, stage = self._shipped, self.stage()
        if shipped is not None or stage is None:
            return cast(base_models.Base, shipped)
        return base_models.trained_base(self.parts.make(stage), self.parts.bf16)

    @cached_property
    def _shipped(self) -> base_models.Base | None:
        """Find the shipped weights; None if none ship."""
        task = self.task
        return base_models.find_shipped(task.family, task.dataset, task.base, self.parts.base_seed)

    def stage(self) -> Stage | None:
        """Give the stage of its training; None if it ships."""
        parts, task, seed = self.parts, self.task, self.parts.base_seed
        if self._shipped is not None:
            return None

        def build(folder: Path) -> dict[str, object]:
            train = datasets.load(task.dataset).train
            return base_models.train_into(
                folder,
                task.family,
                task.dataset,
                (train.images, train.labels),
                task.base,
                seed,
                parts.progress,
                parts.device,
                parts.bf16,
            )

        inputs = base_models.base_key_inputs(
            task.family,
            task.dataset,
            datasets.data_content(task.dataset),
            task.base,
            seed,
            parts.bf16,
        )
        return Stage("base", "", inputs, build)

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
        ema = base.ema if recipe.ema is None else recipe.ema
        return replace(recipe, clip=recipe.clip or base.clip, ema=ema)


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

    def find(self) -> base_models.Base:
        """Find the folder or file of the weights."""
        return base_models.find_pretrained(self.task.model, self.parts.store)

    def stage(self) -> Stage | None:
        """Give None: it is trained already."""
        return None

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
