"""What is known of F before it is computed, without torch: its version, its samples and its parts."""

from __future__ import annotations

from sa_bench.contracts import FisherOptions

VERSION = 1  # raised whenever the computed F changes
SHARES = 16
"""Parts of an F that takes hours: each may be made on another device. The sums of one are as large as
the model, so more would fill a disk."""


def is_from_replay(options: FisherOptions) -> bool:
    """Tell whether F is estimated over samples of replay."""
    return options.set == "replay" or options.draws == "once"


def split_samples(n: int) -> list[range]:
    """Split the samples of F into at most `SHARES` parts of one size, the last one smaller."""
    size = -(-n // SHARES)
    return [range(start, min(n, start + size)) for start in range(0, n, size)]
