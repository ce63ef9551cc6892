"""Tables in a terminal: what fits is shown, and no word is broken."""

from pathlib import Path

import pytest
from result_rows import measurement, one, result_row

from sa_bench.analysis.ranking import make_boards
from sa_bench.commands import terminal
from sa_bench.commands.arguments import print_paragraphs
from sa_bench.commands.columns import narrowest_width, print_columns
from sa_bench.results.files import read_results

DATA = Path(__file__).parents[2] / "docs" / "data"
LONG = {"fisher.estimator": "stratified", "reduction": "mean"}
EVERYTHING = ["front", "cost", "runs"]


@pytest.fixture(scope="module")
def boards():
    rows = read_results([DATA / "micro-t2i-1.jsonl.xz"])
    return [*make_boards(rows), one([result_row("concept_ablation", fields=LONG), result_row()])]


def broken_cells(board, width, capsys):
    """Words of the board that stand in no row of its table whole; and the longest row."""
    columns, _ = terminal.endpoint_columns(board, width)
    print_columns(columns, width or 80, wide=width is None)
    rows = capsys.readouterr().out.splitlines()
    words = {word for column in columns for cell in column.cells for word in cell.split()}
    printed = {word for row in rows for word in row.replace("│", " ").split()}
    return columns, words - printed, max(map(len, rows))


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_word_is_broken(boards, width, capsys):
    for board in boards:
        columns, broken, longest = broken_cells(board, width, capsys)
        assert broken == set()
        assert longest <= width
        assert narrowest_width(columns) <= width


def test_a_wider_terminal_shows_more(boards):
    numbers = [len(terminal.endpoint_columns(boards[0], w)[0]) for w in (60, 80, 120, 160, 250)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[2] < numbers[-1]


def test_wide_shows_all_columns_in_rows_that_are_not_broken(boards, capsys):
    for board in boards:
        columns, broken, longest = broken_cells(board, None, capsys)
        assert [column.heading for column in columns][-3:] == EVERYTHING
        assert broken == set()
        assert longest > 80


def test_wide_reaches_the_tables(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [result_row(), result_row("relabel")]
    terminal.print_boards(rows)
    assert "front" not in capsys.readouterr().out
    terminal.print_boards(rows, wide=True)
    assert "front" in capsys.readouterr().out
    terminal.print_measurements(rows[0])
    assert "better" not in capsys.readouterr().out
    terminal.print_measurements(rows[0], wide=True)
    assert "better" in capsys.readouterr().out


def test_the_command_takes_wide(cli, monkeypatch):
    given = []
    monkeypatch.setattr(terminal, "print_boards", lambda results, wide: given.append(wide))
    monkeypatch.setattr("sa_bench.api.run_folder", lambda cells, **options: ([], "", ""))
    command = ["run", "--task", "mnist_0", "--method", "sa"]
    cli(*command, check=0)
    cli(*command, "--wide", check=0)
    assert given == [False, True]


def test_reasons_of_missing_measurements_stand_below_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    row = result_row()
    declared = {"title": "A score", "unit": "rate", "better": "lower"}
    row["measurements"] += [
        measurement(name, "no face was found", 0.1, declared) for name in ("a", "b")
    ]
    terminal.print_measurements(row)
    out = capsys.readouterr().out
    assert out.count("n/a [1]") == 2
    assert out.count("no face was found") == 1


def test_sentences_break_between_words_and_commands_stay_whole(capsys):
    text = "  " + "word " * 40 + "end\n\nMake it again: python -m sa_bench run " + "--set a=b " * 20
    print_paragraphs(text, 80)
    *sentence, empty, command = capsys.readouterr().out.splitlines()
    assert all(row.startswith("  word") or row == "  end" for row in sentence)
    assert max(map(len, sentence)) <= 80
    assert " ".join(sentence).split() == ["word"] * 40 + ["end"]
    assert (empty, command) == ("", text.splitlines()[-1])
    print_paragraphs(text, None)
    assert capsys.readouterr().out.splitlines() == text.splitlines()
