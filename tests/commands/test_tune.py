"""The search: objective, gate, expected best of k."""

import dataclasses
import itertools

import pytest
from result_rows import measurement, result_row

from sa_bench.commands import tune
from sa_bench.core.errors import SaBenchError


def cells(lam, forget, keep, **changes):
    """One try on two concepts; `forget` and `keep` are one value each concept."""
    return [
        result_row("sa", fields={"lam": lam}, concept=concept, folder=f"{lam}-{concept}", measurements=[
            measurement("forget_top1", f), measurement("retain_log_likelihood", k)
        ], **changes)
        for concept, f, k in zip(("one", "two"), forget, keep, strict=True)
    ]  # fmt: skip


def test_the_winner_forgets_most_among_those_that_keep_as_much():
    found = tune.collect_tries([
        *cells(1, (0.00, 0.00), (-99, -99)),  # keeps less than the margin allows
        *cells(10, (0.01, 0.01), (-95.3, -95.3)),
        *cells(100, (0.06, 0.06), (-95, -95)),
        *cells(1000, (0.01, 0.50), (-93, -93)),  # one concept is not forgotten
    ])  # fmt: skip
    assert [t.passes for t in found] == [True, True, True, False]
    assert tune.choose(found).fields["lam"] == 10
    assert tune.choose([t for t in found if not t.passes]) is None


def test_where_no_try_passes_the_nearest_is_named():
    """A method that passes nowhere stood with its defaults on a board, were they a wreck; now with what it does best."""
    wreck, half, gone = (
        cells(lam, forget, keep)
        for lam, forget, keep in (
            (1, (0.2, 0.2), (-300, -300)), (10, (0.3, 0.4), (-97, -97)), (100, (0.7, 0.7), (-93, -93)),
        )
    )  # fmt: skip
    found = tune.collect_tries([*wreck, *half, *gone])
    assert tune.choose(found) is None
    assert tune.find_nearest(found).setting == "lam=10"
    assert "| lam=10 | 35.0 % | no | -97.00 | 4 | nearest |" in tune.report(found)
    assert tune.find_nearest(tune.collect_tries(gone)) is None
    passing = tune.report(tune.collect_tries([*half, *cells(1000, (0.0, 0.0), (-95, -95))]))
    assert "**chosen**" in passing
    assert "| nearest |" not in passing


def test_equal_forgetting_is_decided_by_what_was_kept():
    found = tune.collect_tries([*cells(1, (0, 0), (-95.2, -95.2)), *cells(10, (0, 0), (-95, -95))])
    assert tune.choose(found).setting == "lam=10"
    near = tune.collect_tries(
        [*cells(1, (0.005, 0.005), (-95.2, -95.2)), *cells(10, (0.01, 0.01), (-95, -95))]
    )
    assert tune.choose(near).setting == "lam=10"  # one image more of 200 is no more forgetting


def test_expected_best_is_the_mean_over_all_draws():
    keeps = [-99.0, -95.0, -97.0, -90.0]
    passes = [True, True, True, False]
    found = [
        tune.Try("t", "m", {}, "", (), 0.0, (0.0, 0.01), ok, k, 0.0, 1, "nats")
        for k, ok in zip(keeps, passes, strict=True)
    ]
    for k, got in enumerate(tune.expected_best(found), 1):
        draws = [[t.keep for t in d if t.passes] for d in itertools.combinations(found, k)]
        best = [max(d) for d in draws if d]  # all forget alike, so who keeps most wins
        assert got == pytest.approx(sum(best) / len(best))
    within = [
        dataclasses.replace(found[1], forget=0.05, bounds=(0.04, 0.06)),
        dataclasses.replace(found[1], keep=-95.4),  # forgets more, keeps as much within the margin
    ]
    assert tune.expected_best(within)[1] == -95.4


def test_a_search_with_a_hole_is_refused():
    with pytest.raises(SaBenchError, match="failed"):
        tune.collect_tries([result_row("sa", error="out of memory", folder="x")])
    rows = cells(1, (0, 0), (-95, -95))
    rows[0]["measurements"].pop()
    with pytest.raises(SaBenchError, match="retain_log_likelihood was not measured"):
        tune.collect_tries(rows)
    with pytest.raises(
        SaBenchError,
        match=r"sa: lam=10\S* has 1 run, others up to 2.* A search tries every setting on the same",
    ):
        tune.collect_tries([*cells(1, (0, 0), (-95, -97)), *cells(10, (0, 0), (-94, -94))[:1]])
    with pytest.raises(SaBenchError, match="differ in scale"):
        tune.collect_tries(
            [*cells(1, (0, 0), (-95, -97)), *cells(10, (0, 0), (-94, -94), scale="full")]
        )
    with pytest.raises(SaBenchError, match="No method's runs"):
        tune.collect_tries([])


def test_settings_of_any_kind_are_named_and_a_cell_found_twice_counts_once():
    rows = cells(1, (0, 0), (-95, -95))
    others = cells(1, (0, 0), (-96, -96))
    for row in others:
        row["fields"] = {"lam": 1, "reduction": "mean", "fisher": {"n": 50}}
    found = tune.collect_tries([*rows, *rows, *others])
    assert [t.runs for t in found] == [2, 2]
    assert {t.setting for t in found} == {"no setting", "reduction=mean, fisher.n=50"}


def test_the_report_lists_every_try_and_marks_the_winner():
    rows = [
        *cells(1, (0, 0), (-99, -99)),
        *cells(10, (0, 0), (-95, -95)),
        *cells(100, (0.9, 0.9), (-93, -93)),
    ]
    text = tune.report(tune.collect_tries(rows))
    assert "mnist\\_0: tried on one, two" in text
    assert text.count("| sa | lam=") == 3
    assert [x for x in text.splitlines() if "chosen" in x] == [
        "| sa | lam=10 | 0.0 % | yes | -95.00 | 4 | **chosen** |"
    ]
    assert "3 tries, 12 s" in text
