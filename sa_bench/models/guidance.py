"""Combine the passes of one sampling step: plain guidance, and that of a defence's own text.

Notation: out(·) is the network's output (ε or v), s the sampler's guidance, ∅ the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
from sa_bench.contracts import Guide


def plain(passes: Sequence[Tensor], t: Tensor, s: Tensor | float) -> Tensor:
    """Apply classifier-free guidance: out(∅) + s (out(c) − out(∅))."""
    unconditional, conditional = passes
    return unconditional + s * (conditional - unconditional)


@dataclass
class InsteadOfNull:
    """The defence whose text replaces the empty prompt, as diffusers' `negative_prompt` does."""

    states: Tensor  # (1, length, width)
    instead: bool = True

    def along(self, levels: Sequence[int]) -> Guide:
        """Return the guide of one trajectory, which keeps no state."""
        return plain

    def anywhere(self, levels: Sequence[int]) -> Guide:
        """Return the guide of single predictions."""
        return plain
