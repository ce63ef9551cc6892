"""Intervals, and what a metric hands back.

Every interval is 95 %. Which one is used where, and why, is in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are asked for: stats alone takes a second

from sa_bench.contracts import Measured, undefined

ALPHA = 0.05


def wilson(successes: float, n: int, comparisons: int = 1) -> tuple[float, float]:
    """Wilson's score interval for a rate, in [0, 1], Bonferroni-widened for `comparisons` looks.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001.
    """
    return score_interval(
        successes / n, n, float(scipy.stats.norm.ppf(1 - ALPHA / comparisons / 2))
    )


def score_interval(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share `p` of `n` (any positive number) independent trials, `z` standard errors wide."""
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (0.0 if p == 0 else float(low)), (1.0 if p == 1 else float(high))


def betting(x: np.ndarray, grid: int = 2000) -> tuple[float, float]:
    """The hedged-capital interval for the mean of values in [0, 1]; never collapses, valid at any n.

    Source: Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting,
    Section 4.4 (predictable plug-in bets, c = 1/2). Values are visited in a fixed random order.
    """
    n = len(x)
    x = np.asarray(x, float)[np.random.default_rng(0).permutation(n)]
    i = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x)) / (i + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (i + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.sqrt(2 * np.log(2 / ALPHA) / (n * before))
    m = np.linspace(0, 1, grid + 1)[1:-1]
    up, down = np.zeros_like(m), np.zeros_like(m)
    reached = np.zeros(len(m), bool)  # capital may be cashed in at any time, not only at the end
    for value, bet in zip(x, bets, strict=True):
        up += np.log1p(np.minimum(bet, 0.5 / m) * (value - m))
        down += np.log1p(-np.minimum(bet, 0.5 / (1 - m)) * (value - m))
        reached |= np.maximum(up, down) + np.log(0.5) >= np.log(1 / ALPHA)
    kept = m[~reached]
    mean_x = float(x.mean())
    low = 0.0 if len(kept) == 0 or kept[0] <= m[0] else float(kept[0] - 1 / grid)
    high = 1.0 if len(kept) == 0 or kept[-1] >= m[-1] else float(kept[-1] + 1 / grid)
    return min(low, mean_x), max(high, mean_x)


def rate(scores: np.ndarray, columns: Mapping[str, np.ndarray], **more: Any) -> Measured:
    """The mean of 0/1 scores with Wilson's interval."""
    n = len(scores)
    if n == 0:
        return undefined("no images to judge")
    low, high = wilson(float(scores.sum()), n)
    columns = {**columns, "score": scores}
    return Measured(float(scores.mean()), low, high, "wilson", n, scores=columns, **more)


def bounded_mean(
    scores: np.ndarray, columns: Mapping[str, np.ndarray], upper: float = 1.0, **more: Any
) -> Measured:
    """The mean of scores in [0, upper] with the betting interval; NaN scores make it undefined."""
    if len(scores) == 0:
        return undefined("no images to judge")
    if bad := int((~np.isfinite(scores)).sum()):
        return undefined(f"{bad} of {len(scores)} scores are not finite")
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
    """The mean of unbounded scores with Student's t interval."""
    n = len(scores)
    if n < 2:
        return undefined(f"{n} image(s): an interval needs at least 2")
    if bad := int((~np.isfinite(scores)).sum()):
        return undefined(f"{bad} of {n} scores are not finite")
    half = scipy.stats.t.ppf(1 - ALPHA / 2, n - 1) * scores.std(ddof=1) / np.sqrt(n)
    value = float(scores.mean())
    columns = {**columns, "score": scores}
    return Measured(value, value - half, value + half, "t", n, scores=columns, **more)


def jackknife(
    estimate: Callable[[np.ndarray], float],
    n: int,
    groups: int = 20,
    clusters: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """(value, low, high) of `estimate(rows)` by the delete-a-group jackknife over rows 0..n−1.

    Rows of one of the `clusters` (N,) leave together. No image is ever drawn twice: a bootstrap would add the
    finite-N bias of FID a second time.
    Source: Kott 2001. Half-width from Student's t with groups − 1 degrees of freedom.
    """
    group = jackknife_groups(n, groups, clusters)
    value = estimate(np.arange(n))
    left_out = np.array([estimate(np.flatnonzero(group != g)) for g in range(groups)])
    error = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, groups - 1) * error)
    return value, value - half, value + half


def jackknife_groups(n: int, groups: int, clusters: np.ndarray | None = None) -> np.ndarray:
    """The group 0..groups−1 of each row 0..n−1, at random but always the same, sizes equal to within one row or cluster."""
    if clusters is not None:
        unique, number = np.unique(clusters, return_inverse=True)
        return jackknife_groups(len(unique), groups)[number]
    group = np.empty(n, int)
    group[np.random.default_rng(0).permutation(n)] = np.arange(n) % groups
    return group


def mcnemar(more: int, less: int) -> float:
    """The exact McNemar test's two-sided p: of the images that differ, `more` one way and `less` the other."""
    return 1.0 if more + less == 0 else float(scipy.stats.binomtest(more, more + less).pvalue)


def over_bases(
    by_base: Mapping[int, Sequence[float]],
) -> tuple[float, float | None, float | None, float | None]:
    """(mean, low, high, p) of a difference for a new base model and seed.

    Args:
        by_base: base model to the differences of its runs.

    Base models are the units: Student's t over their means, as many as they are minus one degrees. What seeds
    add is in the spread of the means. With a single base model its runs are the units, and nothing is
    said of another base. Where no two units differ there is no interval, and no p unless all are 0: a spread that was
    not seen is not none.
    """
    units = [float(np.mean(v)) for v in by_base.values()]
    if len(units) == 1:
        units = [float(v) for v in next(iter(by_base.values()))]
    mean_of = float(np.mean(units))
    if len(units) < 2:
        return mean_of, None, None, None
    if np.allclose(units, units[0], rtol=1e-9, atol=1e-12):
        return mean_of, None, None, None if any(units) else 1.0
    error = float(np.std(units, ddof=1)) / len(units) ** 0.5
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, len(units) - 1)) * error
    return (
        mean_of,
        mean_of - half,
        mean_of + half,
        float(2 * scipy.stats.t.sf(abs(mean_of) / error, len(units) - 1)),
    )


