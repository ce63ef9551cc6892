"""Put vectors of one's own before a prompt: what an attacker, or a method that trains against one, fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sa_bench.contracts import PLACE, Prompted


class Prefix:
    """Vectors in the space of token embeddings, before the words of a prompt."""

    def __init__(self, model: Prompted, vectors: int, rng: torch.Generator) -> None:
        """Draw `vectors` random vectors, as large as the model's own embedding of one token."""
        self.slot = model.condition(PLACE)
        place = self.slot.read()
        self.size = float(place.std())
        """Spread of an embedding's values: near 1 in the micro model, 0.01 in Stable Diffusion."""
        value = torch.randn(vectors, place.numel(), generator=rng) * self.size
        self.value = value.flatten().to(place)

    @staticmethod
    def put_before(texts: Sequence[str]) -> list[str]:
        """Write the texts with the prefix's place before them."""
        return [f"{PLACE} {text}" for text in texts]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the vectors in every prompt that has the place, within the block."""
        with self.slot.substitute(self.value):
            yield

    def descend(self, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
        """Fit the vectors to `loss`, computed with them in place, by `steps` steps of its gradient's sign.

        Args:
            loss: a scalar that depends on the vectors.
            steps: number of steps.
            rate: length of a step in each value, in units of `size`.
        """
        for _ in range(steps):
            self.value.requires_grad_(True)
            with self.in_place():
                (gradient,) = torch.autograd.grad(loss(), [self.value])
            self.value = (self.value - rate * self.size * gradient.sign()).detach()
