"""What the package's 95 % intervals cover, by simulation: how often an interval holds the estimand it names.

`python tests/statistics/test_coverage.py` measures all of it and writes the table in docs/metrics.md; the
tests measure again.
"""

import re
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from sa_bench.statistics import betting, clustered, intervals, jackknife, over_bases, wilson

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
MARKS = "<!-- written by tests/statistics/test_coverage.py -->", "<!-- end of coverage -->"
ASKED = (0.92, 0.98)


@dataclass(frozen=True)
class Case:
    """One interval, what it is to cover, and how often that is tried."""

    interval: str
    estimand: str
    setting: str
    draw: (
        object  # rng -> (low, high, truth), truth None: the mean of all points, which stand fourth
    )
    band: tuple[float, float] = ASKED
    rounds: int = 2000

    @property
    def name(self):
        return f"{self.interval}: {self.setting}"


def beta_rates(rng, p, icc, prompts):
    return rng.beta(p * (1 - icc) / icc, (1 - p) * (1 - icc) / icc, (prompts, 1))


def of_prompts(rng, p, icc, prompts, each):
    return (rng.random((prompts, each)) < beta_rates(rng, p, icc, prompts)).astype(float).ravel()


def rate(p, n):
    return lambda rng: (*wilson(int(rng.binomial(n, p)), n), p)


def rate_between(low, high, n):
    return lambda rng: rate(rng.uniform(low, high), n)(rng)


def bounded(a, b, n):
    return lambda rng: (*betting(rng.beta(a, b, n)), a / (a + b))


def mean_of_skewed(n):
    def draw(rng):
        found = intervals.mean(rng.exponential(1.0, n), {})
        return found.low, found.high, 1.0

    return draw


def prompted(p, icc, prompts=50, each=20):
    number = np.repeat(np.arange(prompts), each)

    def draw(rng):
        found = clustered.rate(of_prompts(rng, p, icc, prompts, each), number, {})
        return found.low, found.high, p

    return draw


def ends(found, truth):
    return found.low, found.high, truth


def paired_rates(a, b, n):
    """Of two models on the same noise: an image that b shows is shown by a with most of a's chance."""

    def draw(rng):
        u, again = rng.random(n), rng.random(n)
        x, y = u < a, np.where(again < 0.5, u, rng.random(n)) < b
        return ends(clustered.paired(x.astype(float), y.astype(float), None, True), a - b)

    return draw


def paired_means(n):
    def draw(rng):
        both = rng.normal(0, 5, n)
        return ends(clustered.paired(both + rng.exponential(0.3, n), both), 0.3)

    return draw


def paired_prompts(a, b, icc, prompts, each):
    number = np.repeat(np.arange(prompts), each)

    def draw(rng):
        x, y = (of_prompts(rng, p, icc, prompts, each) for p in (a, b))
        return ends(clustered.paired(x, y, number, True), a - b)

    return draw


def runs(bases, seeds, of_base=1.0, of_seed=1.0):
    def draw(rng):
        at = rng.normal(0.0, of_base, bases)
        _, low, high, _ = over_bases(
            {b: at[b] + rng.normal(0, of_seed, seeds) for b in range(bases)}
        )
        return low, high, 0.0

    return draw


def span(n):
    def draw(rng):
        points = rng.normal(0.0, 1.0, n)
        return points.min(), points.max(), 0.0

    return draw


def moments(mean, d):
    """E x, E xxᵀ, E xxxᵀ… of a standard normal around `mean`, as flat arrays."""
    eye = np.eye(d)
    second = eye + np.outer(mean, mean)
    third = np.einsum("i,j,k->ijk", mean, mean, mean)
    for subscripts in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk"):
        third = third + np.einsum(subscripts, mean, eye)
    return np.ones(1), mean, second.ravel(), third.ravel()


def kid(shift, n=100, m=100, d=4):
    """The truth is exact: (x·y/d + 1)³ is a polynomial, so its expectation is one of moments."""
    weights = [1.0, 3 / d, 3 / d**2, 1 / d**3]
    y = np.random.default_rng(7).normal(size=(m, d))
    mean = np.full(d, shift)
    seen = [np.ones(1), y.mean(0), np.einsum("ni,nj->ij", y, y).ravel() / m,
            np.einsum("ni,nj,nk->ijk", y, y, y).ravel() / m]  # fmt: skip
    own = moments(mean, d)
    square = sum(w * s @ s for w, s in zip(weights, seen, strict=True)) * m * m
    real = (square - ((np.sum(y * y, 1) / d + 1) ** 3).sum()) / (m * (m - 1))
    truth = sum(w * (o @ o - 2 * o @ s) for w, o, s in zip(weights, own, seen, strict=True)) + real

    def draw(rng):
        from sa_bench.scoring.distances import jackknife_kid

        _, low, high = jackknife_kid(rng.normal(size=(n, d)) + shift, y)
        return low, high, truth

    return draw


def fid(shift, n=100, m=400, d=3):
    y = np.random.default_rng(7).normal(size=(m, d))

    def draw(rng):
        from sa_bench.scoring.distances import FrechetTo

        value, low, high = jackknife(FrechetTo(rng.normal(size=(n, d)) + shift, y), n)
        return low, high, None, value

    return draw


