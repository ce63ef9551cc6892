"""Intervals where several images come from one prompt: 50 prompts x 20 images are not 1,000 images.

The prompt is the unit (cluster). The variance of a mean is the ratio estimator's, so that prompts may have
different numbers of images; scores in [0, 1] get Wilson's interval at the number of independent images that has
the same variance. With no prompts, one prompt, or one image each, images are the units again
(`sa_bench.statistics.intervals`); of a single prompt nothing is said beyond it.

The same holds of two models on the same images: `paired`.

Source: Cochran 1977, Section 11.8 (ratio estimator); Korn & Graubard 1998 (effective sample size, Student's t);
Bonett & Price 2012 (differences of paired rates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are asked for: stats alone takes a second

from sa_bench.contracts import Measured
from sa_bench.statistics import intervals, mcnemar
from sa_bench.statistics.intervals import ALPHA, score_interval

ASSUMED_ICC = 0.3  # where too little was seen to tell: at 0 of 1,000 every correlation fits
PAIRS = (
    20  # telling prompts squared, over this: the weight of what was seen against what is assumed
)


def clusters_of(clusters: np.ndarray | None) -> tuple[np.ndarray, int] | None:
    """(0..K−1 for each row, K), None where images are the units."""
    if clusters is None:
        return None
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    k = int(number.max(initial=-1)) + 1
    return None if k < 2 or k == len(number) else (number, k)


def variance(scores: np.ndarray, number: np.ndarray, k: int) -> float:
    """The variance of the mean of all scores, `k` clusters drawn anew."""
    off = np.bincount(number, weights=scores - scores.mean(), minlength=k)
    return float(k / (k - 1) * (off**2).sum() / len(scores) ** 2)


def effective(scores: np.ndarray, number: np.ndarray, k: int) -> float:
    """How many independent images in [0, 1] would tell as much; at most N.

    The design effect is the estimated variance over a coin's. From a hit or two no correlation can be
    estimated, so the estimate is mixed with the design effect at `ASSUMED_ICC`: nothing seen leaves that one
    alone, 50 prompts that all have hits and misses leave less than 1 % of it. In simulations of 50 x 20 images at
    rates .01 to .5 and correlations 0 to .3 the interval covers .93 to .99.
    """
    n, p = len(scores), float(scores.mean())
    seen = variance(scores, number, k) / (p * (1 - p) / n) if 0 < p < 1 else 1.0
    return n / _effect(seen, scores, number, k)


def _effect(seen: float, share: np.ndarray, number: np.ndarray, k: int) -> float:
    """The design effect that was seen, mixed with the assumed one the more, the fewer prompts have hits and misses."""
    sizes, hits = np.bincount(number, minlength=k), np.bincount(number, weights=share, minlength=k)
    telling = min(int((hits > 0).sum()), int((hits < sizes).sum()))
    # images that share a prompt with an image
    typical = float((sizes.astype(float) ** 2).sum()) / len(share)
    assumed, weight = 1 + (typical - 1) * ASSUMED_ICC, telling**2 / PAIRS
    return (weight * max(1.0, seen) + assumed) / (weight + 1)


def rate(
    scores: np.ndarray, clusters: np.ndarray | None, columns: Mapping[str, np.ndarray], **more: Any
) -> Measured:
    """The mean of 0/1 scores (N,) of images from the prompts `clusters` (N,); None: no prompts."""
    units = clusters_of(clusters)
    if units is None or len(scores) == 0:
        return intervals.rate(scores, columns, **more)
    return _in_unit(scores, *units, 1.0, columns, **more)


def wilson(
    scores: np.ndarray, clusters: np.ndarray | None, comparisons: int = 1
) -> tuple[float, float, str]:
    """(low, high, how) for the mean of 0/1 scores, widened for `comparisons` looks (Bonferroni)."""
    units, widened = clusters_of(clusters), f", Bonferroni({comparisons})"
    if units is None:
        return *intervals.wilson(float(scores.sum()), len(scores), comparisons), f"wilson{widened}"
    quantile = float(scipy.stats.t.ppf(1 - ALPHA / comparisons / 2, units[1] - 1))
    low, high = score_interval(
        float(scores.mean()), effective(np.asarray(scores, float), *units), quantile
    )
    return low, high, f"wilson, clustered by {units[1]} prompts{widened}"


def bounded_mean(
    scores: np.ndarray,
    clusters: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    upper: float = 1.0,
    **more: Any,
) -> Measured:
    """The mean of scores in [0, upper], which vary no more than a coin: `rate`'s interval, a little wide."""
    units = clusters_of(clusters)
    if units is None or not np.isfinite(scores).all():
        return intervals.bounded_mean(scores, columns, upper, **more)
    return _in_unit(scores, *units, upper, columns, **more)


