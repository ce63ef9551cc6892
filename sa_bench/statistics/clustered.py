"""Compute intervals where several images come from one prompt.

50 prompts × 20 images are not 1,000 independent images: the prompt is the unit (cluster). The
variance of a mean is the ratio estimator's, so that prompts may have different numbers of images;
scores in [0, 1] get Wilson's interval at the number of independent images that has the same
variance. With no prompts, one prompt, or one image per prompt, images are the units again
(`sa_bench.statistics.intervals`); a single prompt supports no statement beyond itself.

The same holds for two models on the same images: see `paired`.

Source: Cochran 1977, Section 11.8 (ratio estimator); Korn & Graubard 1998 (effective sample size,
Student's t); Bonett & Price 2012 (differences of paired rates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sa_bench.contracts import Measured
from sa_bench.statistics import intervals, mcnemar, student
from sa_bench.statistics.intervals import ALPHA, score_interval

ASSUMED_ICC = 0.3  # intraclass correlation if the data tell too little: any fits 0 of 1,000
PAIRS = 20
"""The estimated design effect has the weight (informative prompts)² / PAIRS, the assumed one 1."""


def clusters_of(clusters: np.ndarray | None) -> tuple[np.ndarray, int] | None:
    """Number the clusters of the images.

    Returns:
        The cluster 0..K−1 of each image, and K; None if images are the units.
    """
    if clusters is None:
        return None
    number = np.unique(np.asarray(clusters), return_inverse=True)[1]
    k = int(number.max(initial=-1)) + 1
    return None if k < 2 or k == len(number) else (number, k)


def variance(scores: np.ndarray, number: np.ndarray, k: int) -> float:
    """Estimate the variance of the mean of all scores if the `k` clusters were drawn anew."""
    deviations = np.bincount(number, weights=scores - scores.mean(), minlength=k)
    return float(k / (k - 1) * (deviations**2).sum() / len(scores) ** 2)


def effective(scores: np.ndarray, number: np.ndarray, k: int) -> float:
    """Estimate how many independent images in [0, 1] would give the same precision; at most N.

    The design effect is the estimated variance over that of independent 0/1 scores. One or two hits
    do not tell the correlation, so the estimate is mixed with the design effect at `ASSUMED_ICC`:
    without a hit that one is used alone, and 50 prompts that all have hits and misses leave it less
    than 1 % of the weight. In simulations of 50 × 20 images at rates .01 to .5 and correlations 0
    to .3 the interval covers .93 to .99.
    """
    n, p = len(scores), float(scores.mean())
    estimated_effect = variance(scores, number, k) / (p * (1 - p) / n) if 0 < p < 1 else 1.0
    return n / _mix_design_effects(estimated_effect, scores, number, k)


def _mix_design_effects(estimated: float, share: np.ndarray, number: np.ndarray, k: int) -> float:
    """Mix the estimated design effect with the assumed one.

    The fewer prompts have both hits and misses, the more weight the assumed one gets.
    """
    sizes, hits = np.bincount(number, minlength=k), np.bincount(number, weights=share, minlength=k)
    informative_prompts = min(int((hits > 0).sum()), int((hits < sizes).sum()))
    # Mean number of images that share a prompt with an image, itself included.
    mates = float((sizes.astype(float) ** 2).sum()) / len(share)
    assumed, weight = 1 + (mates - 1) * ASSUMED_ICC, informative_prompts**2 / PAIRS
    return (weight * max(1.0, estimated) + assumed) / (weight + 1)


def rate(
    scores: np.ndarray, clusters: np.ndarray | None, columns: Mapping[str, np.ndarray], **more: Any
) -> Measured:
    """Measure the mean of 0/1 scores (N,) of images from the prompts `clusters` (N,).

    Args:
        scores: 0 or 1 per image.
        clusters: prompt of each image; None for images without prompts.
        columns: further columns that are stored beside the scores.
        more: further fields of the measurement.
    """
    units = clusters_of(clusters)
    if units is None or len(scores) == 0:
        return intervals.rate(scores, columns, **more)
    return _measure_clustered(scores, *units, 1.0, columns, **more)


class NamedInterval(NamedTuple):
    """An interval, and the name by which results call it."""

    low: float
    high: float
    name: str


def wilson(scores: np.ndarray, clusters: np.ndarray | None, comparisons: int = 1) -> NamedInterval:
    """Compute the interval of the mean of 0/1 scores, widened for `comparisons` looks (Bonferroni)."""
    units, suffix = clusters_of(clusters), f", Bonferroni({comparisons})"
    if units is None:
        low, high = intervals.wilson(float(scores.sum()), len(scores), comparisons)
        return NamedInterval(low, high, f"wilson{suffix}")
    quantile = student.compute_quantile(1 - ALPHA / comparisons / 2, units[1] - 1)
    low, high = score_interval(
        float(scores.mean()), effective(np.asarray(scores, float), *units), quantile
    )
    return NamedInterval(low, high, f"wilson, clustered by {units[1]} prompts{suffix}")


def bounded_mean(
    scores: np.ndarray,
    clusters: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    upper: float = 1.0,
    **more: Any,
) -> Measured:
    """Measure the mean of scores in [0, upper].

    Such scores vary no more than 0/1 scores, so `rate`'s interval is used, which is a little wide.
    """
    units = clusters_of(clusters)
    if units is None or not np.isfinite(scores).all():
        return intervals.bounded_mean(scores, columns, upper, **more)
    return _measure_clustered(scores, *units, upper, columns, **more)


def mean(
    scores: np.ndarray, clusters: np.ndarray | None, columns: Mapping[str, np.ndarray], **more: Any
) -> Measured:
    """Measure the mean of unbounded scores, with Student's t over prompts."""
    units = clusters_of(clusters)
    if units is None or not np.isfinite(scores).all():
        return intervals.mean(scores, columns, **more)
    number, k = units
    half = student.compute_quantile(1 - ALPHA / 2, k - 1) * variance(scores, number, k) ** 0.5
    value, columns = float(scores.mean()), {**columns, "score": scores}
    label = f"t, clustered by {k} prompts"
    return Measured(value, value - half, value + half, label, len(scores), scores=columns, **more)


