"""One table of golden strings: every report shows a cell of a board by the same text."""

import re

import pytest
from result_rows import line, one, result_row
from sa_bench.reports import html, markdown, tables

from sa_bench.analysis import cell_text
from sa_bench.analysis.tables import make_leaderboards
from sa_bench.analysis.wording import Notes
from sa_bench.commands import terminal

ROWS = [
    *[result_row(seed=s, keep=-94.0 + s) for s in range(2)],
    result_row("relabel", recovery=0.9),
    result_row("noise", recovery="too few images"),
    result_row("blank", forget=0.6),
    result_row("retrain"),
    result_row("naive", error="no memory"),
]
FIELDS = ("rank", "forgotten", "forget", "recoverable", "recovery", "keep", "cost", "runs")
KEPT = "-94.00 (-94.02 to -93.98)"
GOLDEN = {
    "sa": ("1", "yes", "1.0 % (1.0, 1.0)", "unclear", "30.0 % (30.0, 30.0)", "-93.50 (-94.00, -93.00)", "2", "2"),
    "retrain": ("–", "–", "1.0 % (-1.0 to 3.0)", "floor", "30.0 % (28.0 to 32.0)", KEPT, "2", "1"),
    "noise": ("–", "yes", "1.0 % (-1.0 to 3.0)", "unknown", "n/a [1]", KEPT, "2", "1"),
    "blank": ("–", "no", "60.0 % (58.0 to 62.0)", "unclear", "30.0 % (28.0 to 32.0)", KEPT, "2", "1"),
    "naive": ("–", "–", "–", "–", "–", "–", "–", "0, 1 failed"),
}  # fmt: skip


@pytest.mark.parametrize("method", GOLDEN)
def test_the_texts(method):
    board, notes = one(ROWS), Notes()
    row = line(board, method)
    endpoints = [cell_text.format_endpoint(row.endpoints.get(n), notes) for n in board.primary]
    if not row.cells:
        endpoints = [cell_text.DASH] * 3
    texts = (cell_text.mark_rank(row), cell_text.mark_forgotten(row), endpoints[0],
             cell_text.mark_recoverable(row), *endpoints[1:], cell_text.format_cost(row),
             cell_text.count_runs(row))  # fmt: skip
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
    _, _, forget, recoverable, recovery, keep, cost, runs = GOLDEN[method]
    texts = [x.replace("\\", "") for x in cells_of(markdown.render(ROWS), " | ", method)]
    assert texts[2:6] == [forget, recovery, keep, recoverable]
    assert [texts[-2], texts[-1].removesuffix(" |")] == [runs, cost]


@pytest.mark.parametrize("method", GOLDEN)
def test_the_terminal(method, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    terminal.print_boards(ROWS)
    rank, forgotten, forget, recoverable, recovery, keep, cost, runs = GOLDEN[method]
    if rows_are_missing := keep == cell_text.DASH:
        forget = recovery = ""
    texts = cells_of(capsys.readouterr().out, "│", method)
    assert texts[0] == rank
    assert texts[2:4] == [f"{forgotten}  {forget}".strip(), f"{recoverable}  {recovery}".strip()]
    assert texts[4] == (keep if rows_are_missing else f"{keep} nats")
    assert texts[6:] == [cost if rows_are_missing else f"{cost} s CPU", runs]


@pytest.mark.parametrize("method", [name for name in GOLDEN if name != "naive"])
def test_latex(method):
    """A leaderboard leaves out what failed, and the notes below it say why a value is missing."""
    _, _, forget, _, recovery, keep, cost, _ = GOLDEN[method]
    texts = cells_of(tables.latex(make_leaderboards(ROWS)), " & ", method)
    numbers = [x.replace("\\%", "%").replace("n/a [1]", "n/a") for x in (*texts[1:4], texts[-1])]
    wanted = [x.replace("n/a [1]", "n/a") for x in (forget, recovery, keep, f"{cost} \\\\")]
    assert [x.removeprefix("\\textbf{").removesuffix("}") for x in numbers] == wanted


@pytest.mark.parametrize("method", GOLDEN)
def test_html(method):
    """There the interval is small print, and the words of the mark are coloured."""
    rank, forgotten, forget, recoverable, recovery, keep, cost, _ = GOLDEN[method]
    page = html.render([row | {"folder": "/nowhere"} for row in ROWS])
    row = next(x for x in re.findall(r"<tr class=.*?</tr>", page, re.S) if f"<b>{method}</b>" in x)
    assert f">{rank}</td>" in row
    if method == "naive":
        assert "1 of 1 failed" in row
        return
    cells = re.findall(
        r'<td data-head="(?:forgotten\?|recoverable\?|kept|cost)".*?</td>', row, re.S
    )
    words = [re.sub(r"<.*?>", " ", cell).split() for cell in cells]
    marks = [forgotten if forgotten != "–" else "", recoverable, "", ""]
    for text, mark, wanted in zip(
        words, marks, (forget, recovery, keep, f"{cost} s CPU"), strict=True
    ):
        start = (
            [*mark.split(), *wanted.partition(" (")[0].split()]
            if "n/a" not in wanted
            else wanted.split()
        )
        assert text[: len(start)] == start
        interval = wanted.partition(" (")[2].rstrip(")")
        assert interval in " ".join(text)


def test_what_cannot_be_claimed_is_neither_yes_nor_no():
    row = line(one(ROWS), "sa")
    row.forgotten = None
    assert cell_text.mark_forgotten(row) == "?"
