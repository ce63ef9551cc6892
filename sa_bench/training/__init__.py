"""Provide what methods are made of: the training loop, recipe and pull, batch sources, and F.

What needs torch is loaded with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sa_bench.contracts import Count, Progress, Rate, Recipe, Weight

if TYPE_CHECKING:
    from sa_bench.training.loop import TRAINERS, Pull, fit
    from sa_bench.training.precision import uses_bf16
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

HOMES = {
    **dict.fromkeys(("TRAINERS", "Pull", "fit"), "loop"),
    **dict.fromkeys(("losses", "reduce_losses", "sample_conditions"), "sources"),
    "uses_bf16": "precision",
}


def __getattr__(name: str) -> object:
    """Load a name from the module that defines it."""
    if name not in HOMES:
        raise AttributeError(f"module 'sa_bench.training' has no attribute {name!r}")
    return getattr(import_module(f"sa_bench.training.{HOMES[name]}"), name)
