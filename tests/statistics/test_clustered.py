"""Intervals over prompts: they cover where an interval over images does not, and never collapse."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sa_bench.statistics import clustered, mean, rate, wilson

PROMPTS, EACH = 50, 20
NUMBER = np.repeat(np.arange(PROMPTS), EACH)


def beta_binomial(p, icc, rng, prompts=PROMPTS, each=EACH):
    """0/1 scores of `prompts` x `each` images whose correlation within a prompt is `icc`."""
    a = (1 - icc) / icc
    rates = rng.beta(p * a, (1 - p) * a, (prompts, 1))
    return (rng.random((prompts, each)) < rates).astype(float).ravel()


def coverage(p, icc, interval, rounds=600):
    rng, hits = np.random.default_rng(1), 0
    for _ in range(rounds):
        low, high = interval(beta_binomial(p, icc, rng))
        hits += low <= p <= high
    return hits / rounds


def over_prompts(scores):
    found = clustered.rate(scores, NUMBER, {})
    return found.low, found.high


def over_images(scores):
    return wilson(float(scores.sum()), len(scores))


@pytest.mark.parametrize(("icc", "images"), [(0.1, 0.80), (0.3, 0.60)])
def test_fifty_prompts_of_twenty_are_not_a_thousand_images(icc, images):
    """95 % of 600 rounds is known to ± 1.8 %; Wilson over images covers .76 and .54."""
    assert coverage(0.3, icc, over_prompts) == pytest.approx(0.95, abs=0.025)
    assert coverage(0.3, icc, over_images) < images


@pytest.mark.parametrize(("p", "icc"), [(0.01, 0.1), (0.01, 0.3), (0.03, 0.3), (0.97, 0.1)])
def test_rare_events_are_covered_too(p, icc):
    assert coverage(p, icc, over_prompts, 2000) >= 0.93  # without `ASSUMED_ICC` .80 at the second


def test_independent_images_cost_little():
    scores = beta_binomial(0.3, 1e-6, np.random.default_rng(0))
    (low, high), (inner, outer) = over_prompts(scores), over_images(scores)
    assert outer - inner <= high - low <= 1.2 * (outer - inner)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_interval_collapses(value):
    """Nothing seen in 50 prompts of 20: less certain than 1,000 images, more than 50."""
    low, high = over_prompts(np.full(1000, value))
    inner, outer = over_images(np.full(1000, value))
    fifty = wilson(50 * value, 50)
    assert (low, high)[int(value)] == value
    assert outer - inner < high - low < fifty[1] - fifty[0]


def test_one_hit_more_hardly_moves_it():
    """From none to one the design effect is no longer assumed alone; the bound must not jump down."""
    none, one = np.zeros(1000), np.zeros(1000)
    one[7] = 1
    assert over_prompts(one)[1] == pytest.approx(over_prompts(none)[1], rel=0.05)


def test_equal_prompts_are_students_t_over_their_means():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(10, 1)).repeat(7, 1).ravel() + 0.1 * rng.normal(size=70)
    number = np.repeat(np.arange(10), 7)
    found = clustered.mean(scores, number, {"seed": np.arange(70)})
    means = mean(scores.reshape(10, 7).mean(1), {})
    assert (found.low, found.high) == pytest.approx((means.low, means.high))
    assert found.n == 70
    assert found.interval == "t, clustered by 10 prompts"
    assert set(found.scores) == {"seed", "score"}


def test_unequal_prompts_count_by_their_images():
    scores, number = (
        np.array([1.0] * 30 + [0.0] * 10 + [0.5] * 2),
        np.repeat([4, 9, 2], [30, 10, 2]),
    )
    found = clustered.mean(scores, number, {})
    assert found.value == pytest.approx(scores.mean())
    off = np.array([(scores[number == c] - scores.mean()).sum() for c in (4, 9, 2)])
    error = (3 / 2 * (off**2).sum()) ** 0.5 / 42
    assert found.high - found.value == pytest.approx(4.302653 * error, rel=1e-5)


@pytest.mark.parametrize(
    "number", [None, np.zeros(40, int), np.arange(40)], ids=["none", "one", "one each"]
)
def test_without_several_images_of_several_prompts_images_are_the_units(number):
    scores = np.array([0.0, 1.0] * 20)
    assert clustered.rate(scores, number, {}) == _same(rate(scores, {}), scores)
    assert clustered.mean(scores, number, {}).interval == "t"
    assert clustered.bounded_mean(scores, number, {}).interval == "betting"


def _same(found, scores):
    """The measurement, to be compared without its arrays."""

    class Same:
        def __eq__(self, other):
            keys = ("value", "low", "high", "interval", "n")
            return (
                all(getattr(found, k) == getattr(other, k) for k in keys)
                and other.scores["score"] is scores
            )

    return Same()


def test_probabilities_get_an_interval_within_their_range():
    rng = np.random.default_rng(0)
    scores = rng.beta(0.3, 3, PROMPTS).repeat(EACH) * rng.random(1000)
    found = clustered.bounded_mean(scores, NUMBER, {})
    assert 0 < found.low < found.value < found.high < 1
    assert clustered.bounded_mean(np.full(1000, 1e-12), NUMBER, {}).high > 1e-3
    wide = clustered.bounded_mean(4 * scores, NUMBER, {}, upper=4.0)
    assert (wide.low, wide.high) == pytest.approx((4 * found.low, 4 * found.high))


def test_nothing_and_nan_have_no_value():
    assert clustered.rate(np.zeros(0), np.zeros(0, int), {}).value is None
    broken = np.array([0.1, np.nan, 0.2, 0.3])
    assert "1 of 4" in str(clustered.bounded_mean(broken, np.array([0, 0, 1, 1]), {}).reason)
    assert "1 of 4" in str(clustered.mean(broken, np.array([0, 0, 1, 1]), {}).reason)


def test_the_pages_figures_are_the_simulations():
    text = " ".join((Path(__file__).parents[2] / "docs" / "metrics.md").read_text().split())
    one, three = (coverage(0.3, icc, over_images) for icc in (0.1, 0.3))
    assert f"over images covers {one:.0%} and {three:.0%}".replace("%", " %") in text
    assert f"none of 1,000 leaves up to {100 * over_prompts(np.zeros(1000))[1]:.1f} %" in text


def test_paired_rates_never_collapse_and_follow_bonett_and_price():
    a, b = np.zeros(200), np.zeros(200)
    found = clustered.paired(a, b, None, True)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.high == -found.low == pytest.approx(1.972 * 2**0.5 / 202, rel=1e-3)
    a[:12], b[10:15] = 1, 1  # 10 and 3 images differ
    found = clustered.paired(a, b, None, True)
    one, other = 11 / 202, 4 / 202
    half = stats.t.ppf(0.975, 199) * ((one + other - (one - other) ** 2) / 202) ** 0.5
    assert (found.low, found.high) == pytest.approx((one - other - half, one - other + half))
    assert found.p == pytest.approx(stats.binomtest(10, 13).pvalue)
    every = clustered.paired(np.ones(50), np.zeros(50), None, True)
    assert (every.difference, every.high) == (1.0, 1.0)
    assert every.low < 1


def test_paired_prompts_of_equal_size_are_a_t_test_over_their_means():
    rng = np.random.default_rng(0)
    number, a, b = np.repeat(np.arange(12), 5), rng.normal(size=60), rng.normal(size=60)
    found = clustered.paired(a, b, number)
    expected = stats.ttest_1samp((a - b).reshape(12, 5).mean(1), 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert clustered.paired(a, b, np.arange(60)).unit == "image"


def test_a_widened_interval_over_prompts_is_wider_and_without_prompts_the_plain_one():
    scores, prompts = np.repeat([1.0, 1.0, 0.0, 1.0], 6), np.repeat(np.arange(4), 6)
    low, high, how = clustered.wilson(scores, None, 4)
    assert (low, high) == wilson(18, 24, comparisons=4)
    assert how == "wilson, Bonferroni(4)"
    alone = clustered.wilson(scores, np.arange(24), 4)  # one image a prompt: images are the units
    assert alone == (low, high, how)
    wide_low, wide_high, how = clustered.wilson(scores, prompts, 4)
    assert wide_low < low < high < wide_high
    assert how == "wilson, clustered by 4 prompts, Bonferroni(4)"
