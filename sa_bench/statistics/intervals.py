"""Compute intervals, tests and the measurements that metrics return.

Every interval is 95 %. Which one is used where, and why, is in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from sa_bench.contracts import Measured, undefined
from sa_bench.statistics import student

if TYPE_CHECKING:
    import scipy.special

ALPHA = 0.05


def wilson(successes: float, n: int, comparisons: int = 1) -> tuple[float, float]:
    """Compute Wilson's score interval for a rate, Bonferroni-widened for `comparisons` looks.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001.

    Returns:
        The ends of the interval, in [0, 1].
    """
    return score_interval(successes / n, n, float(scipy.special.ndtri(1 - ALPHA / comparisons / 2)))


def score_interval(p: float, n: float, z: float) -> tuple[float, float]:
    """Compute Wilson's interval for a proportion.

    Args:
        p: observed proportion.
        n: number of independent trials; any positive number.
        z: half-width in standard errors.
    """
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (0.0 if p == 0 else float(low)), (1.0 if p == 1 else float(high))


def compute_tail(successes: int, n: int, p: float) -> float:
    """Compute the probability of at least `successes` among `n` trials of probability `p` (binomial, exact)."""
    return float(scipy.special.bdtrc(successes - 1, n, p)) if successes else 1.0


def betting(x: np.ndarray, grid: int = 2000) -> tuple[float, float]:
    """Compute the hedged-capital interval for the mean of values in [0, 1].

    It never collapses and is valid at any n. Values are visited in a fixed random order.

    Source: Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting,
    Section 4.4 (predictable plug-in bets, c = 1/2).
    """
    n = len(x)
    x = np.asarray(x, float)[np.random.default_rng(0).permutation(n)]
    i = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x)) / (i + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (i + 1)
    previous_variance = np.concatenate([[0.25], variance[:-1]])
    bets = np.sqrt(2 * np.log(2 / ALPHA) / (n * previous_variance))
    candidates = np.linspace(0, 1, grid + 1)[1:-1]
    log_capital_up, log_capital_down = np.zeros_like(candidates), np.zeros_like(candidates)
    # A mean is rejected as soon as the capital reaches the limit, not only at the end.
    is_rejected = np.zeros(len(candidates), bool)
    for value, bet in zip(x, bets, strict=True):
        log_capital_up += np.log1p(np.minimum(bet, 0.5 / candidates) * (value - candidates))
        log_capital_down += np.log1p(
            -np.minimum(bet, 0.5 / (1 - candidates)) * (value - candidates)
        )
        is_rejected |= np.maximum(log_capital_up, log_capital_down) + np.log(0.5) >= np.log(
            1 / ALPHA
        )
    accepted = candidates[~is_rejected]
    mean_x = float(x.mean())
    low = (
        0.0 if len(accepted) == 0 or accepted[0] <= candidates[0] else float(accepted[0] - 1 / grid)
    )
    high = (
        1.0
        if len(accepted) == 0 or accepted[-1] >= candidates[-1]
        else float(accepted[-1] + 1 / grid)
    )
    return min(low, mean_x), max(high, mean_x)


def rate(scores: np.ndarray, columns: Mapping[str, np.ndarray], **more: Any) -> Measured:
    """Measure the mean of 0/1 scores with Wilson's interval."""
    n = len(scores)
    if n == 0:
        return undefined("no images to judge")
    low, high = wilson(float(scores.sum()), n)
    columns = {**columns, "score": scores}
    return Measured(float(scores.mean()), low, high, "wilson", n, scores=columns, **more)


def bounded_mean(
    scores: np.ndarray, columns: Mapping[str, np.ndarray], upper: float = 1.0, **more: Any
) -> Measured:
    """Measure the mean of scores in [0, upper] with the betting interval; undefined with NaN."""
    if len(scores) == 0:
        return undefined("no images to judge")
    if not_finite := int((~np.isfinite(scores)).sum()):
        return undefined(f"{not_finite} of {len(scores)} scores are not finite")
    low, high = betting(np.clip(scores / upper, 0, 1))
    columns = {**columns, "score": scores}
    return Measured(
        float(scores.mean()),
        low * upper,
        high * upper,
        "betting",
        len(scores),
        scores=columns,
        **more,
    )


