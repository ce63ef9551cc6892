"""The plots of the HTML report: labels apart, round ticks, curves over seeds."""

import itertools
import re

import pytest
from result_rows import OTHERS, on_bases, one, result_row
from sa_bench.reports.html import render

from sa_bench.analysis.board import Endpoint
from sa_bench.analysis.cell_text import format_small_print
from sa_bench.analysis.plots import (
    GAP,
    describe_axis,
    nice_ticks,
    recovery_curves,
    shorten,
    spread_apart,
    sweep_panels,
    tradeoff_plot,
)
from sa_bench.analysis.ranking import make_boards


def test_few_runs_are_shown_as_points_and_many_as_lowest_to_highest():
    def text(n):
        points = tuple(0.01 * i for i in range(n))
        return format_small_print(
            Endpoint(0.02, points[0], points[-1], None, points, unit="rate", n=200)
        )

    assert text(4) == "4 runs: 0.0, 1.0, 2.0, 3.0 %; n\u00a0=\u00a0200\u00a0images a run"
    assert (
        text(5) == "lowest to highest of 5 runs: 0.0 to 4.0 %; n\u00a0=\u00a0200\u00a0images a run"
    )


def test_a_recovery_curve_over_seeds_is_the_mean_and_the_span():
    rows = [result_row(seed=i) for i in range(2)]
    for row, value in zip(rows, (0.2, 0.6), strict=True):
        point = {"images": 100, "steps": 100, "value": value, "low": 0.0, "high": 1.0}
        row["measurements"][1]["extra"] = {"curve": [point | {"images": 10, "value": 0.9}, point]}
    (board,) = make_boards(rows)
    found = recovery_curves(board)
    (end,) = found["lines"][0]["path"]
    assert end["rate"] == pytest.approx(0.4)
    assert end["ys"] == (found["up"](0.2), found["up"](0.6))
    assert found["images"] == 100


def test_labels_in_the_plots_do_not_overlap(tmp_path):
    """Twelve values of a sweep on nearly the same spot: no two label boxes meet, and some found no place.

    The controls are on no front, so that only a pointer names them.
    """
    rows = [
        result_row(fields={"lam": float(i)}, forget=0.01 + i / 1e4, keep=-94 + i / 50)
        for i in range(12)
    ]
    for row in rows:
        row["measurements"][1]["extra"] = {
            "curve": [{"images": 1, "steps": 9, "value": 0.99, "low": 0.9, "high": 1.0}]
        }
    svgs = re.findall(
        r'<svg(?! class="(?:bar|loss)").*?</svg>',
        render([r | {"folder": str(tmp_path)} for r in (*rows, *OTHERS)]),
        re.S,
    )
    assert len(svgs) == 5  # trade-off, recovery, and three panels of the sweep
    for svg in svgs[:2]:
        found = re.findall(
            r'<text class="label" x="([\d.]+)" y="([\d.]+)"(?: text-anchor="(\w+)")?>([^<]*)</text>',
            svg,
        )
        texts = {text for *_, text in found}
        assert "retrain" in texts
        assert sum(text.startswith("sa lam=") for text in texts) >= 10
        assert not {"original", "relabel"} & texts
        assert "<title>relabel: " in svg
        boxes = []
        for x, y, anchor, text in found:
            left = float(x) - (6 * len(text) if anchor == "end" else 0)
            boxes.append((left, left + 6 * len(text), float(y)))
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a[1] <= b[0] or b[1] <= a[0] or abs(a[2] - b[2]) >= GAP - 1, (a, b)


def test_apart_keeps_order_and_distance_inside_the_frame():
    out = spread_apart([100.0, 99.0, 20.0, 101.0], 0.0, 110.0)
    assert sorted(range(4), key=lambda i: out[i]) == [2, 1, 0, 3]
    assert all(b - a >= GAP - 1e-9 for a, b in zip(sorted(out), sorted(out)[1:], strict=False))
    assert min(out) >= 0
    assert max(out) <= 110
    assert spread_apart([10.0, 90.0], 0.0, 110.0) == [10.0, 90.0]


