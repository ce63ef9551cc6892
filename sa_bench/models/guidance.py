"""How the passes of one step of sampling are put together: plain guidance, and around it a defence's own text.

Notation: out(·) is the network's answer (ε or v), s the sampler's guidance, ∅ the empty prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
from sa_bench.contracts import Guide


def plain(passes: Sequence[Tensor], t: Tensor, s: Tensor | float) -> Tensor:
    """Put classifier-free guidance together: out(∅) + s (out(c) − out(∅))."""
    free, on = passes
    return free + s * (on - free)


@dataclass
class InsteadOfNull:
    """The defence whose text takes the empty prompt's place, as diffusers' `negative_prompt` does."""

    states: Tensor  # (1, length, width)
    instead: bool = True

    def along(self, levels: Sequence[int]) -> Guide:
        """Guide the steps of one trajectory, which nothing is remembered of."""
        return plain

    def anywhere(self, levels: Sequence[int]) -> Guide:
        """Guide single predictions."""
        return plain