def components(by_base: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """(sd between base models, sd between seeds of one base) of a difference, by the method of moments.

    Raises:
        ValueError: fewer than two base models with two runs each: a spread that was not seen is not 0.
    """
    groups = [np.asarray(v, float) for v in by_base.values() if len(v) > 1]
    if len(groups) < 2:
        raise ValueError("two base models with two runs each are needed")
    within = float(np.mean([g.var(ddof=1) for g in groups]))
    seeds = within * float(np.mean([1 / len(g) for g in groups]))  # what they add to a base's mean
    between = float(np.var([g.mean() for g in groups], ddof=1)) - seeds
    return max(0.0, between) ** 0.5, within**0.5


def sampling(table: np.ndarray) -> tuple[float, float]:
    """The variance that the drawing of images adds to one run's mean: (what all runs share, what each has alone).

    Args:
        table: (R, U), a value of each run for each image, or for each prompt; the same ones in all runs.

    The two-way analysis of variance: images that are hard for every run move all means together, the rest of an
    image's value looks like a spread between seeds. A single run cannot tell them apart: all of it is shared then.
    """
    runs, units = table.shape
    by_unit = table.mean(0)
    if runs < 2:
        return float(by_unit.var(ddof=1)) / units, 0.0
    rest = table - table.mean(1, keepdims=True) - by_unit + table.mean()
    alone = float((rest**2).sum()) / ((runs - 1) * (units - 1))
    common = max(0.0, float(by_unit.var(ddof=1)) - alone / runs)
    return common / units, alone / units


def detectable(
    of_base: float, of_seed: float, bases: int, seeds: int, power: float = 0.8, comparisons: int = 1
) -> float | None:
    """The smallest true difference that `over_bases` finds (p < .05) with `power`; None with one run alone.

    Args:
        of_base: sd between base models of the difference.
        of_seed: sd between seeds of one base.
        bases: base models; with one, seeds are the units.
        seeds: forgetting seeds on each.
        power: chance to find it.
        comparisons: endpoints that share the error; the first step of Holm's method.
    """
    units = bases if bases > 1 else seeds
    if units < 2:
        return None
    spread = of_base**2 + of_seed**2 / seeds if bases > 1 else of_seed**2
    error, df = (spread / units) ** 0.5, units - 1
    limit = float(scipy.stats.t.ppf(1 - ALPHA / comparisons / 2, df))
    low, high = 0.0, 200.0  # in standard errors
    for _ in range(60):
        middle = (low + high) / 2
        found = scipy.stats.nct.sf(limit, df, middle) + scipy.stats.nct.cdf(-limit, df, middle)
        low, high = (middle, high) if found < power else (low, middle)
    return error * high


def holm(p: Sequence[float | None]) -> list[float | None]:
    """The p values adjusted by Holm's step-down method; None stays None and counts for nothing."""
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    out: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        out[i] = highest
    return out


def entropy(p: np.ndarray) -> np.ndarray:
    """−Σ p ln p over the last axis, nats; 0·ln 0 = 0; NaN stays NaN."""
    p = np.asarray(p, float)
    return -np.where(
        p > 0, p * np.log(np.where(p > 0, p, 1.0)), np.where(np.isnan(p), np.nan, 0.0)
    ).sum(-1)
