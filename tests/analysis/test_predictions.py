"""Predictions are frozen before a board is run, and judged by its own bounds."""

import hashlib
from pathlib import Path

import pytest
from command_line import call_main
from result_rows import OTHERS, one, result_row

from sa_bench.analysis.predictions import (
    Prediction,
    describe_judged,
    describe_orders,
    describe_unknown,
    judge_prediction,
    load_predictions,
)
from sa_bench.analysis.ranking import make_boards
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import read_results

DOCS = Path(__file__).parents[2] / "docs"
FILE = DOCS / "predictions.toml"
FROZEN = "40d28e5b7f5206f0f6274ac10fe4f81b1eeb93578111402789e93a75e9011d20"
"""sha256 of the predictions: whoever changes one after the boards were run changes this line too."""
SUITES = ("micro-2", "micro-ddpm-2", "micro-t2i-2")


def test_the_predictions_are_those_that_were_written_down():
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == FROZEN


def test_the_page_lists_every_prediction():
    text = (DOCS / "predictions.md").read_text()
    assert "\n".join(describe_orders(load_predictions(FILE))) in text
    assert FROZEN in text


def test_the_page_says_which_held_on_the_boards_that_were_run():
    """Whoever runs a board puts the table that this prints on the page."""
    files = [DOCS / "data" / f"{name}.jsonl.xz" for name in SUITES]
    boards = make_boards(read_results([file for file in files if file.exists()]))
    table = "\n".join(describe_judged(load_predictions(FILE), boards))
    assert table in (DOCS / "predictions.md").read_text(), table


def test_every_method_task_and_metric_is_one_of_ours():
    methods = {entry.name for entry in registry.list_entries("method")}
    metrics = {entry.name for entry in registry.list_entries("metric")}
    for prediction in load_predictions(FILE):
        assert {name for group in prediction.order for name in group} <= methods
        assert prediction.metric in metrics
        registry.get_task(prediction.task)


def test_a_pair_holds_only_where_the_board_shows_it():
    """sa .30 and retrain .45 overlap for another base; both are far below relabel's .80."""
    board = one([result_row(recovery=(0.42, 0.36, 0.49)), *OTHERS])
    judged = judge_prediction(
        Prediction("mnist_0", "recovery", (("relabel",), ("sa", "retrain"), ("original",))), board
    )
    assert set(judged.reversed) == {("relabel", "sa"), ("relabel", "retrain")}
    assert {("sa", "original"), ("retrain", "original")} <= set(judged.held)
    close = judge_prediction(Prediction("mnist_0", "recovery", (("sa",), ("retrain",))), board)
    assert close.undecided == (("sa", "retrain"),)
    absent = judge_prediction(Prediction("mnist_0", "recovery", (("esd",), ("sa",))), board)
    assert (absent.missing, absent.held, absent.undecided) == (("esd",), (), ())


def test_a_method_named_twice_is_refused(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(
        '[[prediction]]\ntask = "mnist_0"\nmetric = "recovery"\norder = [["sa"], ["sa"]]\n'
    )
    with pytest.raises(SaBenchError, match="sa is there twice"):
        load_predictions(file)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "order = [",
        "[[other]]",
        '[[prediction]]\ntask = "mnist_0"',
        '[[prediction]]\ntask = "mnist_0"\nmetric = "recovery"\norder = ["sa", "esd"]',
    ],
)
def test_a_file_that_is_no_predictions_is_told_in_one_line(text, tmp_path):
    file = tmp_path / "p.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SaBenchError, match="cannot be read as predictions") as told:
        load_predictions(file)
    assert "\n" not in str(told.value)


def test_the_command_lists_predictions_with_their_hash_and_says_which_held(tmp_path):
    listed = call_main("predictions", FILE, store=tmp_path, cwd=tmp_path).stdout
    assert listed.startswith(f"sha256 {FROZEN}")
    assert "- `mnist_0`, `recovery`: retrain < relabel, no_ewc < sa, l2 < original" in listed
    board = DOCS / "data" / "micro-2.jsonl.xz"
    judged = call_main("predictions", FILE, board, store=tmp_path, cwd=tmp_path).stdout
    assert "| `mnist_0` | `recovery` |" in judged
    assert "| `mnist_0_ddpm` | `recovery` | not run yet | | | | |" in judged


def test_a_name_that_the_suite_does_not_have_is_said_before_the_file_is_frozen():
    own = Prediction("mnist_0", "recovry", (("drift", "retrain"), ("original",)))
    assert describe_unknown([own]) == [
        "`recovry` is no metric of this suite: your own, or did you mean recovery?",
        "`drift` is no method of this suite: your own?",
    ]
    assert describe_unknown(load_predictions(FILE)) == []


def test_the_table_says_what_became_of_each_prediction():
    board = one([result_row(recovery=(0.42, 0.36, 0.49)), *OTHERS])
    predictions = [
        Prediction("mnist_0", "recovery", (("relabel",), ("sa", "esd"), ("original",))),
        Prediction("mnist_0_ddpm", "recovery", (("sa",), ("original",))),
    ]
    _, _, first, second = describe_judged(predictions, [board])
    assert first == "| `mnist_0` | `recovery` | 2 | 1 | 0 | relabel < sa | esd |"
    assert second == "| `mnist_0_ddpm` | `recovery` | not run yet | | | | |"


def test_values_that_are_no_rates_are_judged_by_paired_differences_of_base_models():
    """Two rows whose values differ by 1.0 on each of three bases, though bases differ by ten times that."""
    rows = []
    for base in range(3):
        for method, more in (("sa", 0.0), ("esd", 1.0 + base / 50)):
            keep = -90.0 + 10 * base + more
            rows.append(result_row(method, keep=(keep, keep - 5, keep + 5), base_seed=base))
    board = one(rows)
    expected = Prediction("mnist_0", "retain_log_likelihood", (("sa",), ("esd",)))
    assert judge_prediction(expected, board).held == (("sa", "esd"),)
    reverse = Prediction("mnist_0", "retain_log_likelihood", (("esd",), ("sa",)))
    assert judge_prediction(reverse, board).reversed == (("esd", "sa"),)
    alone = one([row for row in rows if row["base_seed"] == 0])
    assert judge_prediction(expected, alone).undecided == (("sa", "esd"),)
