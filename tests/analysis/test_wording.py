"""The words of a board: headline, sentences, verdicts, and what the terminal shows."""

import pytest
from result_rows import (
    ORIGINAL,
    OTHERS,
    RELABEL,
    RETRAIN,
    line,
    measurement,
    on_bases,
    one,
    result_row,
)

from sa_bench.commands.terminal import print_boards, print_measurements
from sa_bench.results.format import format_percent


def test_a_board_without_controls_says_how_to_add_them():
    assert "add --method original,relabel" in one([result_row(), RETRAIN]).headline
    assert "add --method original" not in one([result_row(), *OTHERS]).headline


def test_without_retrain_nothing_is_ranked_and_the_headline_says_what_to_add():
    board = one([result_row(), ORIGINAL, RELABEL])
    assert line(board, "sa").recoverable == "unknown"
    assert all(x.rank is None for x in board.lines)
    assert "sa forgot zero" in board.headline
    assert "add --method retrain" in board.headline
    assert "wins" not in board.headline


def test_a_retrain_row_without_recovery_is_named_instead_of_asked_for():
    board = one([result_row(), result_row("retrain", recovery="no data"), ORIGINAL, RELABEL])
    assert "retrain has no recovery value" in board.headline
    assert "add --method retrain" not in board.headline


def test_failed_cells_are_counted_and_say_why():
    board = one(
        [
            result_row(),
            result_row(seed=1, error="disk full"),
            result_row("esd", error="no GPU"),
            *OTHERS,
        ]
    )
    assert "1 of 2 cells failed: disk full" in line(board, "sa").sentence
    assert line(board, "esd").sentence == "Failed: no GPU"
    assert line(board, "esd").outcome.word == "FAILED"
    assert line(board, "esd").rank is None


def test_a_board_of_failures_only_has_no_answer():
    board = one([result_row(error="boom"), result_row("retrain", error="boom")])
    assert board.headline.startswith("No answer: sa failed.")


def test_the_headline_says_who_won_and_why():
    rows = [result_row(recovery=(0.3, 0.28, 0.32)), result_row("esd", keep=-99.0), *OTHERS]
    text = one(on_bases(rows)).headline
    assert (
        "On the rest esd cannot be told from it: one run shows nothing of another."
        in one(rows).headline
    )
    assert text.startswith(
        "sa wins: it forgot zero; 30.0 % comes back once its condition alone is refitted in 100 steps of 100 images, "
        "no more than the 45.0 % of a model that never saw it; the rest: "
        "1.00 nats worse than in the base (-94.00 against -93.00)."
    )


def excess_row(method, excess, seed):
    """A row of a board without a judge of c_f, whose recovery is a loss above the base's."""
    row = result_row(method, seed=seed)
    declared = {"title": "Loss above the base's", "unit": "MSE", "better": "higher"}
    row["measurements"][1] = measurement(
        "recovery_excess", (excess, excess - 0.001, excess + 0.001), declared=declared
    )
    row["task_values"]["primary"] = ["forget_top1", "recovery_excess", "retain_log_likelihood"]
    return row


@pytest.mark.parametrize(
    ("values", "word", "starts"),
    [
        ((0.004, -0.003, 0.011), "NOT SHOWN", "Nobody can be ranked: sa (NOT SHOWN: loss"),
        ((-0.004, -0.005, -0.003), "HIDDEN", "Nobody wins: sa hid zero"),
        ((0.030, 0.034, 0.032), "NOT SHOWN", "sa leads: it forgot zero"),
        (
            (0.030,),
            "NOT SHOWN",
            "Nobody can be ranked: sa (NOT SHOWN: loss 0.03 above the base's in one",
        ),
    ],
)
def test_the_headline_says_of_a_loss_what_its_row_says(values, word, starts):
    """At 0.004 (-0.003 to 0.011) the row had NOT SHOWN and the headline: sa hid zero."""
    board = one([excess_row("sa", value, seed) for seed, value in enumerate(values)])
    assert line(board, "sa").outcome.word == word
    assert board.headline.startswith(starts)


def test_nobody_wins_by_a_difference_within_the_interval():
    rows = [
        result_row("a", keep=(-94.0, -96.0, -92.0)),
        result_row("b", keep=(-95.0, -97.0, -93.0)),
    ]
    text = one(on_bases([*rows, *OTHERS], apart=1.0)).headline
    assert text.startswith("a leads")
    assert "b cannot be told from it: intervals overlap" in text


def test_the_headline_names_those_who_hid_the_concept_and_the_least_that_comes_back():
    text = one([result_row(recovery=0.9), result_row("esd", recovery=0.7), *OTHERS]).headline
    assert text.startswith(
        "Nobody wins: sa, esd hid zero without erasing it — at least 70.0 % of the images"
    )


def test_no_method_forgetting_is_said_with_the_best_rate_and_chance():
    text = one([result_row(forget=0.5), result_row("esd", forget=0.34), *OTHERS]).headline
    assert "34.0 % of the images are still judged so with esd, the best; chance is 10.0 %" in text


def test_controls_alone_ask_for_a_method():
    assert one(OTHERS).headline.startswith("Only controls and references so far: add a method.")


def test_the_terminal_shows_names_with_brackets_and_reasons(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    row = result_row("[bold]sa", keep="no model here", seed=1)
    row["measurements"].append(
        measurement("fid[judge-mnist]", 7.0, 1.0, {"title": "FID", "unit": None, "better": "lower"})
    )
    print_boards([row, result_row("[bold]sa", error="boom"), *OTHERS])
    print_measurements(row)
    out = capsys.readouterr().out
    rows = [text for text in out.splitlines() if "│" in text]
    assert any(
        text.startswith("[bold]sa") and "n/a [1]" in text and "1, 1 failed" in text for text in rows
    )
    assert "[1] no model here" in out
    assert any(text.startswith("fid[judge-mnist]") for text in rows)
    assert "[control]" in out


def test_a_collapsed_model_is_not_ranked_and_says_so():
    board = one([result_row(flags=["collapse: recall 0.00"]), *OTHERS])
    assert line(board, "sa").rank is None
    assert line(board, "sa").outcome.word == "COLLAPSED"
    assert "collapse: recall 0.00" in line(board, "sa").sentence
    assert board.headline.startswith(
        "Nobody can be ranked: sa forgot zero and nearly everything else with it (collapsed)."
    )


def test_the_headline_does_not_count_what_collapsed_among_those_that_hid_the_concept():
    rows = [
        result_row(recovery=0.9),
        result_row("esd", recovery=0.9, flags=["collapse: recall 0.00"]),
    ]
    assert one([*rows, *OTHERS]).headline.startswith("Nobody wins: sa hid zero without erasing it")


def test_too_few_images_are_said_to_be_too_few_and_not_a_failure_to_forget():
    board = one([result_row(forget=(0.0, 0.0, 0.138)), *OTHERS])
    assert line(board, "sa").sentence.startswith("NOT SHOWN: at most ")
    bound = format_percent(line(board, "sa").endpoints["forget_top1"].bounds[1])
    told = f"for another base and seed it may be up to {bound}, and chance is 10.0 %; more images, seeds or bases would tell"
    assert told in board.headline
    kept = one([result_row(forget=0.9), *OTHERS])
    assert line(kept, "sa").sentence.startswith("NOT FORGOTTEN: at least ")
    assert "No method here made the model forget" in kept.headline
