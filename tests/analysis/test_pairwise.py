"""Checkpoints differ, methods differ: two sentences, each with its own units."""

import lzma
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from result_rows import OTHERS, line, one, result_row
from scipy import stats

from sa_bench.analysis.pairwise import (
    BETTER,
    NOT_SHOWN,
    WORSE,
    Comparison,
    compare_all_pairs,
    compare_first,
    format_difference,
    make_matrix,
)
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import pack_results, read_results
from sa_bench.statistics import clustered, holm, over_bases


def rows(tmp_path, method, keep, scores, bases=3, seeds=3, **changes):
    """A line of runs; `keep(base, seed)` its retention, `scores(rng)` the scores of 200 images."""
    found = []
    for base in range(bases):
        for seed in range(seeds):
            folder = tmp_path / f"{method}-{base}-{seed}"
            (folder / "scores").mkdir(parents=True)
            values = scores(np.random.default_rng([base, seed]))
            pd.DataFrame({"score": values}).to_parquet(
                folder / "scores/retain_log_likelihood.parquet"
            )
            row = result_row(method, keep=keep(base, seed), base_seed=base, seed=seed, **changes)
            found.append(row | {"folder": str(folder)})
    return found


def test_a_difference_in_every_pair_is_both_sentences(tmp_path):
    a = rows(tmp_path, "sa", lambda b, s: -94 - b + 0.01 * s, lambda rng: rng.normal(1, 1, 200))
    less = lambda rng: rng.normal(1, 1, 200) - rng.normal(2, 0.1, 200)  # noqa: E731
    b = rows(tmp_path, "no_ewc", lambda b, s: -96 - b - 0.01 * b, less)
    found = {c.metric: c for c in compare_all_pairs(one([*a, *b, *OTHERS]))}
    kept = found["retain_log_likelihood"]
    assert (kept.a, kept.b, kept.runs, kept.bases, kept.pairs) == ("sa", "no_ewc", 9, 3, 9)
    assert kept.difference == pytest.approx(2.02)
    assert (kept.for_a, kept.for_b) == (9, 0)
    assert kept.low > 1.9
    assert kept.p < 0.01
    forget = found["forget_top1"]  # equal everywhere, and without scores
    assert (forget.difference, forget.p, forget.pairs) == (0.0, 1.0, 0)


def test_checkpoints_may_differ_where_the_methods_do_not(tmp_path):
    """Every base pulls another way: certain within each pair, nothing to say of a new base."""
    shift = {0: 3.0, 1: -3.0, 2: 0.5}
    a = rows(tmp_path, "sa", lambda b, s: -94 + shift[b], lambda rng: rng.normal(3, 1, 200))
    b = rows(
        tmp_path,
        "no_ewc",
        lambda b, s: -94,
        lambda rng: rng.normal(3, 1, 200) - rng.normal(1, 0.1, 200),
    )
    kept = {c.metric: c for c in compare_all_pairs(one([*a, *b, *OTHERS]))}["retain_log_likelihood"]
    assert kept.for_a == 9
    assert kept.low < 0 < kept.high
    assert kept.p > 0.5


def test_below_five_shared_runs_nothing_is_compared(tmp_path):
    made = [rows(tmp_path, m, lambda b, s: -94, lambda rng: rng.normal(0, 1, 20), bases=1, seeds=4)
            for m in ("sa", "no_ewc")]  # fmt: skip
    assert compare_all_pairs(one([*made[0], *made[1], *OTHERS])) == []


def test_collapsed_lines_are_compared_with_each_other_alone(tmp_path):
    def line(method, **how):
        return rows(tmp_path, method, lambda b, s: -94 - s, lambda rng: rng.normal(0, 1, 20), **how)

    flags = ["collapse: recall is 1 % of the base's"]
    board = one([*line("sa"), *line("no_ewc", seeds=2), *line("l2", seeds=1), *line("naive", flags=flags),
                 *line("no_gr", flags=flags)])  # fmt: skip
    pairs = {frozenset((c.a, c.b)): (c.runs, c.bases) for c in compare_all_pairs(board)}
    assert pairs == {frozenset(("sa", "no_ewc")): (6, 3), frozenset(("naive", "no_gr")): (9, 3)}


