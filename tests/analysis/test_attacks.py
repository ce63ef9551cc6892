"""What survives: the worst attack of a row, against what the same attack brings back in `retrain`."""

import pytest
from result_rows import OTHERS, RELABEL, RETRAIN, line, measurement, one, result_row
from sa_bench.reports import html, markdown

from sa_bench.analysis import attacks, gates
from sa_bench.core.declarations import read_attack
from sa_bench.statistics import wilson

RATE = {"title": "Images of c_f after an attack", "unit": "rate", "better": "lower"}


def attacked(row, **rates):
    """A row with further attacks, each of 200 images; a curve of relearning for `half`."""
    half = rates.pop("half", None)
    added = []
    for name, value in rates.items():
        extra = {"curve": [{"steps": 0, "value": 0.0}, {"steps": 80, "value": value}]}
        if half is not None:
            extra["half"] = half
        value = (value, *wilson(round(200 * value), 200))
        added.append(measurement(name, value, 0.99, RATE, extra=extra if name == "relearn" else {}))
    return {**row, "measurements": [*row["measurements"], *added]}


ERASED = result_row(recovery=(0.3, 0.28, 0.32))
FLOOR = attacked(RETRAIN, relearn=0.4, stress=0.05)


def test_what_an_attacker_needs_is_read_from_the_metrics():
    assert {
        name: read_attack(name) for name in ("recovery", "relearn", "prompt_attack", "fid")
    } == {
        "recovery": "weights",
        "relearn": "weights",
        "prompt_attack": "service",
        "fid": "",
    }


def test_the_worst_attack_is_the_one_furthest_above_its_floor_not_the_highest():
    board = one([attacked(ERASED, relearn=0.45, stress=0.6), FLOOR, *OTHERS[1:]])
    worst = line(board, "sa").survival
    assert (worst.attack, worst.value, worst.floor) == ("stress", 0.6, 0.05)
    assert (worst.comes_back, worst.attacks) == ("yes", 3)
    assert worst.describe() == "60.0 % by stress (retrain 5.0 %), the worst of 3 attacks"


def test_of_attacks_left_unclear_the_one_that_may_bring_back_most_is_named():
    """Recovery was named "not settled" though it was settled: its lower bound was the highest, by its small spread."""
    low_spread = result_row(recovery=(0.43, 0.40, 0.46))
    row = attacked(low_spread, relearn=0.43, stress=0.05)
    wide = {m["name"]: m for m in row["measurements"]}["relearn"]
    wide["low"], wide["high"] = 0.25, 0.62
    worst = line(one([row, FLOOR, *OTHERS[1:]]), "sa").survival
    assert (worst.comes_back, worst.attack) == ("unclear", "relearn")


def test_a_control_that_may_pass_the_gate_is_caught_by_what_comes_back():
    """A filter that shows 6 % was "caught by forgetting", since its bound was above the gate."""
    control = result_row(
        "relabel", forget=(0.06, 0.03, 0.14), recovery=(0.8, 0.75, 0.85), keep=-93.0
    )
    board = one([ERASED, RETRAIN, OTHERS[1], control])
    assert line(board, "relabel").forgotten is False
    assert board.exposed["relabel"] == "recovery"
    assert board.exposed["original"] == "forgetting"


def test_a_row_that_another_attack_undoes_is_hidden_and_says_by_which():
    board = one([attacked(ERASED, stress=0.6), FLOOR, *OTHERS[1:]])
    outcome = line(board, "sa").outcome
    assert outcome.word == "HIDDEN"
    assert "by stress" in outcome.bound
    assert (
        "its worst attack, the one furthest above its floor, brings back 60.0 % by stress"
        in line(board, "sa").sentence
    )
    assert line(board, "sa").rank is None
    assert board.headline.startswith("Nobody wins: sa hid zero without erasing it")
    assert "sa 60.0 % by stress" in board.headline
    assert line(one([ERASED, *OTHERS]), "sa").outcome.word == "ERASED"
    unclear = line(one([attacked(ERASED, stress=0.12), FLOOR, *OTHERS[1:]]), "sa")
    assert (unclear.survival.comes_back, unclear.outcome.word) == ("unclear", "ERASED")
    assert "; not settled: 12.0 % by stress" in unclear.outcome.bound
    without_floor = line(one([attacked(ERASED, stress=0.9), *OTHERS]), "sa")
    assert (without_floor.survival.comes_back, without_floor.outcome.word) == ("unknown", "ERASED")
    assert "; not settled: 90.0 % by stress" in without_floor.outcome.bound
    harmless = one([attacked(ERASED, stress=0.0), FLOOR, *OTHERS[1:]])
    assert line(harmless, "sa").outcome.word == "ERASED"