def mean(scores: np.ndarray, columns: Mapping[str, np.ndarray], **more: Any) -> Measured:
    """Measure the mean of unbounded scores with Student's t interval; undefined with NaN."""
    n = len(scores)
    if n < 2:
        return undefined(f"an interval needs at least 2 images, not {n}")
    if not_finite := int((~np.isfinite(scores)).sum()):
        return undefined(f"{not_finite} of {n} scores are not finite")
    half = student.compute_quantile(1 - ALPHA / 2, n - 1) * scores.std(ddof=1) / np.sqrt(n)
    value = float(scores.mean())
    columns = {**columns, "score": scores}
    return Measured(value, value - half, value + half, "t", n, scores=columns, **more)


class Estimate(NamedTuple):
    """A value and its interval."""

    value: float
    low: float
    high: float


def jackknife(
    estimate: Callable[[np.ndarray], float],
    n: int,
    groups: int = 20,
    clusters: np.ndarray | None = None,
) -> Estimate:
    """Compute value and interval of `estimate(rows)` by the delete-a-group jackknife.

    The rows are 0..n−1; those of one of the `clusters` (N,) are left out together. No image is ever
    drawn twice: a bootstrap would add the finite-N bias of FID a second time. The half-width is
    from Student's t with groups − 1 degrees of freedom.

    Source: Kott 2001.
    """
    group = jackknife_groups(n, groups, clusters)
    value = estimate(np.arange(n))
    left_out = np.array([estimate(np.flatnonzero(group != g)) for g in range(groups)])
    return combine_left_out(value, left_out)


def combine_left_out(value: float, left_out: np.ndarray) -> Estimate:
    """Compute the jackknife's interval from the value and the estimates without each group, (groups,)."""
    groups = len(left_out)
    error = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    half = float(student.compute_quantile(1 - ALPHA / 2, groups - 1) * error)
    return Estimate(value, value - half, value + half)


def jackknife_groups(n: int, groups: int, clusters: np.ndarray | None = None) -> np.ndarray:
    """Assign each row 0..n−1 to a group 0..groups−1: at random, but always the same.

    The groups' sizes are equal to within one row or cluster.
    """
    if clusters is not None:
        unique, number = np.unique(clusters, return_inverse=True)
        return jackknife_groups(len(unique), groups)[number]
    group = np.empty(n, int)
    group[np.random.default_rng(0).permutation(n)] = np.arange(n) % groups
    return group


def mcnemar(more: int, less: int) -> float:
    """Compute the two-sided p of the exact McNemar test.

    Args:
        more: number of images with a hit for the first model alone.
        less: number of images with a hit for the second model alone.
    """
    # of equal chances both tails are alike; scipy's test of any chance takes thirty times as long
    return min(1.0, 2 * float(scipy.special.bdtr(min(more, less), more + less, 0.5)))