def test_ticks_are_round_and_span_the_data():
    assert nice_ticks(-105.97, -90.93) == [-110.0, -105.0, -100.0, -95.0, -90.0]
    for low, high in ((0.0, 0.0), (-1e-3, 2e-3), (5.0, 5e4)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 1 <= len(ticks) <= 9


def test_a_short_label_keeps_the_end_that_tells_siblings_apart():
    labels = [shorten(f"selective_amnesia_variant lam={i}", 17) for i in (10, 11)]
    assert [len(x) for x in labels] == [17, 17]
    assert labels[0].endswith("lam=10")
    assert labels[1].endswith("lam=11")
    assert shorten("sa", 17) == "sa"


def test_equal_retention_everywhere_is_drawn():
    rows = [result_row(seed=s, keep=(-94.0, -94.0, -94.0)) for s in (0, 1)]
    drawn = tradeoff_plot(one([r | {"folder": "/nowhere"} for r in rows]))
    assert len(drawn["points"]) == 1


def test_a_sweep_has_a_panel_an_endpoint_and_a_logarithmic_axis_where_it_is_wide():
    rows = [result_row(fields={"lam": lam}, keep=-94 - lam) for lam in (0.1, 1.0, 10.0, 100.0)]
    found = sweep_panels(one([*rows, *OTHERS]))
    assert [panel["name"] for panel in found] == [
        "forget_top1",
        "recovery",
        "retain_log_likelihood",
    ]
    xs = [x for x, _ in found[0]["xs"]]
    gaps = [b - a for a, b in itertools.pairwise(xs)]
    assert gaps == pytest.approx([gaps[0]] * 3)
    ys = [point["y"] for point in found[2]["lines"][0]["path"]]
    assert ys == sorted(ys)  # less is kept with every step: lower in the plot
    assert sweep_panels(one([*rows[:2], *OTHERS])) == []  # two settings are no curve


def test_a_few_rows_are_all_named_and_of_many_those_on_the_front_and_the_floor():
    few = tradeoff_plot(one([result_row(), *OTHERS]))["points"]
    assert [p.get("label") for p in few] == [p["line"].label for p in few]
    many = [result_row(f"m{i}", keep=-95.0 - 0.1 * i, forget=0.01 + 0.001 * i) for i in range(9)]
    many.append(result_row("best", keep=-94.0, forget=0.005, recovery=0.1))
    points = tradeoff_plot(one(on_bases([*many, *OTHERS])))["points"]
    assert {p["label"] for p in points if "label" in p} == {"best", "retrain"}
    assert [p["line"].label for p in points if p["line"].front] == ["best"]


def test_an_outlier_stands_at_the_edge_with_its_value_and_the_others_keep_their_places():
    rows = [result_row(f"m{i}", keep=-94.0 - 0.1 * i) for i in range(4)]
    plain = tradeoff_plot(one([*rows, *OTHERS]))
    found = tradeoff_plot(one([*rows, result_row("far", keep=-3e5), *OTHERS]))
    point = {p["line"].label: p for p in found["points"]}
    assert point["far"]["beyond"] == "below"
    assert point["far"]["y"] == found["bottom"]
    assert point["far"]["label"] == "far -300000.00 nats"
    before = {p["line"].label: p["y"] for p in plain["points"]}
    assert before == {label: p["y"] for label, p in point.items() if label != "far"}
    assert all(not p["beyond"] for label, p in point.items() if label != "far")


def test_an_axis_says_its_unit_and_direction_and_no_empty_bracket():
    board = one([result_row(), *OTHERS])
    assert describe_axis(board, "retain_log_likelihood") == (
        "Log-likelihood of the rest (nats, higher is better)"
    )
    assert describe_axis(board, "forget_top1") == "images of zero still judged so (lower is better)"
    for row in board.lines[0].cells:
        row["measurements"][2] |= {"unit": None, "better": None}
    assert describe_axis(board, "retain_log_likelihood") == "Log-likelihood of the rest"
