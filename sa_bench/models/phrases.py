"""A phrase of a prompt: the slot that textual inversion fits, and how other vectors take its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sa_bench.core.errors import SaBenchError


class Phrase:
    """Slot of a phrase: the token embeddings that stand for it in every prompt."""

    def __init__(self, model: Any, text: str) -> None:
        """The slot of `text`, one or more tokens, in a text-to-image model."""
        self.model, self.tokens = model, model.tokens_of(text)
        self.width = model.embeddings.shape[1]  # values of one vector

    def read(self) -> Tensor:
        """The embeddings one after another, a copy, (tokens · width,)."""
        return self.model.embeddings[list(self.tokens)].detach().flatten().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite the embeddings of the phrase's own tokens, wherever they are used.

        Raises:
            SaBenchError: another number of values.
        """
        if value.numel() != len(self.tokens) * self.width:
            raise SaBenchError(
                f"The phrase has {len(self.tokens)} token(s) of {self.width} values; {value.numel()} were given."
            )
        self.model.embeddings[list(self.tokens)] = value.view(-1, self.width)
        self.model.forget_texts()

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """While active, prompts have the vectors `value` (k · width,) in place of the phrase, k ≥ 1."""
        self.model.substituted = (self.tokens, value.view(-1, self.width))
        try:
            yield
        finally:
            self.model.substituted = None


def replaced(c: Tensor, tokens: Sequence[int], k: int, end: int) -> tuple[Tensor, Tensor]:
    """Rows `c` (N, L) with every run of `tokens` replaced by `k` places, and each place's number, else −1."""
    length, rows, places = c.shape[1], [], []
    for row in c.tolist():
        out, number, i = [], [], 0
        while i < length:
            if tuple(row[i : i + len(tokens)]) == tuple(tokens):
                out, number, i = [*out, *[tokens[0]] * k], [*number, *range(k)], i + len(tokens)
            else:
                out, number, i = [*out, row[i]], [*number, -1], i + 1
        out, number = (out + [end] * length)[:length], (number + [-1] * length)[:length]
        if out[-1] != end:  # too long now: a prompt ends with its last token
            out[-1], number[-1] = end, -1
        rows.append(out)
        places.append(number)
    return torch.tensor(rows, device=c.device), torch.tensor(places, device=c.device)
