"""Provide what methods are made of: the training loop, recipe and pull, batch sources, and F."""

from sa_bench.contracts import Count, Progress, Rate, Recipe, Weight
from sa_bench.training.loop import TRAINERS, Pull, fit, uses_bf16
from sa_bench.training.sources import losses, reduce_losses, sample_conditions

__all__ = [
    "TRAINERS",
    "Count",
    "Progress",
    "Pull",
    "Rate",
    "Recipe",
    "Weight",
    "fit",
    "losses",
    "reduce_losses",
    "sample_conditions",
    "uses_bf16",
]
