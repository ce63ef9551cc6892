"""One table of golden strings: every report shows a cell of a board by the same text."""

import re
from dataclasses import replace

import pytest
from result_rows import line, one, result_row
from sa_bench.reports import html, markdown, tables

from sa_bench.analysis import cell_text
from sa_bench.analysis.board import Endpoint
from sa_bench.analysis.tables import make_leaderboards
from sa_bench.analysis.wording import Notes
from sa_bench.commands import terminal

ROWS = [
    *[result_row(seed=s, keep=-94.0 + s) for s in range(2)],
    result_row("relabel", recovery=0.9),
    result_row("noise", recovery="too few images"),
    result_row("blank", forget=0.6),
    result_row("retrain", recovery=0.5),
    result_row("naive", error="no memory"),
]
FIELDS = ("rank", "outcome", "forget", "recovery", "keep", "cost", "runs")
KEPT = "-94.00 (-94.02 to -93.98)"
GOLDEN = {
    "sa": ("1", "ERASED", "1.0 % (1.0, 1.0)", "30.0 % (30.0, 30.0)", "-93.50 (-94.00, -93.00)", "2", "2"),
    "retrain": ("–", "FLOOR", "1.0 % (-1.0 to 3.0)", "50.0 % (48.0 to 52.0)", KEPT, "2", "1"),
    "relabel": ("–", "CONTROL", "1.0 % (-1.0 to 3.0)", "90.0 % (88.0 to 92.0)", KEPT, "2", "1"),
    "noise": ("–", "NOT SHOWN", "1.0 % (-1.0 to 3.0)", "n/a [1]", KEPT, "2", "1"),
    "blank": ("–", "NOT FORGOTTEN", "60.0 % (58.0 to 62.0)", "30.0 % (28.0 to 32.0)", KEPT, "2", "1"),
    "naive": ("–", "FAILED", "–", "–", "–", "–", "0, 1 failed"),
}  # fmt: skip


@pytest.mark.parametrize("method", GOLDEN)
def test_the_texts(method):
    board, notes = one(ROWS), Notes()
    row = line(board, method)
    endpoints = [cell_text.format_endpoint(row.endpoints.get(n), notes) for n in board.primary]
    if not row.cells:
        endpoints = [cell_text.DASH] * 3
    texts = (
        *(cell_text.mark_rank(row), row.outcome.word, *endpoints),
        *(cell_text.format_cost(row), cell_text.count_runs(row)),
    )
    assert dict(zip(FIELDS, texts, strict=True)) == dict(zip(FIELDS, GOLDEN[method], strict=True))


def cells_of(text, separator, method):
    """The cells of a method's row in a table that is text."""
    rows = [[cell.strip() for cell in row.split(separator)] for row in text.splitlines()]
    return next(
        row
        for row in rows
        if any(cell.split(" ")[0] == method for cell in row[:3]) and len(row) > 4
    )


@pytest.mark.parametrize("method", GOLDEN)
def test_markdown(method):
    _, outcome, forget, recovery, keep, cost, runs = GOLDEN[method]
    texts = [x.replace("\\", "") for x in cells_of(markdown.render(ROWS), " | ", method)]
    assert texts[2:6] == [outcome, forget, recovery, keep]
    assert [texts[-2], texts[-1].removesuffix(" |")] == [runs, cost]


