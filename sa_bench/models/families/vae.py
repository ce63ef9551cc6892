"""Declare the family `vae`: the class-conditional VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sa_bench.contracts import Recipe
from sa_bench.models import recipes
from sa_bench.models.family import Family


class VAEFamily(Family):
    """The conditional VAE of `sa_bench.models.vae`."""

    name = "vae"
    title = "VAE"
    abilities = ("log_likelihood",)
    samples_are_cheap = True
    fisher_targets = ("means", "bernoulli")
    keys_all_base_sets = False

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes that its base models are trained by, by name; read without torch."""
        return recipes.VAE

    def _import_generator(self) -> type:
        from sa_bench.models.vae import VAE

        return VAE

    def new_model(self, dataset: str, recipe: str, seed: int, words: Sequence[str]) -> Any:
        """Initialise a VAE; it has one size, and no names of classes."""
        return self.load_generator()(seed=seed)


FAMILY = VAEFamily()
