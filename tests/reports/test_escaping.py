"""Hostile text in every field of a result, through every format that is written: shown, never obeyed."""

import copy
import csv
import io
import re

import pytest
from markupsafe import Markup
from result_rows import RETRAIN, result_row
from sa_bench.reports import html, markdown, tables

from sa_bench.analysis.tables import make_leaderboards
from sa_bench.commands import export, terminal
from sa_bench.core import escaping
from sa_bench.core.errors import SaBenchError
from sa_bench.results.rows import to_json
from sa_bench.results.untrusted import require_plain

EVIL = "=1+1<img src=x onerror=evil()>\x1b[31m[/red]\u202e|`a`\n```\n</script>"
NAMES = {
    "name",
    "primary",
    "scale",
    "status",
    "standing",
    "task",
    "classes",
    "metric",
    "judge",
    "metrics",
    "family",
    "ledger",
}
"""Fields whose values are looked up: another value there is another row, or a refusal."""


def texts(value, path=()):
    """The path of every text in a result, keys of its open tables (marked by None at the end) among them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, (*path, key))
        if path and path[-1] in ("fields", "versions", "extra", "assets"):
            yield (*path, None)
    elif isinstance(value, list):
        for i, inner in enumerate(value[:2]):
            yield from texts(inner, (*path, i))
    elif isinstance(value, str) or (value is None and path[0] != "task_values"):
        yield path


def placed(row, path):
    row = copy.deepcopy(row)
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    inner[EVIL if path[-1] is None else path[-1]] = EVIL
    return row


ROW = result_row(folder="", fields={"lam": 1, "text": "plain"}, flags=["a flag"])
ROW["measurements"][0]["judges"] = [{"judge": "judge-mnist", "value": 0.5, "low": 0.4, "high": 0.6}]
OTHER = RETRAIN | {"folder": ""}
FAILED = result_row("l2", error="it broke", folder="")
SHOWN = [
    ("task_title",), ("method",), ("concept",), ("summary",), ("flags", 0), ("error",), ("fields", "text"),
    ("measurements", 0, "better"), ("measurements", 0, "unit"), ("measurements", 0, "title"),
    ("measurements", 0, "reason"), ("measurements", 0, "n_unit"), ("measurements", 0, "source"),
    ("provenance", "command"), ("provenance", "cell_command"), ("provenance", "hardware", "cpu"),
    ("provenance", "versions", "torch"), ("provenance", "precision", "forgetting"), ("cost", "forget", "device"),
]  # fmt: skip
"""Fields that are shown somewhere: the walk must come through them."""


def written(row):
    """Every text that is written of a result, by format."""
    rows = [row, OTHER]
    yield "markdown", markdown.render(rows)
    yield "markdown", markdown.render([row])
    yield "html", html.render(rows)
    found = make_leaderboards(rows)
    yield "csv", tables.comma_separated(found)
    yield "markdown", tables.markdown(found)
    yield "html", tables.page(found)
    yield "latex", tables.latex(found)
    yield "markdown", "\n".join(export.model_card(row)) if row["status"] == "done" else ""


def outside_code(text):
    """Markdown without its blocks of code; each must end where it began."""
    kept, fence = [], ""
    for line in text.split("\n"):
        run = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif run and line == run[0]:
            fence = line
        else:
            kept.append(line)
    assert not fence
    return "\n".join(kept)


def check(kind, text, where):
    assert not escaping.find_steering_characters(text), where
    if kind == "html":
        assert "<img src=x" not in text, where
    if kind == "markdown":
        shown = outside_code(text)
        assert "<img" not in shown, where
        assert "```" not in shown, where
    if kind == "csv":
        for line in csv.reader(io.StringIO(text)):
            numbers = [cell for cell in line if re.fullmatch(r"[-0-9.e+ ]*", cell)]
            assert not [c for c in line if c.startswith(escaping.FORMULA) and c not in numbers], (
                where
            )


@pytest.mark.parametrize("row", [ROW, FAILED], ids=["done", "failed"])
def test_hostile_text_in_any_field_is_shown_in_every_format_and_obeyed_in_none(
    row, capsys, monkeypatch
):
    paths = [p for p in texts(row) if not NAMES & set(map(str, p)) or p in SHOWN]
    assert row is FAILED or set(SHOWN) <= set(paths)
    refused, seen = {}, set()
    for path in dict.fromkeys(paths if row is ROW else [("error",), ("provenance", "command")]):
        hostile = placed(row, path)
        try:
            for kind, text in written(hostile):
                check(kind, text, (kind, path))
                seen |= {path} if "evil()" in text else set()
            terminal.print_boards([hostile, OTHER])
            terminal.print_measurements(hostile)
        except SaBenchError as error:
            refused[path] = error
        assert not escaping.find_steering_characters(capsys.readouterr().out), path
    assert not refused
    if row is ROW:
        assert {
            ("task_title",),
            ("concept",),
            ("measurements", 0, "better"),
            ("provenance", "command"),
        } <= seen


def test_rich_takes_no_name_for_its_own_markup(capsys):
    with terminal.Live() as live:
        live.titles = {"1": "[/red] [bold]x"}
        live.update("a-1", "[/red]\x1b", 1, 2)
        live.finish(result_row(cell="1", method="[/red]", error="[/nothing]\x1b[0m"))
    said = capsys.readouterr().err
    assert "[/nothing]\\x1b[0m" in said
    assert "\x1b" not in said


def test_letters_of_all_scripts_stay_and_what_steers_is_written_out():
    for text in (
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d🔬",
        "naïve — “x”",
        "北京\u3000東",
        "a\u00a0b",
        "tab\tand\nline",
    ):
        assert escaping.make_visible(text) == text
        require_plain({text: [text]})
    for letter in "\x00\x07\x1b\x7f\x9b\u202a\u202e\u2066\u2069\u2028\ufeff\ud800\r":
        assert escaping.make_visible(f"a{letter}b").isprintable()
        with pytest.raises(ValueError, match="control characters"):
            require_plain([f"a{letter}b"])


def test_a_cell_that_a_spreadsheet_would_compute_begins_with_an_apostrophe():
    for text in ("=1", "+1", "-x", "@x", "\tx", "  =1", "＝1"):
        assert escaping.escape_spreadsheet(text).startswith("'")
    for text in ("sa lam=3", "", "a-b", "–", "1"):
        assert escaping.escape_spreadsheet(text) == text


def test_a_fence_is_longer_than_any_in_it_and_a_paragraph_is_no_list():
    assert escaping.fence_code(["a", "```\nb", "`````"]) == [
        "``````",
        "a",
        "```",
        "b",
        "`````",
        "``````",
    ]
    assert [escaping.escape_paragraph(t)[:1] for t in ("- a", "+ a", "= a", "# a")] == ["\\"] * 4
    assert not re.match(r"\d+[.)]", escaping.escape_paragraph("1. a"))
    assert escaping.escape_markdown("~~a~~ $b$ <b>") == "\\~\\~a\\~\\~ \\$b\\$ &lt;b&gt;"
    assert html._finalize(Markup("<b>\x1b</b>")) == Markup("<b>\\x1b</b>")
    assert isinstance(html._finalize(Markup("x")), Markup)


@pytest.mark.parametrize(
    "command",
    ["python -m sa_bench_evil", "python -m sa_bench.evil run", "python -m sa_bench run; x"],
)
def test_a_command_to_be_repeated_is_one_of_this_suite(command):
    from sa_bench.results.untrusted import Differs, validate_result

    row = result_row()
    row["provenance"]["command"] = command
    with pytest.raises(Differs, match="is none of sa_bench"):
        validate_result(to_json(row).encode(), "x")
