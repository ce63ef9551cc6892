"""Record where a U-Net's cross-attention looks: its maps, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sa_bench.contracts import Prompted


@contextmanager
def record_attention(net: nn.Module) -> Iterator[list[Tensor]]:
    """Record the maps of every cross-attention (`attn2`) within the block, in the order of the layers.

    Each forward pass adds a map a layer, (N, heads, places, tokens): softmax(Q Kᵀ / √width) over the tokens. They are
    computed beside the layer, which stays as it is; gradients flow through them.
    """
    maps: list[Tensor] = []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        hidden, states = args[0], kwargs["encoder_hidden_states"]
        query, key = (
            projected.unflatten(2, (module.heads, -1)).transpose(1, 2)
            for projected in (module.to_q(hidden), module.to_k(states))
        )
        scores = query @ key.transpose(2, 3) * module.scale
        maps.append(scores.float().softmax(3))

    handles = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for name, module in net.named_modules()
        if name.endswith("attn2")
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def find_tokens(model: Prompted, text: str, end: bool = False) -> Tensor:
    """Find the places of a prompt's own tokens, (length,) bool; with `end`, those of end tokens too.

    The first place, which begins every prompt, is none of them. Stable Diffusion 1.x pads with the end token, so that with
    `end` its padding counts.
    """
    return find_words(model, text, 0, None, end)


def find_words(
    model: Prompted, text: str, start: int, stop: int | None, end: bool = False
) -> Tensor:
    """Find the places of a prompt's tokens from `start` to `stop`, counted without the first place, (length,) bool.

    `stop` is None for all up to the first end token. With `end` the places of end tokens count as well.
    """
    c = model.conditions([text])[0]
    is_end = c == c.max()  # the end token has the highest number
    places = torch.arange(len(c), device=c.device) - 1
    stop = int(is_end.nonzero()[0]) - 1 if stop is None else stop
    return ((places >= start) & (places < stop)) | (is_end & end)


def find_places(A: Tensor, tokens: Tensor) -> Tensor:
    """Find the places that look at the concept's tokens more than the mean place does, (N, places) bool.

    Args:
        A: a layer's attention map, (N, heads, places, length).
        tokens: the concept's tokens, (N, length) bool.
    """
    attention = (A.mean(1) * tokens[:, None, :]).sum(2)
    return attention > attention.mean(1, keepdim=True)
