import math

import numpy as np
import pytest

from sa_bench.statistics import (
    betting,
    bounded_mean,
    components,
    detectable,
    entropy,
    jackknife,
    mcnemar,
    mean,
    over_bases,
    rate,
    sampling,
    wilson,
)


def test_wilson_known_values():
    low, high = wilson(0, 500)
    assert low == 0.0
    assert high == pytest.approx(0.00762, abs=1e-5)
    low, high = wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0


def test_betting_never_collapses_and_narrows():
    low, high = betting(np.zeros(500))
    assert low == 0.0
    assert 0.002 < high < 0.03
    low, high = betting(np.full(500, 0.5))
    assert low < 0.5 < high
    assert high - low < 0.1
    wide, narrow = betting(np.tile([0.0, 1.0], 100)), betting(np.tile([0.45, 0.55], 100))
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


@pytest.mark.parametrize(("a", "b"), [(0.05, 1.0), (0.5, 0.5), (5.0, 1.0)])
def test_betting_covers(a, b):
    rng = np.random.default_rng(1)
    truth, hits = a / (a + b), 0
    for _ in range(200):
        low, high = betting(rng.beta(a, b, 100))
        hits += low <= truth <= high
    assert hits >= 186  # 95 % of 200 is 190; 186 is 2 standard errors below


def test_nothing_to_average_is_undefined_not_zero():
    assert rate(np.array([]), {}).value is None
    assert bounded_mean(np.array([]), {}).value is None
    assert mean(np.array([1.0]), {}).value is None
    broken = bounded_mean(np.array([0.1, np.nan]), {})
    assert broken.value is None
    assert "1 of 2" in str(broken.reason)


def test_entropy_values():
    assert entropy(np.eye(10)[0]) == 0.0
    assert entropy(np.full(10, 0.1)) == pytest.approx(math.log(10))
    assert np.isnan(entropy(np.array([np.nan, 0.5])))
    huge = np.array([1000.0] + [0.0] * 9)
    p = np.exp(huge - huge.max()) / np.exp(huge - huge.max()).sum()
    assert entropy(p) == 0.0


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=400)
    value, low, high = jackknife(lambda rows: float(x[rows].mean()), 400)
    assert value == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(2.093 * x.std(ddof=1) / 20, rel=0.35)


def test_the_smallest_detectable_difference_is_found_as_often_as_said():
    rng = np.random.default_rng(0)
    for bases, seeds in ((3, 8), (1, 8), (5, 2)):
        truth = detectable(0.3, 1.0, bases, seeds)
        found = 0
        for _ in range(1500):
            shift = rng.normal(0, 0.3, bases) if bases > 1 else np.zeros(1)
            runs = {b: truth + shift[b] + rng.normal(0, 1.0, seeds) for b in range(bases)}
            found += over_bases(runs)[3] < 0.05
        assert abs(found / 1500 - 0.8) < 0.035, (bases, seeds)
    assert detectable(0.3, 1.0, 1, 1) is None
    assert detectable(0.3, 1.0, 3, 8) < detectable(0.3, 1.0, 3, 2)


def test_the_smallest_detectable_difference_has_its_power_by_the_noncentral_t():
    from scipy import stats

    for bases, seeds, comparisons in ((2, 1, 1), (2, 3, 3), (3, 8, 1), (4, 1, 3), (9, 2, 2)):
        truth, df = detectable(0.3, 1.0, bases, seeds, comparisons=comparisons), bases - 1
        shift = truth / ((0.3**2 + 1 / seeds) / bases) ** 0.5
        limit = stats.t.ppf(1 - 0.05 / comparisons / 2, df)
        assert stats.nct.sf(limit, df, shift) == pytest.approx(0.8, abs=1e-6)


def test_two_bases_detect_what_two_can():
    """The other tail is NaN at such noncentralities, and the difference was told a third too small."""
    assert detectable(1.0, 0.0, 2, 1) * 2**0.5 == pytest.approx(16.334, rel=1e-4)


def test_components_are_what_the_differences_were_drawn_from():
    rng = np.random.default_rng(0)
    found = [
        components({b: rng.normal(0, 2) + rng.normal(0, 0.5, 8) for b in range(40)})
        for _ in range(50)
    ]
    base, seed = np.mean(found, axis=0)
    assert abs(base - 2) < 0.1
    assert abs(seed - 0.5) < 0.02
    assert components({0: [1.0, 1.0], 1: [1.0, 1.0]}) == (0.0, 0.0)
    for unseen in ({0: [1.0, 2.0, 3.0]}, {0: [1.0], 1: [2.0]}):
        with pytest.raises(ValueError, match="two base models"):
            components(unseen)


def test_the_parts_of_sampling_are_told_apart():
    """Images that are hard for all runs, and what each run makes of an image: both known, both found."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        table = rng.normal(0, 2, 50) + rng.normal(0, 3, (8, 1)) + rng.normal(0, 1, (8, 50))
        found.append(sampling(table))
    shared, alone = np.mean(found, axis=0)
    assert shared == pytest.approx(4 / 50, rel=0.05)
    assert alone == pytest.approx(1 / 50, rel=0.05)
    one = rng.normal(0, 2, (1, 50))
    assert sampling(one) == (pytest.approx(one.var(ddof=1) / 50), 0.0)


def test_unequal_bases_are_weighed_by_their_own_runs():
    rng = np.random.default_rng(0)
    found = [
        components({b: rng.normal(0, 1) + rng.normal(0, 3, 2 + 10 * (b % 2)) for b in range(40)})[0]
        ** 2
        for _ in range(100)
    ]
    assert np.mean(found) == pytest.approx(
        1.0, abs=0.35
    )  # by the mean number of runs it would be 2.3


@pytest.mark.parametrize(
    ("more", "less"), [(0, 0), (0, 1), (5, 0), (3, 9), (7, 7), (40, 12), (0, 200)]
)
def test_mcnemars_p_is_the_exact_binomial_tests(more, less):
    from scipy import stats

    expected = stats.binomtest(more, more + less).pvalue if more + less else 1.0
    assert mcnemar(more, less) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(less, more) == mcnemar(more, less)