def test_one_base_model_says_nothing_of_another():
    difference, low, high, p = over_bases({0: [1.0, 1.2, 0.8, 1.1, 0.9]})
    expected = stats.ttest_1samp([1.0, 1.2, 0.8, 1.1, 0.9], 0)
    assert difference == pytest.approx(1.0)
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(expected.confidence_interval())


@pytest.mark.parametrize(
    ("runs", "p"),
    [
        ({0: [-0.01] * 5}, None),
        ({0: [0.1, 0.3], 1: [0.3, 0.1], 2: [0.2, 0.2]}, None),
        ({0: [0.0] * 8}, 1.0),
    ],
)
def test_a_spread_that_was_not_seen_is_not_none(runs, p):
    """It gave an interval of no width, and p = 0 where all runs differ alike."""
    assert over_bases(runs)[1:] == (None, None, p)


def test_the_interval_over_bases_covers_another_base():
    """3 bases x 8 seeds, both with a spread of their own: 95 % of the intervals hold the true difference."""
    rng, hits, n = np.random.default_rng(0), 0, 2000
    for _ in range(n):
        bases = rng.normal(1.0, 0.5, 3)
        _, low, high, _ = over_bases({b: rng.normal(bases[b], 1.0, 8) for b in range(3)})
        hits += low <= 1.0 <= high
    assert 0.94 < hits / n < 0.96
    pooled = 0  # what a t test over all 24 runs would do
    for _ in range(n):
        d = (rng.normal(1.0, 0.5, 3)[:, None] + rng.normal(0, 1.0, (3, 8))).ravel()
        half = stats.t.ppf(0.975, 23) * d.std(ddof=1) / 24**0.5
        pooled += abs(d.mean() - 1.0) <= half
    assert pooled / n < 0.85


def test_holm_is_the_textbook_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([None, 0.01]) == [None, 0.01]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_difference_of_small_values_shows_its_digits():
    """A loss of 0.004 stood as 0.00 in tables and verdicts, and beside it 0.00 to 0.01."""
    found = format_difference(0.0042, 0.0031, 0.0053, "MSE")
    assert found == "+0.00420 MSE (95 %: 0.00310 to 0.00530)"
    found = format_difference(-0.0692, -0.103, -0.0351, "bits/dim")
    assert found == "-0.069 bits/dim (95 %: -0.103 to -0.035)"
    assert format_difference(0.7, 0.2, 1.19, "bits/dim") == "+0.70 bits/dim (95 %: 0.20 to 1.19)"
    assert format_difference(2.1, 1.8, 2.4, "nats") == "+2.10 nats (95 %: 1.80 to 2.40)"
    assert format_difference(0.021, None, None, "rate") == "+2.1 points"


def test_paired_tests_by_kind_of_score():
    a, b = np.array([1.0] * 8 + [0.0] * 12), np.array([0.0] * 20)
    assert clustered.paired(a, b).p == pytest.approx(2 * 0.5**8)  # McNemar, exact
    assert clustered.paired(a, a).p == 1.0
    x, y = np.array([1.0, 2.5, 3.0, 4.2]), np.array([0.5, 2.0, 2.0, 3.0])
    expected = stats.ttest_rel(x, y)
    assert clustered.paired(x, y).p == pytest.approx(expected.pvalue)
    found = clustered.paired(x, y)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    # equal differences show no spread, but a common sign: 2 / 2⁴
    assert clustered.paired(x, x + 1).p == pytest.approx(0.125)


def test_packed_results_say_the_same_without_their_folders(tmp_path):
    a = rows(tmp_path, "sa", lambda b, s: -94 - b + 0.01 * s, lambda rng: rng.normal(3, 1, 200))
    b = rows(tmp_path, "no_ewc", lambda b, s: -96 - b - 0.01 * b, lambda rng: rng.normal(2, 1, 200))
    file = tmp_path / "board.jsonl.xz"
    file.write_bytes(pack_results([*a, *b]))
    again = read_results([file])
    assert all(row["folder"] == "" for row in again)
    before, after = (compare_all_pairs(one(found)) for found in ([*a, *b], again))
    assert [c.__dict__ for c in before] == [c.__dict__ for c in after]
    assert sum(c.pairs for c in after) > 0


