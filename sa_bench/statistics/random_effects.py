"""A random-effects summary: values of several units, each with its own variance, and what another unit may show.

    y_i = μ + δ_i + ε_i,  δ ~ N(0, τ²),  ε_i ~ N(0, v_i),  w_i = 1 / (v_i + τ²)
    τ²:            Σ w_i (y_i − μ̂)² = k − 1, or 0 (Paule & Mandel 1982)
    μ:             μ̂ ± t_{k−1} s,  s² = max(1, Σ w_i (y_i − μ̂)² / (k − 1)) / Σ w_i
                   (Hartung & Knapp 2001, modified so that it is never narrower than w says: Röver et al. 2015)
    another unit:  μ̂ ± t_{k−1} √(τ² + v̄ + s²), for the value that is measured of it, v̄ the mean variance

With equal variances both are Student's intervals of k values. The usual interval of another unit leaves v̄ out (Higgins,
Thompson & Spiegelhalter 2009) and speaks of the true value; with ten units it held in 87 to 94 % of simulated cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from sa_bench.statistics import student

if TYPE_CHECKING:
    import scipy.optimize

TAIL = 0.975  # both intervals are 95 %


class RandomEffects(NamedTuple):
    """The mean over units, its 95 % interval, and the 95 % interval of the value measured of another unit."""

    mean: float
    low: float
    high: float
    next_low: float
    next_high: float
    spread: float
    """τ, the standard deviation between units."""
    units: int


def summarise(values: Sequence[float], variances: Sequence[float]) -> RandomEffects:
    """Summarise the values of at least two units.

    Args:
        values: one a unit.
        variances: of each value within its unit; 0 where all that varies is seen between units.
    """
    y, v = np.asarray(values, float), np.asarray(variances, float)
    total = float(((y - y.mean()) ** 2).sum())
    v = np.maximum(v, 1e-12 * (total or 1.0))

    def excess(between: float) -> float:
        """Compute how far the weighted squares lie above what `between` = τ² makes them."""
        w = 1 / (v + between)
        return float((w * (y - np.average(y, weights=w)) ** 2).sum()) - (len(y) - 1)

    # At τ² = Σ (y − ȳ)² no weighted sum of squares exceeds 1, so the root lies below it.
    between = 0.0
    if excess(0) > 0:
        between = float(scipy.optimize.root_scalar(excess, bracket=(0, total)).root)
    w = 1 / (v + between)
    mean = float(np.average(y, weights=w))
    inflation = max(1.0, excess(between) / (len(y) - 1) + 1)
    variance = inflation / float(w.sum())
    t = student.compute_quantile(TAIL, len(y) - 1)
    half, half_of_next = t * variance**0.5, t * (variance + between + float(v.mean())) ** 0.5
    return RandomEffects(
        mean,
        mean - half,
        mean + half,
        mean - half_of_next,
        mean + half_of_next,
        between**0.5,
        len(y),
    )
