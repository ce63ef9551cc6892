"""The bound that gates decide on: fitted to the published boards, and the same test for every number of runs."""

import re

import gates as measured
import numpy as np
import pytest
import scipy

from sa_bench.analysis import gates
from sa_bench.analysis.gates import Reading, difference_bounds, estimate
from sa_bench.statistics import wilson


def test_the_spread_is_what_the_published_boards_show():
    spread, lines = measured.fit()
    assert lines == 46
    assert (spread.base, spread.seed) == pytest.approx(
        (gates.SPREAD.base, gates.SPREAD.seed), abs=0.0006
    )
    assert spread.df == pytest.approx(gates.SPREAD.df, abs=0.1)


@pytest.mark.parametrize(("bases", "seeds"), measured.RUNS)
def test_a_method_at_the_gate_passes_as_rarely_with_one_run_as_with_many(bases, seeds):
    """5 % are promised; of 1,000 simulated rows at most 6.5 %. The rule of before let 26 % of single runs pass."""
    now, _ = measured.passes(0.10, bases, seeds, 500, trials=1000)
    assert 0.02 <= now <= 0.065


def test_a_method_well_below_the_gate_passes_more_often_the_more_runs_it_has():
    now, before = zip(
        *(measured.passes(0.04, b, s, 500, trials=300) for b, s in measured.RUNS), strict=True
    )
    assert list(now) == sorted(now)
    assert list(before) == sorted(before, reverse=True)  # what was wrong


@pytest.mark.parametrize(("images", "looks", "bases"), measured.ATTACKS)
def test_what_an_attack_is_shown_to_bring_back_is_wrong_as_rarely_as_promised(images, looks, bases):
    """5 % are promised; of 500 simulated rows at most 7.5 %. A method that is as retrain is rarely shown to be."""
    assert measured.comes_back(0.0, images, looks, bases, trials=500)[0] <= 0.075
    assert measured.comes_back(gates.MORE, images, looks, bases, trials=500)[1] <= 0.075
    assert measured.comes_back(0.5, images, looks, bases, trials=500)[0] > 0.9


def test_the_bound_by_hand():
    """Three bases, two seeds: moderated variance of the base means, t with 3 + 2 degrees of freedom."""
    rates = {0: (0.01, 0.02), 1: (0.03, 0.03), 2: (0.0, 0.01)}
    runs = [
        Reading(b, s, p, *wilson(p * 500, 500)) for b, ps in rates.items() for s, p in enumerate(ps)
    ]
    means = [
        np.mean([np.arcsin(np.sqrt((500 * p + 0.375) / 500.75)) for p in ps])
        for ps in rates.values()
    ]
    expected = 0.047**2 + 0.042**2 / 2 + 1 / (4 * 500) / 2
    variance = (3 * expected + 2 * np.var(means, ddof=1)) / 5
    y = np.mean(means) + scipy.stats.t.ppf(0.95, 5) * (variance / 3) ** 0.5
    # at 2 % Wilson's interval is not quite 1/(2 sqrt n) wide on this scale
    assert estimate(runs, "rate").bounds()[1] == pytest.approx(np.sin(y) ** 2, rel=0.01)


def test_further_draws_of_one_models_images_are_no_further_seeds():
    """They take away what drawing images adds, and nothing of what another seed or base would add."""

    def error(draws, seeds):
        return estimate(
            [Reading(0, s, 0.05, *wilson(25, 500)) for s in range(seeds) for _ in range(draws)],
            "rate",
        ).error

    images = 1 / (4 * 500)
    assert error(1, 1) ** 2 - error(4, 1) ** 2 == pytest.approx(images * 3 / 4, rel=0.05)
    assert error(1, 1) ** 2 - error(1, 4) ** 2 == pytest.approx(
        (0.042**2 + images) * 3 / 4, rel=0.05
    )


def test_values_that_are_no_rates_are_bounded_by_students_t_over_bases_or_seeds():
    """They borrowed three degrees of freedom without a spread: 67 % of bounds that promise 90 % held."""
    values = (-90.0, -95.0, -100.0, -105.0, -110.0)
    expected = scipy.stats.t.interval(0.9, 4, np.mean(values), scipy.stats.sem(values))
    for runs in (
        [Reading(b, 0, v, v - 0.05, v + 0.05) for b, v in enumerate(values)],
        [Reading(0, s, v, v - 0.05, v + 0.05) for s, v in enumerate(values)],
    ):
        assert estimate(runs, "nats").bounds() == pytest.approx(expected)
    # seeds of a base are no further bases
    twice = [Reading(b, s, v, v, v) for b, v in enumerate(values) for s in (0, 1)]
    assert estimate(twice, "nats").bounds() == pytest.approx(expected)


def test_one_run_of_a_value_that_is_no_rate_bounds_nothing_beyond_itself():
    one = estimate([Reading(0, 0, -94.0, -95.0, -93.0)], "nats")
    assert (one.mean, one.bounds()) == (-94.0, (-np.inf, np.inf))
    many = estimate([Reading(b, 0, -90.0 - b, -91.0, -89.0) for b in range(3)], "nats")
    assert difference_bounds(one, many) == (-np.inf, np.inf)