class Difference(NamedTuple):
    """A mean difference; interval and p are None where they cannot be computed."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


def over_bases(by_base: Mapping[int, Sequence[float]]) -> Difference:
    """Compute the mean difference, its interval and its p for a new base model and seed.

    Base models are the units: Student's t over their means, with one degree of freedom less than
    there are base models. What seeds add is contained in the spread of the means. With a single
    base model its runs are the units, and nothing is claimed about other base models. If no two
    units differ there is no interval, and no p unless all differences are 0: an unobserved spread
    is not a spread of 0.

    Args:
        by_base: differences of the runs by base model.
    """
    units = [float(np.mean(v)) for v in by_base.values()]
    if len(units) == 1:
        units = [float(v) for v in next(iter(by_base.values()))]
    mean_of = float(np.mean(units))
    if len(units) < 2:
        return Difference(mean_of, None, None, None)
    if np.allclose(units, units[0], rtol=1e-9, atol=1e-12):
        return Difference(mean_of, None, None, None if any(units) else 1.0)
    error = float(np.std(units, ddof=1)) / len(units) ** 0.5
    half = student.compute_quantile(1 - ALPHA / 2, len(units) - 1) * error
    return Difference(
        mean_of,
        mean_of - half,
        mean_of + half,
        2 * student.compute_upper_tail(abs(mean_of) / error, len(units) - 1),
    )


def components(by_base: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Estimate how much a difference varies between base models and between one base's seeds.

    The method of moments is used.

    Returns:
        The standard deviation between base models, and that between seeds of one base model.

    Raises:
        ValueError: fewer than two base models have two runs each: an unobserved spread is not 0.
    """
    groups = [
        np.asarray(differences, float) for differences in by_base.values() if len(differences) > 1
    ]
    if len(groups) < 2:
        raise ValueError("two base models with two runs each are needed")
    within = float(np.mean([group.var(ddof=1) for group in groups]))
    # The part of the variance of a base model's mean that comes from its seeds.
    seed_part = within * float(np.mean([1 / len(group) for group in groups]))
    between = float(np.var([group.mean() for group in groups], ddof=1)) - seed_part
    return max(0.0, between) ** 0.5, within**0.5


def sampling(table: np.ndarray) -> tuple[float, float]:
    """Estimate the variance that the drawing of images adds to one run's mean.

    This is the two-way analysis of variance: images that are hard for every run move all means
    together; the rest of an image's value looks like a spread between seeds. A single run cannot
    tell the two apart: all of it then counts as shared.

    Args:
        table: (R, U), one value per run and image, or per run and prompt; the same images in all
            runs.

    Returns:
        The variance that all runs share, and the variance that each run has on its own.
    """
    runs, units = table.shape
    by_unit = table.mean(0)
    if runs < 2:
        return float(by_unit.var(ddof=1)) / units, 0.0
    residuals = table - table.mean(1, keepdims=True) - by_unit + table.mean()
    run_variance = float((residuals**2).sum()) / ((runs - 1) * (units - 1))
    shared_variance = max(0.0, float(by_unit.var(ddof=1)) - run_variance / runs)
    return shared_variance / units, run_variance / units


def detectable(
    of_base: float, of_seed: float, bases: int, seeds: int, power: float = 0.8, comparisons: int = 1
) -> float | None:
    """Compute the smallest true difference that `over_bases` detects (p < .05) with `power`.

    Args:
        of_base: sd of the difference between base models.
        of_seed: sd between seeds of one base model.
        bases: number of base models; with one, seeds are the units.
        seeds: forgetting seeds on each base model.
        power: probability of detecting the difference.
        comparisons: endpoints that share the error; the first step of Holm's method.

    Returns:
        The difference; None with one run alone.
    """
    units = bases if bases > 1 else seeds
    if units < 2:
        return None
    spread = of_base**2 + of_seed**2 / seeds if bases > 1 else of_seed**2
    error, df = (spread / units) ** 0.5, units - 1
    limit = student.compute_quantile(1 - ALPHA / comparisons / 2, df)
    # the noncentrality at which t exceeds its limit with `power`; that it falls below −limit as well adds nothing
    return error * float(scipy.special.nctdtrinc(df, 1 - power, limit))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjust p values by Holm's step-down method; None stays None and is not counted."""
    in_order = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(in_order):
        highest = max(highest, min(1.0, value * (len(in_order) - rank)))
        adjusted[i] = highest
    return adjusted


def entropy(p: np.ndarray) -> np.ndarray:
    """Compute −Σ p ln p over the last axis, in nats; 0·ln 0 = 0; NaN stays NaN."""
    return scipy.special.entr(np.asarray(p, float)).sum(-1)