def _measure_clustered(
    scores: np.ndarray,
    number: np.ndarray,
    k: int,
    upper: float,
    columns: Mapping[str, np.ndarray],
    **more: Any,
) -> Measured:
    """Measure the mean of scores in [0, upper] with Wilson's interval over clusters."""
    unit_scores = np.clip(np.asarray(scores, float) / upper, 0, 1)
    quantile = student.compute_quantile(1 - ALPHA / 2, k - 1)
    low, high = score_interval(
        float(unit_scores.mean()), effective(unit_scores, number, k), quantile
    )
    columns = {**columns, "score": scores}
    label = f"wilson, clustered by {k} prompts"
    return Measured(
        float(scores.mean()), low * upper, high * upper, label, len(scores), scores=columns, **more
    )


@dataclass(frozen=True)
class Paired:
    """Comparison of two models' mean scores on the same images."""

    difference: float  # mean of a − b
    low: float  # 95 % interval
    high: float
    p: float  # two-sided
    n: int  # images
    units: int  # number of prompts or images that were drawn independently
    unit: str  # "prompt" or "image"


def paired(
    a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None, bounded: bool = False
) -> Paired:
    """Compare two models' scores on the same images.

    Unbounded scores: Student's t, over prompts if some have several images. Scores in [0, 1]
    (`bounded`): Bonett and Price's interval at the effective number of images; it adds one image to
    either side and so never collapses. p comes from the same interval, or from the exact McNemar
    test if images are the units and all scores are 0 or 1.

    Args:
        a: scores (N,) of the first model, N at least 2.
        b: scores (N,) of the second model.
        clusters: prompt of each image (N,); None for images without prompts.
        bounded: whether the scores lie in [0, 1].
    """
    differences, units = np.asarray(a, float) - np.asarray(b, float), clusters_of(clusters)
    n, value = len(differences), float(differences.mean())
    k = n if units is None else units[1]
    centre, error = (
        value,
        float(differences.std(ddof=1)) / n**0.5
        if units is None
        else variance(differences, *units) ** 0.5,
    )
    if bounded:
        effective_n = float(n)
        if units is not None:
            estimated_effect = (
                error**2 * n / float(differences.var())
                if differences.any() and differences.var() > 0
                else 1.0
            )
            effective_n /= _mix_design_effects(estimated_effect, np.abs(differences), *units)
        centre = effective_n * value / (effective_n + 2)
        spread = (effective_n * float((differences**2).mean()) + 2) / (effective_n + 2) - centre**2
        error = (spread / (effective_n + 2)) ** 0.5
    half = student.compute_quantile(1 - ALPHA / 2, k - 1) * error
    low, high = centre - half, centre + half
    if bounded:
        low, high = max(-1.0, min(low, value)), min(1.0, max(high, value))
    if units is None and set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}:
        p = mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    elif error == 0:  # a spread that was not seen is not none; their common sign needs none
        p = mcnemar(k, 0) if value else 1.0
    else:
        p = 2 * student.compute_upper_tail(abs(centre) / error, k - 1)
    return Paired(value, low, high, p, n, k, "image" if units is None else "prompt")