RATE, KID, FID = "a rate, other images", "KID to these real images", "E[FID_N] to these real images"
ANOTHER = "another base and seed"
CASES = (
    Case("Wilson", RATE, "p from 0 to .02, n = 200", rate_between(0.0, 0.02, 200)),
    Case("Wilson", RATE, "p = .00088, n = 200", rate(0.00088, 200), (0.80, 0.88)),
    Case("Wilson", RATE, "p = .01, n = 200", rate(0.01, 200)),
    Case("Wilson", RATE, "p = .02, n = 500", rate(0.02, 500)),
    Case("Wilson", RATE, "p = .1, n = 200", rate(0.1, 200)),
    Case("betting", "a mean in [0, 1]", "Beta(.1, 2), n = 50", bounded(0.1, 2, 50), (0.92, 1.0), 1000),
    Case("betting", "a mean in [0, 1]", "Beta(.5, .5), n = 50", bounded(0.5, 0.5, 50), (0.92, 1.0), 1000),
    Case("Student's t", "a mean, other images", "exponential, n = 180", mean_of_skewed(180)),
    Case("Wilson over prompts", "a rate, other prompts", "p = .01, ICC .1, 50 x 20", prompted(0.01, 0.1), (0.92, 0.99)),
    Case("Wilson over prompts", "a rate, other prompts", "p = .01, ICC .3, 50 x 20", prompted(0.01, 0.3)),
    Case("Wilson over prompts", "a rate, other prompts", "p = .1, ICC .1, 50 x 20", prompted(0.1, 0.1)),
    Case("Wilson over prompts", "a rate, other prompts", "p = .1, ICC .3, 50 x 20", prompted(0.1, 0.3)),
    Case("KID, jackknife", KID, "mean .5 off, N = M = 100, d = 4", kid(0.5), rounds=1000),
    Case("KID, jackknife", KID, "one distribution, N = M = 100, d = 4", kid(0.0), rounds=1000),
    Case("FID, jackknife", FID, "mean .5 off, N = 100, M = 400, d = 3", fid(0.5), rounds=1000),
    Case("FID, jackknife", FID, "one distribution, N = 100, M = 400, d = 3", fid(0.0), rounds=1000),
    Case("paired rates", "difference, other images", "p = .05 and .02, n = 200", paired_rates(0.05, 0.02, 200)),
    Case("paired rates", "difference, other images", "p = .01 and .01, n = 200", paired_rates(0.01, 0.01, 200),
         (0.92, 1.0)),
    Case("paired means", "difference, other images", "exponential differences, n = 180", paired_means(180)),
    Case("paired rates over prompts", "difference, other prompts", "p = .1 and .1, ICC .1, 50 x 20",
         paired_prompts(0.1, 0.1, 0.1, 50, 20)),
    Case("paired rates over prompts", "difference, other prompts", "p = .1 and .02, ICC .3, 24 x 6",
         paired_prompts(0.1, 0.02, 0.3, 24, 6)),
    Case("t over base models", ANOTHER, "3 bases x 8 seeds", runs(3, 8)),
    Case("t over base models", ANOTHER, "3 bases x 2 seeds", runs(3, 2)),
    Case("t over seeds", "another seed, this base", "1 base x 8 seeds", runs(1, 8, of_base=0.0)),
    Case("t over seeds", ANOTHER, "1 base x 8 seeds", runs(1, 8), (0.2, 0.6)),
    Case("lowest to highest", ANOTHER, "3 bases x 1 seed: 3 points", span(3), (0.72, 0.78)),
    Case("lowest to highest", ANOTHER, "5 bases x 1 seed: 5 points", span(5)),
)  # fmt: skip


SLOW = ("betting", "KID, jackknife", "FID, jackknife")
"""Half a minute each; their formulas are tested by themselves in test_statistics and test_metrics."""


def covered(case):
    """The share of `case.rounds` intervals that hold the estimand; the same every time."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    found = [case.draw(rng) for _ in range(case.rounds)]
    truth = np.array([f[2] if f[2] is not None else np.nan for f in found])
    if np.isnan(truth).all():
        truth = np.full(len(found), np.mean([f[3] for f in found]))
    low, high = (np.array([f[i] for f in found]) for i in (0, 1))
    return float(((low <= truth) & (truth <= high)).mean())


def row(case, share):
    return f"| {case.interval} | {case.estimand} | {case.setting} | {100 * share:.1f} % |"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=pytest.mark.slow if c.interval in SLOW else (), id=c.name)
        for c in CASES
    ],
)
def test_the_interval_covers_what_it_names_and_the_page_says_so(case):
    share = covered(case)
    low, high = case.band
    assert low <= share <= high
    written = re.search(
        re.escape(row(case, 0).rsplit("|", 2)[0]) + r"\| ([\d.]+) %", PAGE.read_text()
    )
    assert written is not None, "write the table: python tests/statistics/test_coverage.py"
    assert abs(float(written[1]) - 100 * share) <= 0.5  # rounding differs between machines


def test_a_hundred_betting_intervals_hold_the_mean():
    """At least so many as a coverage of 95 % gives in all but one of a thousand such hundreds."""
    (case,) = (c for c in CASES if c.setting == "Beta(.5, .5), n = 50")
    assert covered(replace(case, rounds=100)) >= 0.88


def test_no_case_is_tried_less_than_a_thousand_times():
    assert min(case.rounds for case in CASES) >= 1000
    assert len({case.name + case.estimand for case in CASES}) == len(CASES)


def write():
    rows = ["| interval | estimand | simulated | covers |", "|---|---|---|---|"]
    for case in CASES:
        rows.append(row(case, covered(case)))
        print(rows[-1], flush=True)
    head, _, rest = PAGE.read_text().partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{head}{MARKS[0]}\n{chr(10).join(rows)}\n{MARKS[1]}{tail}")


if __name__ == "__main__":
    sys.exit(write())
