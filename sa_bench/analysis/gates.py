"""The bound that a gate decides on: for another base model and seed, one rule for any number of runs.

    y = asin √p̂ of a run (rates; other values as they are), ȳ_b its mean over the seeds of a base,
        B bases, R seeds each
    s₀² = τ_b² + τ_s²/R + v/R                       expected variance of ȳ_b: bases, seeds, images
    s²  = (d₀ s₀² + (B − 1) s_B²) / (d₀ + B − 1)    moderated by what the row itself shows
    bound = ȳ ± t_{.95, d₀ + B − 1} s / √B          one-sided, 95 %

The quantity estimated is always the mean over base models and forgetting seeds, for the task's
classes and prompts. One run is judged by the spread that other methods had (Smyth 2004, moderated
t); each further base or seed narrows the bound, and no verdict becomes easier or harder for having
them. Bounds from one run's own interval alone would not hold for another base, and the worst or the
best of all runs moves with their number.

Of values that are no rates, such as nats, no spread is known beforehand: d₀ = 0, and the bound is
Student's t over the base models or, where there is one, over its seeds. One run of them bounds nothing
beyond itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sa_bench.results.format import is_rate
from sa_bench.statistics import ALPHA, student, wilson

MORE = 0.1  # share of the images that may come back beyond retrain's and still count as no more
INTERVAL = 2 * 1.959963984540054  # standard errors between the ends of a run's 95 % interval


@dataclass(frozen=True)
class Spread:
    """Prior on the spread of runs: standard deviations of asin √rate, and its degrees of freedom."""

    base: float  # τ_b, between base models
    seed: float  # τ_s, between forgetting seeds of one base
    df: float  # d₀, degrees of freedom


# Fitted by maximum likelihood to the forgetting endpoint of the published micro boards' rows;
# tests/gates.py repeats the fit. Other families have no such rows yet and use the same values.
SPREAD = Spread(base=0.047, seed=0.042, df=3.0)


@dataclass(frozen=True)
class Reading:
    """One run's value of an endpoint, with the run's own 95 % interval if it has one."""

    base: int  # seed of the base model
    seed: int  # forgetting seed; several readings of one seed are further draws of its images
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """Mean over bases and seeds (for rates: of asin √rate), its standard error and degrees of freedom."""

    mean: float
    error: float
    df: float
    rate: bool

    def bounds(self, looks: int = 1) -> tuple[float, float]:
        """Compute (lower, upper), each a one-sided 95 % bound, in the value's own units.

        With several `looks` each holds for all of them together (Bonferroni).
        """
        half = student.compute_quantile(1 - ALPHA / looks, self.df) * self.error
        return self._untransform(self.mean - half), self._untransform(self.mean + half)

    def _untransform(self, y: float) -> float:
        """Turn a mean on the scale of asin √rate back into a rate."""
        return float(np.sin(np.clip(y, 0, np.pi / 2)) ** 2) if self.rate else y


def estimate(runs: Sequence[Reading], unit: str | None) -> Estimate:
    """Estimate the mean for another base model and seed from at least one run; `unit` identifies rates."""
    rate = is_rate(unit) and all(0 <= run.value <= 1 for run in runs)
    draws: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for run in runs:
        draws.setdefault((run.base, run.seed), []).append(_transform(run, rate))
    by_base: dict[int, list[float]] = {}
    variances = []
    for (base, _), readings in draws.items():
        by_base.setdefault(base, []).append(float(np.mean([y for y, _ in readings])))
        # further draws are of other images that show c_f; what is retained has the same real ones
        variances.append(float(np.mean([v for _, v in readings])) / (len(readings) if rate else 1))
    images = float(np.mean(variances))
    return _moderate(by_base, images) if rate else _take_as_it_is(by_base, images)


def _mean_seeds(by_base: Mapping[int, Sequence[float]]) -> float:
    """Compute the harmonic mean of the number of seeds on a base model."""
    return 1 / float(np.mean([1 / len(values) for values in by_base.values()]))


def _moderate(by_base: Mapping[int, Sequence[float]], images: float) -> Estimate:
    """Estimate the mean of asin √rate, its variance moderated by `SPREAD`.

    Args:
        by_base: the values of the seeds, by base model.
        images: variance that the images add to each.
    """
    means = [float(np.mean(values)) for values in by_base.values()]
    bases, seeds = len(means), _mean_seeds(by_base)
    expected = SPREAD.base**2 + (SPREAD.seed**2 + images) / seeds
    observed = float(np.var(means, ddof=1)) if bases > 1 else 0.0
    df = SPREAD.df + bases - 1
    variance = (SPREAD.df * expected + (bases - 1) * observed) / df
    return Estimate(float(np.mean(means)), float(np.sqrt(variance / bases)), df, True)


def _take_as_it_is(by_base: Mapping[int, Sequence[float]], images: float) -> Estimate:
    """Estimate a mean with the variance that its units show, which is at least that of their images.

    The units are the base models or, where there is one, its seeds. Of a single unit the error is infinite. The arguments
    are those of `_moderate`.
    """
    if len(by_base) > 1:
        units, images = [*map(np.mean, by_base.values())], images / _mean_seeds(by_base)
    else:
        (units,) = by_base.values()
    if len(units) == 1:
        return Estimate(float(units[0]), math.inf, 1.0, False)
    variance = max(float(np.var(units, ddof=1)), images)
    return Estimate(float(np.mean(units)), (variance / len(units)) ** 0.5, len(units) - 1.0, False)


def count_images_needed(one_run: Estimate, value: float, n: int, gate: float) -> int | None:
    """Count the images that a single run would need for its upper bound to be at most `gate`.

    Its rate is taken to stay as it is, and its images to be as independent as they are.

    Args:
        one_run: the estimate from one run.
        value: the run's rate.
        n: images of that run.
        gate: the rate that the upper bound may reach.

    Returns:
        The smallest number; None if no number of images of one run would do.
    """
    between = SPREAD.base**2 + SPREAD.seed**2
    of_images = one_run.error**2 - between
    if not one_run.rate or of_images <= 0:
        return None
    dependence = of_images / _transform(_read(value, n), True)[1]

    def passes(images: int) -> bool:
        mean, variance = _transform(_read(value, images), True)
        error = (between + dependence * variance) ** 0.5
        return Estimate(mean, error, one_run.df, True).bounds()[1] <= gate

    most = next((n << doubled for doubled in range(20) if passes(n << doubled)), None)
    if most is None:
        return None
    return bisect_left(range(most), True, lo=1, key=passes)


def _read(rate: float, n: int) -> Reading:
    """Make the reading of one run with `n` independent images."""
    return Reading(0, 0, rate, *wilson(rate * n, n))


def _transform(run: Reading, rate: bool) -> tuple[float, float]:
    """Compute (y, its variance) of one run: rates on the variance-stabilising scale (Anscombe's 3/8)."""
    low, high = (run.value if x is None else x for x in (run.low, run.high))
    if not rate:
        return run.value, ((high - low) / INTERVAL) ** 2
    ends = np.arcsin(np.sqrt(np.clip([low, high], 0, 1)))
    variance = float((ends[1] - ends[0]) / INTERVAL) ** 2
    if variance == 0:
        return float(np.arcsin(np.sqrt(run.value))), 0.0
    n = 1 / (4 * variance)  # images, as independent as the interval says
    return float(np.arcsin(np.sqrt((run.value * n + 3 / 8) / (n + 3 / 4)))), variance


def difference_bounds(a: Estimate, b: Estimate, looks: int = 1) -> tuple[float, float]:
    """Compute one-sided 95 % bounds (lower, upper) of a − b in the value's own units, by Welch.

    With several `looks` each bound holds for all of them together (Bonferroni).

    For rates the bounds are transformed back at b's mean: they say by how much b's rate would change.
    """
    variance = a.error**2 + b.error**2
    if variance in (0, math.inf):
        half = variance
    else:
        df = variance**2 / (a.error**4 / a.df + b.error**4 / b.df)
        half = student.compute_quantile(1 - ALPHA / looks, df) * variance**0.5
    shift = a.mean - b.mean
    if not a.rate:
        return shift - half, shift + half
    rate_of_b = float(np.sin(b.mean) ** 2)
    low, high = (a._untransform(y) for y in (b.mean + shift - half, b.mean + shift + half))
    return low - rate_of_b, high - rate_of_b