@pytest.mark.parametrize(
    "content", [b"", b"not xz", lzma.compress(b"[1]\n"), lzma.compress(b'{"schema": 99}\n')]
)
def test_a_damaged_packed_file_is_named(tmp_path, content):
    (tmp_path / "x.jsonl.xz").write_bytes(content)
    with pytest.raises(SaBenchError, match=r"x\.jsonl\.xz"):
        read_results([tmp_path / "x.jsonl.xz"])
    with pytest.raises(SaBenchError, match=r"y\.jsonl\.xz"):
        read_results([tmp_path / "y.jsonl.xz"])


def test_a_matrix_says_of_every_pair_which_side_is_better(tmp_path):
    a = rows(tmp_path, "sa", lambda b, s: -94 - b + 0.01 * s, lambda rng: rng.normal(1, 1, 200))
    b = rows(tmp_path, "no_ewc", lambda b, s: -96 - b - 0.01 * b, lambda rng: rng.normal(1, 1, 200))
    alone = [result_row("esd", keep=-94.0)]
    board = one([*a, *b, *alone, *OTHERS])
    pairs, left_out = compare_first(board)
    matrix = make_matrix(board, pairs)
    assert (sorted(matrix.labels), left_out) == (["no_ewc", "sa"], 0)  # esd shares one run
    (first, second) = (matrix.cells[pair] for pair in (("sa", "no_ewc"), ("no_ewc", "sa")))
    assert [sign for sign, _ in first] == [NOT_SHOWN, NOT_SHOWN, BETTER]
    assert [sign for sign, _ in second] == [NOT_SHOWN, NOT_SHOWN, WORSE]
    assert "sa − no_ewc is +2.02 nats" in first[2][1]
    assert "no_ewc − sa is -2.02 nats (95 %: -2.0" in second[2][1]
    assert second[2][1].endswith("9 runs on 3 bases")
    assert set(matrix.cells) == {("sa", "no_ewc"), ("no_ewc", "sa")}


def test_less_is_better_where_the_metric_says_so():
    lower = Comparison("kid", None, "lower", "a", "b", -1.0, -2.0, -0.5, 0.01, 9, 3, 0, 0, 0)
    board = one([result_row("a"), result_row("b")])
    matrix = make_matrix(board, [lower])
    assert matrix.cells["a", "b"][0][0] == BETTER
    assert matrix.cells["b", "a"][0][0] == WORSE
    for unclear in (replace(lower, p=0.05), replace(lower, p=None), replace(lower, better=None)):
        assert {cell[0][0] for cell in make_matrix(board, [unclear]).cells.values()} == {NOT_SHOWN}


def test_of_more_methods_than_fit_those_on_the_front_are_compared(monkeypatch):
    monkeypatch.setattr("sa_bench.analysis.pairwise.MATRIX", 2)
    runs = [
        result_row(method, keep=keep - 0.1 * s, forget=forget, seed=s)
        for method, keep, forget in (("a", -99.0, 0.03), ("b", -98.0, 0.02), ("c", -94.0, 0.0))
        for s in range(5)
    ]
    board = one([*runs, *OTHERS])
    on_front = {line.label for line in board.lines if line.front}
    pairs, left_out = compare_first(board)
    assert left_out == 1
    assert on_front == {"c"}
    assert "c" in {label for pair in pairs for label in (pair.a, pair.b)}
    assert len({label for pair in pairs for label in (pair.a, pair.b)}) == 2


def test_several_draws_of_one_model_are_one_run():
    """Five draws of one checkpoint's images were five seeds, so that a p was said to hold for another seed."""
    from sa_bench.analysis.pairwise import differences_by_base

    def draws(method, keep):
        rows = [result_row(method, keep=keep + 0.1 * i) for i in range(5)]
        return [
            {**row, "task_values": {**row["task_values"], "sample_seed": i}}
            for i, row in enumerate(rows)
        ]

    board = one([*draws("sa", -94.0), *draws("l2", -95.0), *OTHERS])
    found = differences_by_base("retain_log_likelihood", line(board, "sa"), line(board, "l2"))
    assert {base: len(values) for base, values in found.items()} == {0: 1}
    assert found[0][0] == pytest.approx(1.0)
