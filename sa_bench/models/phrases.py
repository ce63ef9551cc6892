"""Give access to the token embeddings of a phrase: the slot that textual inversion fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sa_bench.core.counts import describe_count
from sa_bench.core.errors import SaBenchError


class Phrase:
    """Slot of a phrase: the token embeddings that represent it in every prompt."""

    def __init__(self, model: Any, text: str) -> None:
        """Take the slot of `text`, one or more tokens, in a text-to-image model."""
        self.model, self.tokens = model, model.tokens_of(text)
        self.width = model.embeddings.shape[1]  # values of one vector

    def read(self) -> Tensor:
        """Return a copy of the embeddings, one after another, (tokens · width,)."""
        return self.model.embeddings[list(self.tokens)].detach().flatten().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite the embeddings of the phrase's tokens, in every prompt that uses them.

        Raises:
            SaBenchError: `value` has another number of values.
        """
        if value.numel() != len(self.tokens) * self.width:
            raise SaBenchError(
                f"The phrase has {describe_count(len(self.tokens), 'token')} of {self.width} values; "
                f"{value.numel()} were given."
            )
        self.model.embeddings[list(self.tokens)] = value.view(-1, self.width)
        self.model.forget_texts()

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """Use the vectors `value`, k ≥ 1 of them, for the phrase within the block.

        Args:
            value: (k · width,) for every prompt alike, or (N, k · width) for each of N prompts.
        """
        vectors = value.view(*value.shape[:-1], -1, self.width)
        self.model.substituted = (self.tokens, vectors)
        try:
            yield
        finally:
            self.model.substituted = None


def replaced(c: Tensor, tokens: Sequence[int], k: int, end: int) -> tuple[Tensor, Tensor]:
    """Replace every run of `tokens` in the rows `c` (N, L) by `k` places.

    Returns:
        The new rows, and for each token the number of its place in the run, −1 outside of one; both
            (N, L).
    """
    length, rows, places = c.shape[1], [], []
    for row in c.tolist():
        new_row, new_places, i = [], [], 0
        while i < length:
            if tuple(row[i : i + len(tokens)]) == tuple(tokens):
                new_row, new_places, i = (
                    [*new_row, *[tokens[0]] * k],
                    [*new_places, *range(k)],
                    i + len(tokens),
                )
            else:
                new_row, new_places, i = [*new_row, row[i]], [*new_places, -1], i + 1
        new_row, new_places = (
            (new_row + [end] * length)[:length],
            (new_places + [-1] * length)[:length],
        )
        if new_row[-1] != end:  # too long now: a prompt must end with the end token
            new_row[-1], new_places[-1] = end, -1
        rows.append(new_row)
        places.append(new_places)
    return torch.tensor(rows, device=c.device), torch.tensor(places, device=c.device)


def fill_places(out: Tensor, places: Tensor, vectors: Tensor) -> Tensor:
    """Put vectors into their places among the token embeddings `out` (N, L, width).

    Args:
        out: the embeddings.
        places: number of the vector at each token, −1 for none, (N, L).
        vectors: (k, width), or (N, k, width) for each row.

    Raises:
        SaBenchError: rows with places are other than N.
    """
    numbers = places.clamp(min=0)
    if vectors.ndim == 2:
        return torch.where((places >= 0)[..., None], vectors[numbers], out)
    if not (places >= 0).any():
        return out  # the empty prompt of guidance, whatever its number of rows
    if len(vectors) != len(out):
        raise SaBenchError(
            f"{len(vectors)} prompts have vectors of their own; {len(out)} prompts were asked for."
        )
    rows = torch.arange(len(out), device=out.device)[:, None]
    return torch.where((places >= 0)[..., None], vectors[rows, numbers], out)
