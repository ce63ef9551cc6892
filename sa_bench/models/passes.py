"""Let a network look at fewer images at once, where memory is short, without changing what is drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def divide_passes(net: nn.Module, divisor: int) -> None:
    """Make a network take each batch in `divisor` pieces, one after the other.

    Randomness is drawn outside of a network, so samples differ by rounding alone. Memory is saved where
    no gradient is wanted; a network with gradients keeps what all pieces need.

    Args:
        net: the network; its inputs are tensors (N, ...), or the same for the whole batch.
        divisor: number of pieces; more than N means one image at a time.
    """
    forward = net.forward

    def forward_in_pieces(*inputs: Any, **named_inputs: Any) -> Any:
        n = len(inputs[0])
        size = -(-n // divisor)
        if size >= n:
            return forward(*inputs, **named_inputs)
        outputs = []
        for start in range(0, n, size):
            rows = slice(start, start + size)
            pieces = [_take_rows(value, n, rows) for value in inputs]
            named = {name: _take_rows(value, n, rows) for name, value in named_inputs.items()}
            outputs.append(forward(*pieces, **named))
        return _join(outputs)

    net.forward = forward_in_pieces


def _take_rows(value: Any, n: int, rows: slice) -> Any:
    """Take the rows of an input that has one for each of `n` images."""
    is_batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == n
    return value[rows] if is_batched else value


def _join(outputs: list[Any]) -> Any:
    """Join the outputs of pieces: tensors, or diffusers' outputs with a `sample`."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return type(outputs[0])(sample=torch.cat([output.sample for output in outputs]))
