"""Student's t distribution: its quantiles and tails, from `scipy.special`.

They are the same bits as `scipy.stats.t.ppf` and `.sf`; that module takes a second to import, which
every process of a run would pay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import scipy  # its submodules are imported on first use

if TYPE_CHECKING:
    import scipy.special


def compute_quantile(probability: float, df: float) -> float:
    """Compute the value below which a t variable with `df` degrees of freedom lies with `probability`."""
    return float(scipy.special.stdtrit(df, probability))


def compute_upper_tail(value: float, df: float) -> float:
    """Compute the probability that a t variable with `df` degrees of freedom exceeds `value`."""
    return float(scipy.special.stdtr(df, -value))
