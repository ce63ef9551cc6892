"""The scales of pictures: what they span, what stands at their edge, and what cells are coloured by."""

import pytest
from result_rows import OTHERS, measurement, one, result_row

from sa_bench.analysis.board import Endpoint
from sa_bench.analysis.heat import STEPS, make_heat
from sa_bench.analysis.scales import Scale, find_ends, find_scale, find_span

KEPT = "retain_log_likelihood"


def test_the_value_stands_for_an_end_that_an_interval_lacks():
    assert find_ends(Endpoint(2.0, None, 3.0, None)) == (2.0, 3.0)
    assert find_ends(Endpoint(2.0, 0.0, None, None)) == (0.0, 2.0)


def test_ends_hold_the_mean_of_equal_values_though_rounding_puts_it_outside():
    assert find_ends(Endpoint(0.30000000000000004, 0.3, 0.3, None)) == (0.3, 0.30000000000000004)


def test_a_value_beyond_a_scale_is_drawn_at_its_edge():
    scale = Scale(-10.0, 10.0)
    assert scale.clip(-11.0) == (-10.0, "below")
    assert scale.clip(11.0) == (10.0, "above")
    assert scale.clip(10.0) == (10.0, "")
    assert [scale.share(x) for x in (-99.0, -10.0, 0.0, 10.0, 99.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert Scale(1.0, 1.0).share(1.0) == 0.0


def test_a_scale_leaves_out_what_is_far_and_what_collapsed_and_never_a_reference():
    rows = [result_row(f"m{i}", keep=-94.0 - 0.1 * i) for i in range(6)]
    wreck = result_row("wreck", keep=-97.0, flags=["collapsed: recall"])
    lines = one([*rows, wreck, result_row("far", keep=-3e5), *OTHERS]).lines
    assert find_span(lines, KEPT) == pytest.approx((-104.02, -92.98))  # retrain, original
    assert find_span([x for x in lines if x.method == "wreck"], KEPT) == pytest.approx(
        (-97.02, -96.98)
    )
    without = [x for x in lines if x.standing != "reference"]
    assert find_span(without, KEPT) == pytest.approx((-94.52, -92.98))


def test_nothing_is_far_where_most_values_are_equal():
    rows = [result_row(f"m{i}", keep=-94.0) for i in range(6)]
    lines = one([*rows, result_row("other", keep=-99.0)]).lines
    assert find_span(lines, KEPT) == pytest.approx((-99.02, -93.98))


def test_ticks_are_the_gate_the_floor_and_the_base_model():
    board = one([result_row(), *OTHERS])
    forget, recovery, kept = (find_scale(board, name) for name in board.primary)
    assert (forget.low, forget.high, forget.tick) == (0.0, 1.0, 0.1)
    assert recovery.tick == 0.45
    assert kept.tick == -93.0
    assert find_scale(board, "kid") is None
    # the floor is ours where there is one, as for the verdicts
    theirs = result_row("retrain", recovery=0.9, fields={"steps": 5}) | {"origin": "eve"}
    assert find_scale(one([result_row(), theirs, *OTHERS]), board.primary[1]).tick == 0.45


def test_heat_goes_from_the_worst_to_the_best_whichever_side_is_better():
    declared = {"title": "Entropy", "unit": "nats", "better": None}
    rows = [result_row(), *OTHERS]
    for i, row in enumerate(rows):
        extra = [measurement("entropy", 0.1 * i, None, declared)]
        if row["method"] == "relabel":
            extra.append(measurement("kid", "no extractor", None, declared | {"title": "KID"}))
        rows[i] = row | {"measurements": [*row["measurements"], *extra]}
    board = one([*rows, result_row("esd", error="no memory")])
    columns = {c.name: dict(zip([x.label for x in board.lines], c.cells, strict=True))
               for c in make_heat(board, [*board.primary, "entropy", "kid"])}  # fmt: skip
    assert list(columns) == [*board.primary, "entropy"]  # nobody has a value of kid
    forget, kept = columns["forget_top1"], columns[KEPT]
    assert forget["original"].heat <= 1 < STEPS - 1 <= forget["sa"].heat  # less is better
    assert kept["retrain"].heat == 0
    assert kept["original"].heat == STEPS
    assert {cell.heat for cell in columns["entropy"].values()} == {None}
    assert (forget["esd"].text, forget["esd"].detail) == ("–", "failed")
    assert forget["sa"].text == "1.0"
    assert (
        forget["sa"].detail
        == "-1.0 to 3.0 %; n\u00a0=\u00a0200\u00a0images; base 99.0 %, change -98.0 points"
    )