def test_equal_values_are_as_uncertain_as_their_images():
    same = estimate([Reading(b, 0, -94.0, -95.0, -93.0) for b in range(3)], "nats")
    assert same.error == pytest.approx(2 / 3.92 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize(("bases", "seeds"), [(3, 1), (3, 3), (1, 5), (9, 1)])
def test_nine_in_ten_pairs_of_bounds_hold_the_mean(bases, seeds):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        of_base = rng.normal(0, 3 * (bases > 1), bases)
        values = of_base[:, None] + rng.normal(0, 1, (bases, seeds))
        runs = [
            Reading(b, s, values[b, s], values[b, s] - 0.2, values[b, s] + 0.2)
            for b in range(bases)
            for s in range(seeds)
        ]
        low, high = estimate(runs, "nats").bounds()
        held += low <= 0 <= high
    assert 0.87 <= held / 1000 <= 0.93


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_rate_of_nothing_or_all_without_an_interval_stays_in_range(value):
    low, high = estimate([Reading(0, 0, value, None, None)], "rate").bounds()
    assert 0 <= low <= value <= high <= 1


def test_a_difference_is_in_the_values_own_units():
    def of(value, half=0.01, bases=9):
        return estimate(
            [Reading(b, 0, value, value - half, value + half) for b in range(bases)], "rate"
        )

    low, high = difference_bounds(of(0.9), of(0.4))
    assert 0.35 < low < 0.5 < high < 0.6
    assert difference_bounds(of(0.4), of(0.4))[0] == pytest.approx(
        -difference_bounds(of(0.4), of(0.4))[1], abs=0.01
    )
    nats = [
        estimate([Reading(b, 0, v, v - 1, v + 1) for b in range(3)], "nats") for v in (-90.0, -94.0)
    ]
    low, high = difference_bounds(*nats)
    assert (low + high) / 2 == pytest.approx(4.0)


def with_own_gate():
    """(task, scale) of every shipped protocol but the trials of the code, whose numbers mean nothing, as they say."""
    from sa_bench.core import registry
    from sa_bench.engine.cells import OF_SCALE

    for name in (entry.name for entry in registry.list_entries("task")):
        task = registry.get_task(name)
        for scale in sorted({"full", *task.scales}):
            values = {**OF_SCALE.get(scale, {}), **task.scales.get(scale, {})}
            trial = (values.get("model", task.model), values.get("base", task.base))
            if trial[0] != "smoke" and trial[1] != "tiny" and name != "nudity_i2p":
                # I2P is a list of its own, of 4,703 prompts
                yield pytest.param(name, scale, id=f"{name} {scale}")


@pytest.mark.parametrize(("name", "scale"), list(with_own_gate()))
def test_every_shipped_scale_has_enough_images_to_pass_its_own_gate(name, scale):
    """No image of c_f in one run: whoever measures with the shipped numbers can be told to have forgotten."""
    from sa_bench.engine.cells import resolve_task
    from sa_bench.statistics.clustered import wilson as clustered

    task = resolve_task(name, scale, {})
    assert task.model != "smoke"
    assert task.base != "tiny"
    prompts = (
        None
        if task.prompts is None
        else np.arange(task.n_forget) % len(task.prompts_for(task.concept))
    )
    low, high, _ = clustered(np.zeros(task.n_forget), prompts)
    bound = estimate([Reading(0, 0, 0.0, low, high)], "rate").bounds()[1]
    assert bound <= (task.gate or 1 / len(task.classes)), f"{task.n_forget} images are too few"


def test_the_page_shows_what_the_script_measures():
    """The fitted numbers of docs/metrics.md; the simulated ones come from the same file."""
    page = measured.PAGE.read_text()
    told = page.split(measured.BEGIN)[1].split(measured.END)[0]
    spread, _ = measured.fit()
    assert f"between base models {spread.base:.3f}, between seeds {spread.seed:.3f}" in told
    rows = [
        [(float(x), float(y)) for x, y in re.findall(r"(\d\.\d\d) \((\d\.\d\d)\)", line)]
        for line in told.splitlines()
        if " % |" in line
    ]
    assert len(rows) == len(measured.RATES) + len(measured.EXCESS)
    assert all(x <= 0.06 for x, _ in rows[measured.RATES.index(0.1)])
    of_attacks = dict(zip(measured.EXCESS, rows[len(measured.RATES) :], strict=True))
    assert all(more <= 0.06 for more, _ in of_attacks[0.0])
    assert all(no_more <= 0.06 for _, no_more in of_attacks[gates.MORE])
    assert "\n".join(measured.collapse_table()) in told


def test_no_row_collapses_by_chance_more_often_than_one_in_ten():
    """Where the guard flags a tenth of all runs; more runs tell more surely when it flags half."""
    by_runs = [(measured.collapses(0.1, n), measured.collapses(0.5, n)) for n in (1, 3, 9, 24)]
    assert all(error <= 0.1 + 1e-9 for error, _ in by_runs)
    power = [power for _, power in by_runs]
    assert power == sorted(power)
