"""Share what searches for prompts are made of: words as numbers, rounding, typing, drawing from texts.

A search may compute with vectors and gradients; images are drawn from the text that it finds, which
goes through the same door as any prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sa_bench.contracts import Generator, Prompted, View, image_seed
from sa_bench.scoring.attacks import Questions

SHOWN = 5
"""Texts that stand in a result."""


@dataclass(frozen=True)
class Vocabulary:
    """The words that an attacker of a model can type; a search knows each by its place here."""

    words: tuple[str, ...]
    """V words, each of one token."""
    tokens: Tensor
    """Token number of each word, (V,) int64."""
    table: Tensor
    """Embedding of each word, (V, width)."""

    @classmethod
    def of(cls, model: Prompted) -> Vocabulary:
        """Take the words that reach `model` as they are typed."""
        words = model.vocabulary()
        tokens = torch.tensor([*words], dtype=torch.int64, device=model.embeddings.device)
        return cls(tuple(words.values()), tokens, model.embeddings[tokens].detach())

    def leave_out(self, name: str) -> Vocabulary:
        """Take the words without those of `name`, and without longer words that contain it."""
        kept = [
            i for i, word in enumerate(self.words) if word not in name.split() and name not in word
        ]
        return Vocabulary(tuple(self.words[i] for i in kept), self.tokens[kept], self.table[kept])

    def type_words(self, rows: Tensor) -> list[str]:
        """Write each row of words, (N, k) int64, as a text."""
        return [" ".join(self.words[i] for i in row) for row in rows.tolist()]

    def round_to_words(self, vectors: Tensor) -> Tensor:
        """Find the nearest word of each vector by cosine; (N, k, width) gives (N, k) int64."""
        return (F.normalize(vectors, dim=-1) @ F.normalize(self.table, dim=-1).T).argmax(-1)

    def draw_words(self, n: int, k: int, rng: torch.Generator) -> Tensor:
        """Draw `n` rows of `k` words, (n, k) int64 on the CPU."""
        return torch.randint(len(self.words), (n, k), generator=rng)


def require_prompted(model: Generator) -> Prompted:
    """Return `model`, which the requirement `prompted` says takes prompts.

    Raises:
        TypeError: it does not.
    """
    if not hasattr(model, "vocabulary"):
        raise TypeError(f"an attack by prompts on the family {model.family}, which takes none")
    return cast("Prompted", model)


def relax(z: Tensor) -> Tensor:
    """Make one-hot rows of the largest of `z` (..., V), whose gradient is passed on to all of `z`."""
    one_hot = F.one_hot(z.argmax(-1), z.shape[-1]).to(z)
    return one_hot + z - z.detach()


def count_words(model: Prompted, wanted: int) -> int:
    """Give the number of words of a prompt: `wanted`, or as many as the model reads."""
    return min(wanted, model.longest)


def texts_of(questions: Questions) -> list[str]:
    """List the prompts of the questions."""
    return [str(request.condition) for request in questions.requests]


def ask(questions: Questions, texts: Sequence[str], rows: Iterable[int] | None = None) -> Questions:
    """Ask the same questions in other texts, with the same noise.

    Args:
        questions: N questions.
        texts: N texts.
        rows: which of them are asked; None asks all.
    """
    chosen = [*range(len(texts))] if rows is None else [*rows]
    requests = [replace(questions.requests[i], condition=texts[i]) for i in chosen]
    numbers = questions.prompts
    prompts = numbers if numbers is None else numbers[chosen]
    return replace(questions, requests=requests, prompts=prompts)


def with_new_noise(questions: Questions, name: str) -> Questions:
    """Ask the same questions from other noise, that of the set `name`."""
    requests = [
        replace(request, seed=image_seed(name, i)) for i, request in enumerate(questions.requests)
    ]
    return replace(questions, requests=requests)


def loss_arguments(view: View) -> tuple[Any, ...]:
    """Give what `loss` and `predict` take besides: the sampler where a defence acts, so that its guidance counts."""
    return () if require_prompted(view.model).defence is None else (view.task.sampler,)


def spread_levels(timesteps: int, n: int) -> list[int]:
    """Spread `n` noise levels evenly over `timesteps`, from the noisiest on."""
    return [int(timesteps * (i + 0.5) / n) for i in reversed(range(n))]


def show_texts(
    asked: Sequence[str], typed: Sequence[str], scores: np.ndarray
) -> list[Mapping[str, Any]]:
    """List some of the texts found, those that show c_f first, with what they stand for."""
    order = sorted(range(len(asked)), key=lambda i: -scores[i])[:SHOWN]
    return [{"asked": asked[i], "typed": typed[i], "shows": float(scores[i])} for i in order]