def mean(
    scores: np.ndarray, clusters: np.ndarray | None, columns: Mapping[str, np.ndarray], **more: Any
) -> Measured:
    """The mean of unbounded scores, Student's t over prompts."""
    units = clusters_of(clusters)
    if units is None or not np.isfinite(scores).all():
        return intervals.mean(scores, columns, **more)
    number, k = units
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, k - 1)) * variance(scores, number, k) ** 0.5
    value, columns = float(scores.mean()), {**columns, "score": scores}
    label = f"t, clustered by {k} prompts"
    return Measured(value, value - half, value + half, label, len(scores), scores=columns, **more)


def _in_unit(
    scores: np.ndarray,
    number: np.ndarray,
    k: int,
    upper: float,
    columns: Mapping[str, np.ndarray],
    **more: Any,
) -> Measured:
    share = np.clip(np.asarray(scores, float) / upper, 0, 1)
    quantile = float(scipy.stats.t.ppf(1 - ALPHA / 2, k - 1))
    low, high = score_interval(float(share.mean()), effective(share, number, k), quantile)
    columns = {**columns, "score": scores}
    label = f"wilson, clustered by {k} prompts"
    return Measured(
        float(scores.mean()), low * upper, high * upper, label, len(scores), scores=columns, **more
    )


@dataclass(frozen=True)
class Paired:
    """Two models' scores on the same images: do they have one mean?"""

    difference: float  # mean of a − b
    low: float  # 95 % interval
    high: float
    p: float  # two-sided
    n: int  # images
    units: int  # what was drawn independently: prompts or images
    unit: str


def paired(
    a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None, bounded: bool = False
) -> Paired:
    """The difference of two models' scores (N,) on the same images, at least 2, from the prompts `clusters` (N,).

    Unbounded scores: Student's t, over prompts where there are several images of each. Scores in [0, 1] (`bounded`):
    Bonett and Price's interval, which counts an image more for either side and so never collapses, at the effective
    number of images; p from the same, or the exact McNemar test where images are the units and scores are 0 or 1.
    """
    d, units = np.asarray(a, float) - np.asarray(b, float), clusters_of(clusters)
    n, value = len(d), float(d.mean())
    k = n if units is None else units[1]
    centre, error = (
        value,
        float(d.std(ddof=1)) / n**0.5 if units is None else variance(d, *units) ** 0.5,
    )
    if bounded:
        m = float(n)
        if units is not None:
            seen = error**2 * n / float(d.var()) if d.any() and d.var() > 0 else 1.0
            m /= _effect(seen, np.abs(d), *units)
        centre = m * value / (m + 2)
        spread = (m * float((d**2).mean()) + 2) / (m + 2) - centre**2
        error = (spread / (m + 2)) ** 0.5
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, k - 1)) * error
    low, high = centre - half, centre + half
    if bounded:
        low, high = max(-1.0, min(low, value)), min(1.0, max(high, value))
    if units is None and set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}:
        p = mcnemar(int((d > 0).sum()), int((d < 0).sum()))
    else:
        p = (
            float(not centre)
            if error == 0
            else float(2 * scipy.stats.t.sf(abs(centre) / error, k - 1))
        )
    return Paired(value, low, high, p, n, k, "image" if units is None else "prompt")