def test_bounds_hold_for_all_attacks_together():
    few = one([attacked(ERASED, stress=0.2), FLOOR, *OTHERS[1:]])
    many = one([attacked(ERASED, stress=0.2, relearn=0.0), FLOOR, *OTHERS[1:]])
    narrow, wide = (line(board, "sa").survival for board in (few, many))
    assert narrow.attack == wide.attack == "stress"
    assert wide.low < narrow.low < narrow.high < wide.high
    estimate = gates.estimate([gates.Reading(0, 0, 0.2, *wilson(40, 200))], "rate")
    assert estimate.bounds(3)[1] > estimate.bounds()[1]


def test_only_attacks_of_the_rows_threat_model_count():
    """Whoever may only ask for images cannot fine-tune: the row has no attack until one by words is measured."""
    service = result_row("sld", threat_model="service")
    board = one([attacked(service, stress=0.9, relearn=0.9), FLOOR, *OTHERS[1:]])
    assert line(board, "sld").survival is None
    board = one([attacked(service, stress=0.9, ring_a_bell=0.5), FLOOR, *OTHERS[1:]])
    assert line(board, "sld").survival.attack == "ring_a_bell"


def test_without_a_floor_nothing_says_whether_it_is_much():
    worst = line(one([attacked(ERASED, stress=0.6), RELABEL]), "sa").survival
    assert (worst.attack, worst.comes_back, worst.floor) == ("stress", "unknown", None)
    assert worst.describe() == "60.0 % by stress, the worst of 2 attacks"
    few = attacked(ERASED)
    uncertain = measurement("relearn", (0.4, 0.1, 0.7), 0.99, RATE)
    few["measurements"].append(uncertain)
    assert line(one([few, RELABEL]), "sa").survival.attack == "relearn", "the highest rate counts"


@pytest.mark.parametrize(("half", "saved"), [(0, 1.0), (10, 0.75), (40, 0.0), (None, -1.0)])
def test_savings_are_the_share_of_the_floors_steps(half, saved):
    """`retrain` needs 40 steps until half of the images show c_f; a row that never gets there counts as 80."""
    floor = attacked(RETRAIN, relearn=0.6, half=40)
    board = one([attacked(ERASED, relearn=0.4, half=half), floor, *OTHERS[1:]])
    assert attacks.find_savings(board, line(board, "sa")) == pytest.approx(saved)


def test_reports_have_a_table_of_attacks_only_where_there_are_some():
    floor = attacked(RETRAIN, relearn=0.4, stress=0.05, half=40)
    rows = [attacked(ERASED, relearn=0.45, stress=0.6, half=10), floor, *OTHERS[1:]]
    table = attacks.make_attack_table(one(rows))
    assert table.head == ("method", "survives", "recovery", "relearn", "stress", "half relearned")
    by_method = {row[0]: row[1:] for row in table.rows}
    assert by_method["sa"][0] == "60.0 % by stress (retrain 5.0 %), the worst of 3 attacks"
    assert by_method["sa"][1:] == ("30.0 %", "45.0 %", "60.0 %", "10 steps, 75.0 % saved")
    assert by_method["retrain"][0] == "–"
    assert by_method["retrain"][-1] == "40 steps"
    slow = one([attacked(ERASED, relearn=0.4, half=60), floor, *OTHERS[1:]])
    assert attacks.make_attack_table(slow).rows[0][-1] == "60 steps, none saved"
    assert "| sa | 60.0 % by stress" in markdown.render(rows)
    assert "Attacks: what brings zero back" in html.render(rows)
    assert attacks.make_attack_table(one([ERASED, *OTHERS])) is None
    assert "Attacks: what brings" not in html.render([ERASED, *OTHERS])
