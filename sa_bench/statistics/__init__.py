"""Compute intervals and tests."""

from sa_bench.statistics.intervals import (
    ALPHA,
    betting,
    bounded_mean,
    components,
    detectable,
    entropy,
    holm,
    jackknife,
    jackknife_groups,
    mcnemar,
    mean,
    over_bases,
    rate,
    sampling,
    score_interval,
    wilson,
)

__all__ = [
    "ALPHA",
    "betting",
    "bounded_mean",
    "components",
    "detectable",
    "entropy",
    "holm",
    "jackknife",
    "jackknife_groups",
    "mcnemar",
    "mean",
    "over_bases",
    "rate",
    "sampling",
    "score_interval",
    "wilson",
]
