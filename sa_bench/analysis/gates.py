"""On what a gate decides: a bound for another base model and seed, the same rule however many runs a row has.

    y = asin √p̂ of a run (rates; other values as they are), ȳ_b its mean over the seeds of a base, B bases, R seeds each
    s₀² = τ_b² + τ_s²/R + v/R                          the variance of ȳ_b that is expected: bases, seeds, images
    s²  = (d₀ s₀² + (B − 1) s_B²) / (d₀ + B − 1)       moderated by what the row itself shows
    bound = ȳ ± t_{.95, d₀ + B − 1} s / √B             one-sided, 95 %

Estimated is always the same: the mean over base models and forgetting seeds, for the task's classes and prompts. One
run says it with the spread that other methods had (Smyth 2004, moderated t); each further base or seed narrows the
bound, and no verdict becomes easier or harder for having them. Bounds from one run's own interval alone would not
hold for another base, and the worst or the best of all runs moves with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sa_bench.statistics import ALPHA

RATES = ("rate", "probability")
INTERVAL = 2 * 1.959963984540054  # standard errors between the ends of a run's 95 % interval


@dataclass(frozen=True)
class Spread:
    """What is expected of runs before a row is seen: standard deviations of asin √rate, and how sure that is."""

    base: float  # τ_b, between base models
    seed: float  # τ_s, between forgetting seeds of one base
    df: float  # d₀, degrees of freedom


# Fitted to the forgetting endpoint of the published micro boards' rows by maximum likelihood: tests/gates.py does it
# again. Other families have no such rows yet and take the same.
SPREAD = Spread(base=0.047, seed=0.042, df=3.0)
# A value without a scale of its own, such as nats: only its images' part is known beforehand.
UNSCALED = Spread(base=0.0, seed=0.0, df=SPREAD.df)


@dataclass(frozen=True)
class Reading:
    """One run's value of an endpoint, with its own 95 % interval where it has one."""

    base: int  # seed of the base model
    seed: int  # of forgetting; several readings of one seed are further draws of its images
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """The mean over bases and seeds on the scale it was taken on, its standard error and degrees of freedom."""

    mean: float
    error: float
    df: float
    rate: bool

    def bounds(self) -> tuple[float, float]:
        """(lower, upper), each one-sided 95 %."""
        half = float(scipy.stats.t.ppf(1 - ALPHA, self.df)) * self.error
        return self._back(self.mean - half), self._back(self.mean + half)

    def _back(self, y: float) -> float:
        return float(np.sin(np.clip(y, 0, np.pi / 2)) ** 2) if self.rate else y


def estimate(runs: Sequence[Reading], unit: str | None) -> Estimate:
    """What the runs (at least one) say of another base model and seed; `unit` tells rates from other values."""
    rate = unit in RATES and all(0 <= run.value <= 1 for run in runs)
    spread = SPREAD if rate else UNSCALED
    draws: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for run in runs:
        draws.setdefault((run.base, run.seed), []).append(_on_scale(run, rate))
    by_base: dict[int, list[float]] = {}
    variances = []
    for (base, _), found in draws.items():
        by_base.setdefault(base, []).append(float(np.mean([y for y, _ in found])))
        variances.append(float(np.mean([v for _, v in found])) / len(found))
    means = [float(np.mean(values)) for values in by_base.values()]
    bases, seeds = len(means), 1 / float(np.mean([1 / len(values) for values in by_base.values()]))
    expected = spread.base**2 + (spread.seed**2 + float(np.mean(variances))) / seeds
    seen = float(np.var(means, ddof=1)) if bases > 1 else 0.0
    df = spread.df + bases - 1
    variance = (spread.df * expected + (bases - 1) * seen) / df
    return Estimate(float(np.mean(means)), float(np.sqrt(variance / bases)), df, rate)


def _on_scale(run: Reading, rate: bool) -> tuple[float, float]:
    """(y, variance) of one run; of a rate at the variance-stabilising scale, with Anscombe's 3/8."""
    low, high = (run.value if x is None else x for x in (run.low, run.high))
    if not rate:
        return run.value, ((high - low) / INTERVAL) ** 2
    ends = np.arcsin(np.sqrt(np.clip([low, high], 0, 1)))
    variance = float((ends[1] - ends[0]) / INTERVAL) ** 2
    if variance == 0:
        return float(np.arcsin(np.sqrt(run.value))), 0.0
    n = 1 / (4 * variance)  # images, as independent as the interval says
    return float(np.arcsin(np.sqrt((run.value * n + 3 / 8) / (n + 3 / 4)))), variance


def difference_bounds(a: Estimate, b: Estimate) -> tuple[float, float]:
    """(lower, upper) one-sided 95 % bounds of a − b in the value's own units, with Welch's degrees of freedom.

    Of rates the bounds are put back at b's mean: what b's rate would have to change by.
    """
    variance = a.error**2 + b.error**2
    if variance == 0:
        half = 0.0
    else:
        df = variance**2 / (a.error**4 / a.df + b.error**4 / b.df)
        half = float(scipy.stats.t.ppf(1 - ALPHA, df)) * variance**0.5
    shift = a.mean - b.mean
    if not a.rate:
        return shift - half, shift + half
    at = float(np.sin(b.mean) ** 2)
    return a._back(b.mean + shift - half) - at, a._back(b.mean + shift + half) - at
