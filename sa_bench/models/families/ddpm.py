"""Declare the family `ddpm`: class-conditional diffusion in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sa_bench.contracts import Diffusion, Generator, Recipe
from sa_bench.models import recipes, schedule
from sa_bench.models.family import Family


class DDPMFamily(Family):
    """The diffusion models of `sa_bench.models.ddpm`."""

    name = "ddpm"
    title = "DDPM"
    abilities = ("variational_bound", "add_noise")
    contracts = (Generator, Diffusion)
    schedulers = ("ddim", "ddpm")
    most_steps = schedule.T
    spacing = schedule.TRAILING
    precisions = ("fp32", "bf16", "fp16")
    keys_all_base_sets = False

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes that its base models are trained by, by name; read without torch."""
        return recipes.DDPM

    def _import_generator(self) -> type:
        from sa_bench.models.ddpm import DDPM

        return DDPM

    def new_model(self, dataset: str, recipe: str, seed: int, words: Sequence[str]) -> Any:
        """Initialise a DDPM for the images of `dataset`."""
        from sa_bench.data import datasets

        return self.load_generator()(recipe, datasets.SHAPES[dataset], seed=seed)


FAMILY = DDPMFamily()
