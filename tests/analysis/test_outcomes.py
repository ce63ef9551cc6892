"""One word a row, and the bound that decides it, the same in every report."""

import re

import pytest
from result_rows import OTHERS, RETRAIN, line, one, result_row
from sa_bench.reports import html, markdown

from sa_bench.analysis import gates
from sa_bench.analysis.outcomes import WORDS
from sa_bench.commands import terminal
from sa_bench.results.rows import UNDERTRAINED
from sa_bench.statistics import wilson

CASES = {
    "ERASED": (result_row(recovery=(0.3, 0.28, 0.32)), r"30.0 % come back, at most -?\d+ points more than retrain's 45.0 %"),
    "HIDDEN": (result_row(recovery=0.9), r"90.0 % come back, at least \d+ points more than retrain's 45.0 %"),
    "NOT FORGOTTEN": (result_row(forget=0.9), r"at least [78]\d\.\d % still shown"),
    "COLLAPSED": (result_row(flags=["collapse: recall 0.00"]), "1 of 1 runs"),
    "FAILED": (result_row(error="disk full"), "1 of 1 runs"),
}  # fmt: skip


@pytest.mark.parametrize("word", CASES)
def test_the_word_and_its_bound_are_those_of_every_report(word, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    row, bound = CASES[word]
    board = one([row, *OTHERS])
    outcome = line(board, "sa").outcome
    assert outcome.word == word
    assert re.fullmatch(bound, outcome.bound)
    if word != "FAILED":
        assert line(board, "sa").sentence.startswith(word)
    rows = [{**row, "folder": "/nowhere"}, *OTHERS]
    terminal.print_boards(rows)
    assert word in capsys.readouterr().out
    assert f"| sa | {word} |" in markdown.render(rows)
    assert f">{word}</span>" in html.render(rows)


def test_between_the_gate_and_both_bounds_nothing_is_shown():
    """12 % of 200 images: neither at most 10 % nor more than that, for another base and seed."""
    outcome = line(one([result_row(forget=(0.12, 0.08, 0.17)), *OTHERS]), "sa").outcome
    assert outcome.word == "NOT SHOWN"
    assert "more bases or seeds would tell" in outcome.bound


def test_too_few_images_say_how_many_would_do():
    row = result_row(forget=(0.0, *wilson(0, 24)))
    row["measurements"][0]["n"] = 24
    outcome = line(one([row, *OTHERS]), "sa").outcome
    assert outcome == (
        "NOT SHOWN",
        "at most 14.5 % still shown, the gate is 10.0 %; n = 24, 42 would do",
    )

    def bound(n):
        return gates.estimate([gates.Reading(0, 0, 0.0, *wilson(0, n))], "rate").bounds()[1]

    assert bound(42) <= 0.1 < bound(41)


def test_what_comes_back_is_unsettled_between_the_bounds_and_unknown_without_a_floor():
    unsettled = line(one([result_row(recovery=(0.5, 0.4, 0.6)), *OTHERS]), "sa").outcome
    assert unsettled.word == "NOT SHOWN"
    assert re.fullmatch(
        r"50.0 % come back, -\d+ to \+\d+ points against retrain's 45.0 %", unsettled.bound
    )
    alone = [row for row in OTHERS if row is not RETRAIN]
    assert "without retrain" in line(one([result_row(), *alone]), "sa").outcome.bound


def test_references_controls_and_targets_have_their_own_words():
    rows = [result_row(), *OTHERS, result_row("retrain_surrogate", standing="target")]
    outcomes = {x.label: x.outcome for x in one(rows).lines}
    assert outcomes["retrain"] == ("FLOOR", "")
    assert outcomes["relabel"] == ("CONTROL", "caught by recovery")
    assert outcomes["retrain_surrogate"] == ("TARGET", "")
    assert {outcome.word for outcome in outcomes.values()} <= WORDS.keys()


def test_a_control_is_not_judged_without_a_floor():
    alone = [row for row in OTHERS if row is not RETRAIN]
    outcome = line(one([result_row(forget=0.5), *alone]), "relabel").outcome
    assert outcome == (
        "CONTROL",
        "not caught: without retrain nothing says whether what comes back is much",
    )


def test_a_floor_that_was_trained_for_less_says_so():
    short = [
        result_row(method, standing=standing, flags=[f"{UNDERTRAINED[standing]}: by quick"])
        for method, standing in (("retrain", "reference"), ("retrain_surrogate", "target"))
    ]
    board = one([result_row(), *(row for row in OTHERS if row is not RETRAIN), *short])
    assert line(board, "retrain").outcome == ("FLOOR", "undertrained")
    assert line(board, "retrain_surrogate").outcome == ("TARGET", "undertrained")
    assert "FLOOR: undertrained" in line(board, "retrain").sentence
