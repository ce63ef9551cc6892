"""Over concepts: closed forms, coverage, and the table in both reports."""

import math
import re

import numpy as np
import pytest
from result_rows import measurement, result_row
from sa_bench.reports import html, markdown

from sa_bench.analysis.concepts import make_concept_tables
from sa_bench.analysis.ranking import make_boards
from sa_bench.engine.cells import resolve
from sa_bench.statistics.random_effects import summarise

DIGITS = ("zero", "one", "two", "three", "four")


def test_with_equal_variances_it_is_student_over_the_units():
    """τ² = s² − v, and the interval is that of the plain mean: Hartung and Knapp's closed form."""
    y = [1.0, 2.0, 4.0, 5.0]
    found = summarise(y, [0.5] * 4)
    half = 3.182446305284263 * np.std(y, ddof=1) / 2  # t of 3 degrees of freedom
    assert found.mean == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert found.spread**2 == pytest.approx(np.var(y, ddof=1) - 0.5)
    next_half = 3.182446305284263 * math.sqrt(np.var(y, ddof=1) * (1 + 1 / 4))
    assert (found.next_low, found.next_high) == pytest.approx((3 - next_half, 3 + next_half))


def test_units_as_alike_as_their_own_variances_allow_have_no_spread_and_keep_its_error():
    found = summarise([1.0, 1.1, 0.9], [1.0, 1.0, 1.0])
    assert found.spread == 0
    assert found.high - found.mean == pytest.approx(4.302652729696142 * math.sqrt(1 / 3))
    assert found.next_high - found.mean == pytest.approx(4.302652729696142 * math.sqrt(1 + 1 / 3))


def test_a_published_example_of_paule_and_mandel():
    """The trials of the BCG vaccine (Colditz et al. 1994): log relative risks, τ² = 0.3181 (R's metafor)."""
    cases = [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
        (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892),
        (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338),
        (27, 16886, 29, 17825),
    ]  # fmt: skip
    y = [math.log(a / (a + b)) - math.log(c / (c + d)) for a, b, c, d in cases]
    v = [1 / a - 1 / (a + b) + 1 / c - 1 / (c + d) for a, b, c, d in cases]
    found = summarise(y, v)
    assert found.spread**2 == pytest.approx(0.3181, abs=5e-5)
    assert found.mean == pytest.approx(-0.7150, abs=5e-4)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_the_intervals_hold_as_often_as_they_say(noise):
    """Eight units whose own variances are `noise` of what lies between them, on average; the next is measured like them."""
    rng, held, held_next, trials = np.random.default_rng(0), 0, 0, 1000
    for _ in range(trials):
        v = noise * rng.uniform(0.4, 1.6, size=8)
        found = summarise(rng.normal(0, np.sqrt(1 + v)), v)
        held += found.low <= 0 <= found.high
        of_next = rng.normal(0, np.sqrt(1 + rng.choice(v)))
        held_next += found.next_low <= of_next <= found.next_high
    assert 0.93 <= held / trials <= 0.98
    assert 0.93 <= held_next / trials <= 0.98


def rows_of(digits, **values):
    """Rows of `sa` on several digits; forgetting differs by digit."""
    rows = []
    for i, digit in enumerate(digits):
        row = result_row(concept=digit, overrides={"concept": i}, forget=0.01 + 0.01 * i, **values)
        (cell,) = resolve(["mnist_0"], ["sa"], "quick", sets=[f"task.concept={i}"])
        row["task_values"] |= {"concept": i, "relabel_to": cell.task.relabel_to}
        rows.append(row)
    return rows


def test_boards_that_differ_in_their_concept_alone_share_a_table():
    rows = rows_of(DIGITS)
    (table,) = make_concept_tables(make_boards(rows))
    assert table.concepts == DIGITS
    assert table.head[:4] == ("method", "concepts", "outcomes", "forget_top1")
    (row,) = table.rows
    texts = [text for text, _ in row]
    assert texts[:2] == ["sa", "5"]
    assert sum(int(count) for count in re.findall(r"\d+", texts[2])) == 5
    assert texts[3] == "3.2 %"  # of 1 to 5 %, each moved a little to the middle (Anscombe)
    assert ", another: " in row[3][1]
    assert row[5] == ("-1.00 nats", "-1.00 to -1.00, another: -1.00 to -1.00")
    text = markdown.render(rows)
    assert "## Over 5 concepts: mnist\\_0 · scale quick" in text
    assert text.index("Over 5 concepts") < text.index("## ", text.index("Over 5 concepts") + 5)
    assert "Over 5 concepts: mnist_0" in html.render(rows)


def test_another_protocol_or_too_few_concepts_make_no_table():
    assert make_concept_tables(make_boards(rows_of(DIGITS[:2]))) == []
    two = rows_of(DIGITS[:2])
    other = rows_of(DIGITS[2:3], scale="full")
    assert make_concept_tables(make_boards([*two, *other])) == []


def test_a_method_that_two_concepts_have_has_a_row_without_numbers():
    rows = [*rows_of(DIGITS), *rows_of(DIGITS[:2], method="relabel")]
    (table,) = make_concept_tables(make_boards(rows))
    by_method = {row[0][0]: row for row in table.rows}
    assert by_method["relabel"][1] == ("2", "")
    assert set(by_method["relabel"][3:]) == {("–", "")}


def test_a_value_that_is_no_rate_is_its_change_against_the_base_model():
    rows = rows_of(DIGITS)
    for i, row in enumerate(rows):
        declared = {"title": "Bits", "unit": "bits", "better": "higher"}
        keep = measurement("retain_log_likelihood", -90.0 - i, -88.0 - i, declared)
        row["measurements"] = [
            keep if m["name"] == "retain_log_likelihood" else m for m in row["measurements"]
        ]
    (table,) = make_concept_tables(make_boards(rows))
    assert table.rows[0][5] == ("-2 bits", "-2 to -2, another: -2 to -2")
