"""The claims ledger: orderings that a publication argues from, told from the runs of a board."""

import pytest
from result_rows import measurement, one, result_row

from sa_bench.analysis import published
from sa_bench.analysis.published import parse_setting
from sa_bench.core import registry


def line(method, keep, seeds=3, **changes):
    """Runs with a spread; lines that keep less spread more, so that no two differ alike in all runs."""
    return [
        result_row(
            method,
            keep=keep + 0.001 * abs(keep) * b + 0.01 * s * (b + 1),
            base_seed=b,
            seed=s,
            scale="full",
            **changes,
        )
        for b in range(3)
        for s in range(seeds)
    ]


def said(*lines):
    board = one([row for rows in lines for row in rows])
    return {(v.claim.left, v.claim.right): v.verdict for v in published.claim_verdicts(board)}


@pytest.mark.parametrize(
    ("other", "verdict"), [(-97.0, "holds"), (-90.0, "reversed"), (-94.0, "cannot be told")]
)
def test_orderings(other, verdict):
    rows = line("no_ewc", other)
    for i, row in enumerate(rows):  # a spread between bases
        row["measurements"][2]["value"] += (-1) ** (i // 3) * 0.2
    assert said(line("sa", -94), rows)["sa", "no_ewc"] == verdict


def test_too_few_runs_tell_nothing():
    assert (
        said(line("sa", -94, seeds=1), line("no_ewc", -99, seeds=1))["sa", "no_ewc"]
        == "cannot be told"
    )


def test_a_collapsed_line_still_answers_for_its_claim():
    flagged = line("no_gr", -150, flags=["collapse: recall is 1 % of the base's"])
    assert said(line("sa", -94), flagged)["sa", "no_gr"] == "holds"


@pytest.mark.parametrize(
    ("value", "verdict"), [((0.0, 0.0, 0.02), "holds"), ((0.5, 0.4, 0.6), "reversed"), ((0.1, 0.05, 0.2), "cannot be told")]
)  # fmt: skip
def test_thresholds_are_told_by_the_bounds(value, verdict):
    runs = [result_row("sa", forget=value, seed=s, scale="full") for s in range(5)]
    assert said(runs)["sa", "0.1"] == verdict
    assert said(runs[:4])["sa", "0.1"] == "cannot be told"


def test_scale_quick_answers_no_claim():
    board = one([result_row("sa", seed=s) for s in range(5)])
    assert board.scale == "quick"
    assert published.claim_verdicts(board) == []


def test_of_equally_many_runs_every_setting_answers():
    runs = [result_row("sa", forget=f, fields={"lam": lam}, seed=s, scale="full")
            for lam, f in ((1, (0.0, 0.0, 0.02)), (9, (0.9, 0.8, 0.95))) for s in range(5)]  # fmt: skip
    board = one(runs)
    found = {v.evidence.partition(":")[0]: v.verdict for v in published.claim_verdicts(board)}
    assert found == {"sa lam=1": "holds", "sa lam=9": "reversed"}


def test_a_claim_may_be_about_two_settings_of_a_method(monkeypatch):
    """Table 1 argues from λ = 1 against λ = 10: the line that has most runs is not asked for, nor a third setting."""
    claim = published.Claim(
        "mnist_0",
        "retain_log_likelihood",
        "sa lam=10",
        "better",
        "sa lam=1",
        "EWC keeps",
        "made up",
        "stated",
    )
    monkeypatch.setattr(published, "load_claims", lambda: (claim,))
    runs = {1: line("sa", -99, fields={"lam": 1.0}), 10: line("sa", -94, fields={"lam": 10.0})}
    third = line("sa", -120, seeds=5, fields={"lam": 50.0})
    (found,) = published.claim_verdicts(one([*runs[1], *runs[10], *third]))
    assert found.verdict == "holds"
    assert found.evidence.startswith("sa lam=10 − sa lam=1: ")
    assert published.claim_verdicts(one([*runs[1], *third])) == []


@pytest.mark.parametrize(
    ("overrides", "judged"),
    [
        ({"concept": 3}, False),
        ({"train_precision": "fp32", "surrogate": "class:1"}, False),
        ({"train_precision": "fp32", "recovery_judged": 48}, True),
    ],
)
def test_another_concept_is_another_experiment_and_another_precision_is_none(overrides, judged):
    """Boards in fp32, as the paper is, had no ledger of its claims."""
    rows = line("sa", -94, overrides=overrides)
    assert bool(published.claim_verdicts(one(rows))) is judged


def test_every_claim_names_what_is_there():
    assert len(published.load_claims()) > 10
    methods = {e.name for e in registry.list_entries("method")}
    for claim in published.load_claims():
        assert claim.relation in published.RELATIONS
        assert claim.kind in ("stated", "implied")
        assert parse_setting(claim.left)[0] in methods
        task = registry.get_task(claim.task)
        assert claim.metric in {*task.metrics, *task.scales.get("paper", {}).get("metrics", ())}
        if claim.relation == "better":
            assert parse_setting(claim.right)[0] in methods
        else:
            float(claim.right)
        assert claim.source.startswith("Heng & Soh 2023")


def test_a_claim_finds_its_metric_under_the_extractors_name(monkeypatch):
    """The claim says `kid`, the board has `kid[judge-mnist]`."""
    claim = published.Claim(
        "mnist_0", "kid", "sa", "better", "no_gr", "replay keeps", "made up", "stated"
    )
    monkeypatch.setattr(published, "load_claims", lambda: (claim,))
    rows = [*line("sa", -94), *line("no_gr", -99)]
    for row in rows:
        value = 1.0 + row["base_seed"] / 10 if row["method"] == "sa" else 9.0
        row["measurements"].append(
            measurement(
                "kid[judge-mnist]", value, 0.5, {"title": "KID", "unit": None, "better": "lower"}
            )
        )
    (found,) = published.claim_verdicts(one(rows))
    assert found.verdict == "holds"
