"""Put vectors of one's own into a prompt: what an attacker, or a method that trains against one, fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from sa_bench.contracts import PLACE, Prompted
from sa_bench.models.attention_maps import find_tokens


class SoftPrompt(ABC):
    """Vectors that stand in prompts, and are fitted by Adam."""

    value: Tensor

    @abstractmethod
    def in_place(self) -> AbstractContextManager[None]:
        """Use the vectors within the block."""

    def descend(self, loss: Callable[[], Tensor], steps: int, optimiser: torch.optim.Adam) -> None:
        """Fit the vectors to `loss`, computed with them in place, by `steps` steps.

        Args:
            loss: a scalar that depends on the vectors.
            steps: number of steps.
            optimiser: of the vectors.
        """
        self.value.requires_grad_(True)
        for _ in range(steps):
            with self.in_place():
                (self.value.grad,) = torch.autograd.grad(loss(), [self.value])
            optimiser.step()
            self.value.grad = None
        self.value.requires_grad_(False)


class Prefix(SoftPrompt):
    """Vectors in the space of token embeddings, before the words of a prompt."""

    def __init__(
        self, model: Prompted, words: Sequence[int], vectors: int, rng: torch.Generator
    ) -> None:
        """Start at the embeddings of `vectors` random words, drawn from the token numbers `words`."""
        self.slot = model.condition(PLACE)
        self.size = float(self.slot.read().std())
        """Spread of an embedding's values: near 1 in the micro model, 0.01 in Stable Diffusion."""
        drawn = torch.randint(len(words), (vectors,), generator=rng).tolist()
        self.value = model.embeddings[[words[i] for i in drawn]].detach().flatten().clone()

    @staticmethod
    def put_before(texts: Sequence[str]) -> list[str]:
        """Write the texts with the prefix's place before them."""
        return [f"{PLACE} {text}" for text in texts]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the vectors in every prompt that has the place, within the block."""
        with self.slot.substitute(self.value):
            yield

    def fit(self, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
        """Fit the vectors to `loss` with a new Adam, whose rate is in units of `size`."""
        self.descend(loss, steps, torch.optim.Adam([self.value], lr=rate * self.size))


class Suffix(SoftPrompt):
    """Vectors in the space of the text encoder's states, in the places behind a prompt's own tokens.

    They, and Adam's moments, stay from one fit to the next. All are changed in place, so that a training can carry
    `state` along.
    """

    def __init__(
        self,
        model: Prompted,
        text: str,
        vectors: int,
        rate: float,
        decay: float,
        rng: torch.Generator,
    ) -> None:
        """Draw vectors from [0, 1); behind a long prompt there are as many as it has places left.

        Args:
            model: whose U-Net reads them.
            text: the prompt.
            vectors: their number.
            rate: Adam's.
            decay: Adam's weight decay, which is part of the gradient.
            rng: of the start.
        """
        self.net = model.net
        states = model.encoded(model.conditions([text]))
        self.start = 1 + int(find_tokens(model, text).sum())
        k = min(vectors, states.shape[1] - self.start)
        value = torch.rand(k, states.shape[2], generator=rng)
        self.value = torch.nn.Parameter(value.to(states.device), requires_grad=False)
        self.optimiser = torch.optim.Adam([self.value], lr=rate, weight_decay=decay)
        moments = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(self.value),
            "exp_avg_sq": torch.zeros_like(self.value),
        }
        self.optimiser.state[self.value] = moments
        self.state: Mapping[str, Tensor] = {"value": self.value, **moments}

    def _put(self, net: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replace states on their way into the U-Net, as its hook."""
        states = kwargs["encoder_hidden_states"].clone()
        states[:, self.start : self.start + len(self.value)] = self.value.to(states)
        return args, {**kwargs, "encoder_hidden_states": states}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the vectors in every prompt that the U-Net reads, within the block."""
        handle = self.net.register_forward_pre_hook(self._put, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def fit(self, loss: Callable[[], Tensor], steps: int) -> None:
        """Fit the vectors further to `loss`."""
        self.descend(loss, steps, self.optimiser)
