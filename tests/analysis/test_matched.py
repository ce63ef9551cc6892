"""Methods at matched forgetting: fronts, interpolation and its uncertainty, on hand-made rows."""

from pathlib import Path

import numpy as np
import pytest
from result_rows import OTHERS, one, result_row

from sa_bench.analysis.matched import Point, compare_at, interpolate, pareto_points
from sa_bench.core.errors import SaBenchError


def point(rate, kept, back=0.5, label="x"):
    return Point(label, float(np.arcsin(np.sqrt(rate))), kept, back)


def test_a_front_holds_what_no_other_setting_beats():
    points = [
        point(0.02, -94.0),
        point(0.01, -95.0),
        point(0.03, -96.0),
        point(0.01, -97.0),
        point(0.2, -93.0),
    ]
    assert [p.retention for p in pareto_points(points, "higher")] == [-95.0, -94.0, -93.0]
    assert [p.retention for p in pareto_points(points, "lower")] == [-97.0]


def test_between_two_settings_it_is_interpolated_and_beyond_the_first_there_is_nothing():
    front = [point(0.0, -96.0, 0.8, "a"), point(0.04, -94.0, 0.9, "b")]
    middle = float(np.arcsin(np.sqrt(0.04))) / 2
    kept, back, labels = interpolate(front, middle)
    assert (kept, back, labels) == (pytest.approx(-95.0), pytest.approx(0.85), ("a", "b"))
    assert interpolate(front, 0.0) == (-96.0, 0.8, ("a",))
    assert interpolate(front, 1.0) == (
        -94.0,
        0.9,
        ("b",),
    )  # what leaves most stands for all that is allowed
    assert interpolate([point(0.01, -95.0)], 0.0) is None


def swept(method, kept, bases=3, seeds=1):
    """λ = 1 leaves nothing, λ = 10 leaves 4 %; retention is `kept(λ)`, a little lower on each further base."""
    return [
        result_row(
            method,
            forget=rate,
            keep=kept(lam) - base - 0.1 * seed,
            fields={"lam": lam},
            base_seed=base,
            seed=seed,
        )
        for base in range(bases)
        for seed in range(seeds)
        for lam, rate in ((1.0, 0.0), (10.0, 0.04))
    ]


def board(*rows):
    return one([*(r for group in rows for r in group), *OTHERS])


def test_the_difference_is_taken_base_by_base():
    found = board(
        swept("sa", lambda lam: -96 + 0.2 * lam), swept("l2", lambda lam: -97 + 0.2 * lam)
    )
    text = compare_at(found, ["sa", "l2"], "forget_top1=0.01")
    # both curves are parallel: one nat apart at every level, and on every base
    assert "sa − l2: +1.00 nats, 3 base models" in text
    assert "where at most 1.0 % of the images of zero are left" in text
    assert "sa: at sa lam=1, sa lam=10" in text


def test_two_settings_at_unequal_forgetting_are_not_what_methods_are_compared_by():
    """SA at λ = 10 keeps more than L2 at λ = 1 and leaves more: at the same level there is no difference."""
    same = lambda lam: -96 + 0.2 * lam  # noqa: E731
    text = compare_at(board(swept("sa", same), swept("l2", same)), ["sa", "l2"], "forget_top1=0.02")
    assert "sa − l2: +0.00 nats, p = 1, 3 base models" in text


def test_below_five_runs_there_is_no_interval_and_no_p():
    """One setting on three bases: a p at two degrees of freedom was printed."""
    rows = [
        [result_row(m, forget=0.0, keep=k - b, base_seed=b) for b in range(3)]
        for m, k in (("sa", -95.0), ("l2", -96.5))
    ]
    text = compare_at(board(*rows), ["sa", "l2"], "forget_top1=0.01")
    assert "sa − l2: +1.50 nats; no interval and no p below 5 runs of each, 3 base models" in text
    assert "95 %" not in text
    assert "p =" not in text


def test_of_a_single_base_the_seeds_are_the_units_and_it_is_said():
    rows = [
        swept(m, lambda lam, k=k: k + 0.2 * lam, bases=1, seeds=4)
        for m, k in (("sa", -96), ("l2", -97))
    ]
    text = compare_at(board(*rows), ["sa", "l2"], "forget_top1=0.01")
    assert "4 seeds" in text
    assert "nothing is said of another" in text


def test_what_no_setting_reaches_is_said():
    rows = [result_row("l2", forget=0.3, fields={"lam": 1.0}, base_seed=b) for b in range(3)]
    text = compare_at(board(swept("sa", lambda lam: -95.0), rows), ["sa", "l2"], "forget_top1=0.01")
    assert (
        "l2: not reached, on 3 of 3 base models no setting leaves so little (all do from 30.0 % on)"
        in text
    )
    assert "difference: none" in text


@pytest.mark.parametrize(
    ("level", "says"),
    [
        ("kid=1", "matched by forget_top1"),
        ("forget_top1=x", "a rate from 0 to 1"),
        ("forget_top1=2", "a rate from 0 to 1"),
    ],
)
def test_a_level_that_is_none_is_refused(level, says):
    with pytest.raises(SaBenchError, match=says):
        compare_at(board(swept("sa", lambda lam: -95.0)), ["sa", "sa"], level)


def test_the_published_board_from_the_command_line(cli):
    """At equal forgetting F keeps about five nats more than a constant where replay does not reach."""
    rows = str(Path(__file__).parents[2] / "docs" / "data" / "micro-1.jsonl.xz")
    asked = ("--task", "mnist_0_cover5", "--methods", "sa,l2", "--at", "forget_top1=0.005")
    out = cli("compare", rows, *asked).stdout
    assert "sa − l2: +5.29 nats (95 %: 2.65 to 7.93), p = 0.026, 3 base models" in out
