"""Define what an attacker may spend: images, steps, rates. A task holds one budget for each attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sa_bench.contracts.keys import Count, Rate, Weight

Steps = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
"""Numbers of steps, ascending, after which images are drawn."""
Rates = Annotated[tuple[Rate, ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class FineTuning:
    """Budget of fine-tuning all weights by Adam."""

    images: Count = 50
    """Real images that the attacker has, of c_f or, for `resurgence`, of each retained class."""
    steps: Steps = (0, 10, 20, 40, 80)
    rates: Rates = (1e-4,)
    """Adam's learning rates; the one that brings back most counts. Large ones teach any model c_f."""
    batch: Count = 16
    """Images a step."""


@dataclass(frozen=True)
class Stress:
    """What a released model goes through that nobody meant as an attack."""

    alphas: tuple[Weight, ...] = (0.5, 0.75, 1.25, 1.5)
    """Factors α of θ* + α (θ − θ*)."""
    pruned: Share = 0.1
    """Share of the weights of each layer, the smallest, that become 0."""
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    """Bits of a weight after rounding."""
    rank: Count = 4
    """Rank of the LoRA of another class."""
    steps: Count = 50
    """Steps in which the LoRA is fitted."""
    rate: Rate = 1e-3
    images: Count = 50
    """Real images of that class."""
    batch: Count = 16
    """Images a step."""


@dataclass(frozen=True)
class Coding:
    """Budget of a prequential code: fit on what was sent, send as many images again."""

    images: Count = 32
    """Real images of c_f that are coded, in blocks of 1, 1, 2, 4, 8, ... images."""
    steps: Count = 20
    """Steps by which the model is fitted before each further block."""
    rate: Rate = 1e-2
    """Adam's learning rate for c_f's slot."""
    weights_rate: Rate = 3e-5
    """Adam's learning rate for all weights."""
