"""Define what the suite must know of a model family besides its Generator, and find families by name.

A family is one module in `sa_bench/models/families/`, named like the family. It holds a value
`FAMILY` of a subclass of `Family`. Tasks are validated with it, so it loads torch, diffusers and the
Generator only inside its methods.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.contracts import Generator, Progress, Recipe, SampleSet, Source, Task
from sa_bench.core.errors import name_missing_extra, unknown_name

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from sa_bench.training.record import TrainingRecord

FOLDER = Path(__file__).parent / "families"


class Family:
    """A model family; the defaults are those of a class-conditional model without timesteps."""

    name: str
    title: str
    """Its name in an error, after "has a"."""
    contracts: tuple[type, ...] = (Generator,)
    """Contracts that its models meet; a method runs on it if it supports one of them."""
    samples_are_cheap: bool = False
    """Whether methods draw new samples of θ* for every batch, rather than from a stored set."""
    schedulers: tuple[str, ...] = ("direct",)
    """Schedulers that it can sample with."""
    most_steps: int = 1
    """The most steps of its sampler."""
    spacing: tuple[str, int] | None = None
    """Spacing of a sampler's timesteps and its offset; None without timesteps."""
    precisions: tuple[str, ...] = ("fp32",)
    """Precisions that it can sample in."""
    fisher_targets: tuple[str, ...] = ("means",)
    """Choices of `FisherOptions.targets` that apply."""
    fewest_quick: int = 80
    """The fewest images of c_f at scale `quick`: with fewer, one run could not pass the gate of ten
    classes."""
    opens_checkpoints: bool = False
    """Whether a task may start from a pretrained model (`task.model`)."""
    keys_all_base_sets: bool = True
    """Whether keys of measurements name every sample set of θ*.

    Families that came before the further sets name `retain` alone, so that old results are found.
    """

    abilities: tuple[str, ...] | None = None
    """Methods of its models that metrics may require; None asks the class, which loads torch."""

    def can(self, ability: str) -> bool:
        """Tell whether its models have the method `ability`, such as `log_likelihood`."""
        if self.abilities is None:
            return hasattr(self.load_generator(), ability)
        return ability in self.abilities

    @property
    def has_timesteps(self) -> bool:
        """True if its models are diffusion models."""
        return self.spacing is not None

    def load_generator(self) -> type:
        """Return the class of its models, imported on demand: diffusers alone takes seconds.

        Raises:
            MissingExtra: a library that it needs is not installed.
        """
        with name_missing_extra("text-to-image"):
            return self._import_generator()

    def _import_generator(self) -> type:
        """Import the class of its models."""
        raise NotImplementedError

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes that its base models are trained by, by name."""
        generator: Any = self.load_generator()
        return generator.recipes

    def get_recipe(self, name: str) -> Recipe:
        """Return a base model's recipe by name.

        Raises:
            SaBenchError: the name is unknown.
        """
        recipes = self.recipes
        if name not in recipes:
            raise unknown_name(f"{self.name} base recipe", name, recipes)
        return recipes[name]

    def new_model(self, dataset: str, recipe: str, seed: int, words: Sequence[str]) -> Any:
        """Initialise a model.

        Args:
            dataset: whose images it makes.
            recipe: name of the recipe that it will be trained by.
            seed: of the initialisation.
            words: names of the classes.
        """
        raise NotImplementedError

    def set_precision(self, model: Any, precision: str) -> None:
        """Set the precision of what a model does outside a sampler; nothing for most families."""

    def list_scopes(self) -> tuple[str, ...]:
        """List the sets of parameters that can be trained."""
        return ("full",)

    def list_fisher_scopes(self) -> tuple[str, ...]:
        """List those of `list_scopes` whose parameters F covers."""
        return self.list_scopes()

    def data_key_inputs(self, recipe: str) -> dict[str, Any]:
        """Return what training on data depends on besides images and recipe."""
        return {}

    def train(
        self,
        model: Any,
        images: np.ndarray,
        labels: np.ndarray,
        recipe: Recipe,
        name: str,
        seed: int,
        folder: Path,
        progress: Progress | None,
        bf16: bool,
    ) -> list[TrainingRecord]:
        """Train a new base model; a killed training is resumed from its checkpoint.

        Args:
            model: the new model.
            images: uint8 (N, H, W, C).
            labels: class of each image, (N,).
            recipe: how it is trained.
            name: name of the recipe.
            seed: of the training's randomness.
            folder: of the checkpoint.
            progress: called with (stage, done, total).
            bf16: whether it is trained in bf16.
        """
        import torch

        from sa_bench.core.parts import parts_of
        from sa_bench.training.loop import fit
        from sa_bench.training.sources import Images

        rng = torch.Generator().manual_seed(seed)
        source = Images(model, images, labels, recipe.flip, recipe.drop)

        def loss() -> Tensor:
            x, c = source.batch(recipe.batch, rng)
            return recipe.reduce(model.loss(x, c, model.draw(len(x), rng)))

        model.net.train()
        record = fit(
            model.parameters(),
            loss,
            recipe,
            rng=rng,
            bf16=bf16,
            progress=progress,
            average=model.averages(),
            checkpoint=parts_of(folder) / "checkpoint.safetensors",
            stage=f"base {name}/{seed}",
        )
        return [record]

    def data_without_concept(
        self, model: Any, train: SampleSet, recipe: Recipe, seed: int, absent: Sequence[int]
    ) -> Source:
        """Return the base model's training data as a source of batches, without what is forgotten.

        Args:
            model: a copy of the base model.
            train: all training images.
            recipe: by which the base model was trained.
            seed: of the base model's training.
            absent: the classes that are left out.
        """
        import numpy as np

        from sa_bench.training.sources import Images

        retained = train.take(~np.isin(train.labels, absent))
        return Images(model, retained.images, retained.labels, recipe.flip, recipe.drop)

    def make_noise(self, model: Generator, task: Task) -> Source:
        """Make the surrogate `noise` of q(x|c_f): uniform over the model's range."""
        from sa_bench.training.sources import UniformNoise

        return UniformNoise(model, task.concept, model.shape, model.range)

    def estimate_fisher(self, *arguments: Any) -> tuple[dict[str, torch.Tensor], float]:
        """Estimate F; arguments and result are those of `sa_bench.training.fisher`."""
        from sa_bench.training import fisher

        if self.has_timesteps:
            return fisher.estimate_over_time(*arguments)
        return fisher.estimate_over_samples(*arguments)

    def hash_forgotten(self, file: Path, base: str) -> str:
        """Hash a model after forgetting.

        Args:
            file: its weight file.
            base: hash of its base model.
        """
        from sa_bench.core.store import file_digest

        return file_digest(file)


def list_families() -> tuple[str, ...]:
    """List the names of all families."""
    return tuple(sorted(p.stem for p in FOLDER.glob("[a-z]*.py")))


@cache
def get_family(name: str) -> Family:
    """Find a family by its name.

    Raises:
        SaBenchError: there is no family of the name.
    """
    if name not in list_families():
        raise unknown_name("model family", name, list_families())
    return importlib.import_module(f"sa_bench.models.families.{name}").FAMILY