@pytest.mark.parametrize("method", GOLDEN)
def test_the_terminal(method, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    terminal.print_boards(ROWS)
    rank, *values, keep, cost, runs = GOLDEN[method]
    texts = cells_of(capsys.readouterr().out, "│", method)
    assert texts[0] == rank
    assert texts[2:5] == values
    rows_are_missing = keep == cell_text.DASH
    assert texts[5] == (keep if rows_are_missing else f"{keep} nats")
    assert texts[7:] == [cost if rows_are_missing else f"{cost} s CPU", runs]


def test_a_narrow_terminal_shows_the_values_alone(capsys, monkeypatch):
    """And no word is broken."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal.print_boards(ROWS)
    rows = [row for row in capsys.readouterr().out.splitlines() if "│" in row]
    assert len(rows) == len({row["method"] for row in ROWS})
    assert cells_of("\n".join(rows), "│", "sa") == [
        *("1", "sa", "ERASED", "1.0 %", "30.0 %", "-93.50 nats")
    ]


@pytest.mark.parametrize("method", [name for name in GOLDEN if name != "naive"])
def test_latex(method):
    """A leaderboard leaves out what failed, and the notes below it say why a value is missing."""
    _, outcome, forget, recovery, keep, cost, _ = GOLDEN[method]
    titles = {
        "sa": "SA",
        "retrain": "Retrain",
        "relabel": "Relabel",
        "noise": "Noise",
        "blank": "Blank",
    }
    texts = cells_of(tables.latex(make_leaderboards(ROWS)), " & ", titles[method])
    numbers = [x.replace("\\%", "%").replace("n/a [1]", "n/a") for x in (*texts[1:5], texts[-1])]
    wanted = [
        x.replace("n/a [1]", "n/a") for x in (outcome, forget, recovery, keep, f"{cost} \\\\")
    ]
    plain = [x.removeprefix("\\textbf{").removesuffix("}").replace("$-$", "-") for x in numbers]
    assert plain == wanted


@pytest.mark.parametrize("method", GOLDEN)
def test_html(method):
    """There the interval is small print, as the value is where the change against the base is the number."""
    rank, outcome, *values, cost, _ = GOLDEN[method]
    page = html.render([row | {"folder": "/nowhere"} for row in ROWS])
    row = next(x for x in re.findall(r"<tr class=.*?</tr>", page, re.S) if f"<b>{method}</b>" in x)
    assert f">{rank}</td>" in row
    assert re.search(rf'<span class="pill [a-z-]+" title="[^"]+">{outcome}</span>', row)
    if method == "naive":
        assert "1 of 1 failed" in row
        return
    cells = re.findall(r'<td data-head="(?:still shown|comes back|kept|cost)".*?</td>', row, re.S)
    words = [re.sub(r"<.*?>", " ", cell).split() for cell in cells]
    kept = words.pop(2)
    value, _, interval = values.pop().partition(" (")
    assert kept[:4] == [f"{float(value) + 93:+.2f}", "nats", value, "nats,"]
    assert f"{interval.rstrip(')')}; n" in " ".join(kept)
    for text, wanted in zip(words, (*values, f"{cost} s CPU"), strict=True):
        start, _, interval = wanted.partition(" (")
        assert text[: len(start.split())] == start.split()
        assert interval.rstrip(")") in " ".join(text)


def test_the_number_of_ranks_is_no_column_while_nobody_is_ranked(capsys):
    rows = [row for row in ROWS if row["method"] != "retrain"]
    assert not any(x.rank for x in one(rows).lines)
    assert ">#</th>" not in html.render([row | {"folder": "/nowhere"} for row in rows])
    assert "| # |" not in markdown.render(rows)
    terminal.print_boards(rows)
    assert "# ┃" not in capsys.readouterr().out


def test_where_no_base_was_measured_the_value_is_the_number():
    known = Endpoint(2.5, 2.0, 3.0, 2.0, unit="nats")
    assert cell_text.format_against_base(known) == "+0.50 nats"
    assert cell_text.format_against_base(replace(known, base=None)) == "2.50 nats"
    assert (
        cell_text.format_against_base(Endpoint(0.5, 0.4, 0.6, 0.6, unit="rate")) == "-10.0 points"
    )
    assert cell_text.format_against_base(Endpoint(0.5, 0.4, 0.6, 0.6)) == "-0.1"


def test_a_note_that_the_sentence_quotes_is_not_listed_again():
    flag = "collapse: recall is 1 % of the base's"
    board = one(
        [result_row(seed=s, flags=[flag, "blank images"]) for s in range(3)]
        + [result_row("relabel")]
    )
    everywhere, notes = cell_text.list_notes(board)
    assert flag in line(board, "sa").sentence
    assert (everywhere, notes) == ([], [["blank images (3 runs)"], []])
