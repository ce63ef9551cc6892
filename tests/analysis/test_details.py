"""What stands beside a metric: the declared tables of `extra` in both reports and in `explain`, the rest hidden."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from result_rows import OTHERS, line, measurement, one, result_row
from sa_bench.reports import html, markdown

from sa_bench.analysis.details import details_table, extra_numbers
from sa_bench.commands.explain import explain
from sa_bench.core import declarations, registry
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import read_results
from sa_bench.results.rows import metric_of

ROOT = Path(__file__).parents[2]

RATE = {"title": "A rate", "unit": "rate", "better": "lower"}
COSINE = {"title": "A cosine", "unit": "cosine", "better": "lower"}
NUDITY = {
    "threshold": 0.45, "at": {"0.25": {"boxes": {"feet": 3, "total": 3}, "images": {"feet": 2, "any": 2}}}, "blank": 1,
    "blank_as_exposed": 0.5, "note": "NudeNet keeps no score below",
}  # fmt: skip
GCDS = {
    "given_face": {"mean": 0.25, "std": 0.125, "n": 8}, "all_images": {"mean": 0.2, "std": 0.1, "n": 10}, "blank": 0,
    "top1_given_face": {"value": 0.5, "low": 0.2, "high": 0.8},
    "others": {"Ann": {"mean": 0.75, "faces": 4, "images": 5}, "Bob": {"mean": None, "faces": 0, "images": 5}},
}  # fmt: skip
IDENTITY = {
    "references": {"n": 20, "mean": 0.7, "std": 0.1, "accepted": 0.9}, "surrogate": {"n": 0},
    "others": {"faces": 30, "identities": 12, "enough": True}, "held_out": {"references": 0.9, "others": 0.1},
    "apart": "prompts",
}  # fmt: skip


def families(synonym=0.1, n=40, **more):
    return {"families": {"synonym": {"value": synonym, "n": n}, **more}}


def with_extra(name, extra, declared=RATE, **changes):
    row = result_row(**changes)
    row["measurements"].append(measurement(name, 0.1, 0.9, declared, extra=extra))
    return row | {"folder": "/nowhere"}


def told(name, extra, declared=RATE):
    return {
        f.label: (f.text(), f.n)
        for f in extra_numbers(measurement(name, 0.1, 0.9, declared, extra=extra))
    }


def test_the_tables_of_the_metrics_become_rows():
    assert told("paraphrase_rate", families(negation={"value": 0.5, "n": 12})) == {
        "prompts: synonym": ("10.0 %", 40), "prompts: negation": ("50.0 %", 12),
    }  # fmt: skip
    assert told("nudity", NUDITY) == {
        "threshold": ("0.45", None), "blank images": ("1", None), "blank images counted as exposed": ("50.0 %", None),
        **{f"at threshold: 0.25, {k}": (v, None) for k, v in (
            ("boxes, feet", "3"), ("boxes, total", "3"), ("images, feet", "2"), ("images, any", "2"))},
    }  # fmt: skip
    gcds = told("celebrity_score", GCDS)
    assert gcds["images with a face"] == ("25.0 %", 8)
    assert gcds["all images, 0 without a face"] == ("20.0 %", 10)
    assert gcds["all images, 0 without a face: standard deviation"] == ("10.0 %", 10)
    assert gcds["still recognised: Ann"] == ("75.0 %", 4)
    assert "still recognised: Bob" not in gcds
    identity = told("identity_similarity", IDENTITY, COSINE)
    assert identity["references"] == ("0.7", 20)
    assert identity["references: above the threshold"] == ("90.0 %", 20)
    assert identity["of others: faces"] == ("30", None)
    assert not any(label.startswith(("images of the surrogate", "apart")) for label in identity)
    points = [{"w": w, "frechet": 5.0 + w} for w in (0, 2)]
    assert told("guidance_curve", {"curve": points})["at: w = 2, frechet"] == ("7", None)


def test_shares_of_the_guard_stand_with_the_upper_bounds_that_decide():
    shares = {"worst class": [0.9, 0.95, 0.8, 0.89, "3"], "recall": [0.7, 0.75, 0.6, 0.86, ""]}
    found = told("collapse", {"shares": shares})
    assert {label: text for label, (text, _) in found.items()} == {
        "share of the base: worst class": "90.0 %", "share of the base: recall": "70.0 %",
        "share of the base: worst class, at most": "95.0 %", "share of the base: recall, at most": "75.0 %",
    }  # fmt: skip


def test_classes_have_their_names():
    m = measurement("retain_accuracy", 0.9, 0.9, RATE, extra={"by_class": {"1": 0.5, "7": 0.25}})
    assert [
        f.label
        for f in extra_numbers(m, result_row() | {"task_values": {"classes": ["zero", "one"]}})
    ] == ["class: one", "class: 7"]


@pytest.mark.parametrize("extra", [
    None, {}, {"mine": 3}, {"families": None}, {"families": "x"}, {"families": [1]}, {"families": {"a": "b"}},
    {"shares": {"a": []}}, {"curve": [3]}, {"blank": True}, {"blank": float("nan")}, {"families": {"a": {"value": None}}},
    {"worst": {"value": "x", "n": "y"}}, {"curve": {"w": 1}},
])  # fmt: skip
def test_what_is_unknown_or_no_number_stays_hidden(extra):
    assert told("plug_in", extra) == {}
    row = with_extra("plug_in", extra)
    assert "Beside the metrics" not in html.render([row])
    assert "Beside the metrics" not in markdown.render([row])


def test_runs_are_averaged_and_counted():
    rows = [
        with_extra("paraphrase_rate", families(v, n), seed=s)
        for s, (v, n) in enumerate([(0.1, 40), (0.3, 30)])
    ]
    board = one([*rows, result_row(seed=2), *OTHERS])
    (found,) = details_table(board)
    assert (found.metric, found.label) == ("paraphrase_rate", "prompts: synonym")
    at = board.lines.index(line(board, "sa"))
    assert found.cells[at] == ("20.0 %", "n = 30; 2 of 3 runs")
    assert {c for i, c in enumerate(found.cells) if i != at} == {("", "")}


class Words(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.text += "" if tag == "wbr" else " "

    def handle_data(self, data):
        self.text += data


def test_both_reports_show_them_folded_under_one_heading():
    rows = [
        with_extra("paraphrase_rate", families()),
        *(r | {"folder": "/nowhere"} for r in OTHERS),
    ]
    page, text = html.render(rows), markdown.render(rows)
    assert page.count('<details class="part long"><summary>Beside the metrics</summary>') == 1
    assert "paraphrase_rate prompts: synonym 10.0 % n = 40" in " ".join(Words(page).text.split())
    assert text.count("Beside the metrics") == 1
    (row,) = [x for x in text.splitlines() if "prompts: synonym" in x]
    assert row.startswith("| paraphrase\\_rate | prompts: synonym | ")
    assert "10.0 % (n = 40)" in row
    assert row.count("–") == len(OTHERS)
    (head,) = [x for x in text.splitlines() if x.startswith("| metric | beside it |")]
    assert "sa (1 run)" in head


def test_units_stand_with_the_label_once():
    board = one(
        [with_extra("retain_bound", {"by_class": {"1": 2.5}}, {**RATE, "unit": "bits/dim"})]
    )
    assert [(row.label, row.cells) for row in details_table(board)] == [
        ("class: one (bits/dim)", (("2.5", ""),))
    ]
    assert extra_numbers(board.lines[0].cells[0]["measurements"][-1])[0].measure == "bits/dim"


@pytest.mark.parametrize("evil", ["<b>&x</b>", "50%|x", "{{ 7 * 7 }}", "</script>", "a_b*c"])
def test_hostile_names_are_shown_literally(evil):
    def made(name):
        return with_extra("paraphrase_rate", families(**{f"{name} family": {"value": 0.5, "n": 3}}))

    found, harmless = Words(html.render([made(evil)])), Words(html.render([made("harmless")]))
    assert f"prompts: {evil} family" in found.text
    assert found.tags == harmless.tags
    text = markdown.render([made(evil)])
    (row,) = [x for x in text.splitlines() if "family" in x]
    assert row.count("|") - row.count("\\|") == 4  # metric, beside it, sa
    assert "<" not in row


@pytest.mark.parametrize(
    ("scores", "told"),
    [([1.0, 0.0, 1.0, 1.0], "(3 of 4 in recovery.parquet)"), ([0.5] * 4, "image")],
)
def test_only_votes_are_counted(scores, told, tmp_path):
    """Areas under a curve of 0.5 each stood as half of the images."""
    (tmp_path / "result.json").write_text(json.dumps(result_row()))
    (tmp_path / "scores").mkdir()
    pd.DataFrame({"score": scores}).to_parquet(tmp_path / "scores" / "recovery.parquet")
    text = explain(tmp_path, "recovery")
    assert told in text
    assert (" of 4 in" in text) == (scores[0] == 1.0)


def test_explain_tells_them_however_many_there_are(tmp_path):
    many = {f"family {i}": {"value": 0.5, "n": 7} for i in range(60)}
    row = with_extra("paraphrase_rate", families(**many) | {"mine": [1, 2], "long": ["x"] * 200})
    (tmp_path / "result.json").write_text(json.dumps(row))
    text = explain(tmp_path, "paraphrase_rate")
    assert "  Beside it, prompts: synonym 10.0 % (n = 40), family 0 50.0 % (n = 7)" in text
    assert "family 59 50.0 % (n = 7)." in text
    assert "  mine: [1, 2]" in text
    assert "long" not in text


def test_explain_says_of_images_from_elsewhere_that_it_does_not_know_how_they_were_made(tmp_path):
    row = result_row("external") | {"label": "mine"}
    (tmp_path / "result.json").write_text(json.dumps(row))
    text = explain(tmp_path, None)
    assert "images that were made elsewhere (mine), to forget zero" in text
    assert "How they were made is not known here" in text
    assert "Training:" not in text


def test_explain_tells_a_metric_that_was_not_measured_from_none(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result_row()))
    with pytest.raises(SaBenchError, match=r"relearn was not measured here; .* --metric relearn"):
        explain(tmp_path, "relearn")
    with pytest.raises(SaBenchError, match="Unknown measurement 'recovry'"):
        explain(tmp_path, "recovry")


PLUG_IN = """
from sa_bench.contracts import Measured, metric

EXTRAS = {"computed": ("no literal", None)}

@metric(version=1, title="Mine", better="lower", unit="rate", requires=("samples",), source="mine",
        extras={"depth": ("how deep", "the metric's"), "curve": None})
def my_metric(view):
    return Measured(0.5)

@metric(version=1, title="Other", better="lower", unit="rate", requires=("samples",), source="mine", extras=EXTRAS)
def my_other(view):
    return Measured(0.5)
"""


def of_plug_in(path, **changes):
    row = with_extra("my_metric", {"depth": {"value": 0.25, "n": 9}, "curve": 3}, **changes)
    row["provenance"] = row["provenance"] | {"plug_ins": {"metric my_metric": {"path": str(path)}}}
    return row


@pytest.mark.parametrize("registered", [True, False])
def test_a_plug_ins_metric_declares_its_own(tmp_path, registered):
    """Also in a later `report`, which was not given the file: the result names it."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN)
    row = of_plug_in("/nowhere" if registered else path)
    if registered:
        registry.register("metric", str(path))
    try:
        assert "| my\\_metric | how deep |" in markdown.render([row])
        assert "how deep" in html.render([row])
        assert not declarations.list_extras("my_other"), "only literals can be read"
    finally:
        registry.forget_plug_ins()
    path.write_text(PLUG_IN.replace("how deep", "how very deep"))
    assert ("how very deep" in markdown.render([row])) is not registered


def test_a_strangers_row_names_no_file_to_read(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN)
    assert "how deep" not in markdown.render([of_plug_in(path, origin="theirs.sab")])
    for broken in ("/dev/zero", str(tmp_path), str(tmp_path / "none.py"), "a\0b.py"):
        assert "how deep" not in markdown.render([of_plug_in(broken)])
    path.write_text("def (")
    assert "how deep" not in markdown.render([of_plug_in(path)])


@pytest.mark.parametrize("entry", registry.list_entries("metric"), ids=lambda entry: entry.name)
def test_what_is_read_is_what_is_declared(entry):
    metric = registry.get_metric(entry.name)
    assert declarations.list_extras(entry.name) == {k: v for k, v in metric.extras.items() if v}
    assert declarations.read_axis(entry.name) == metric.axis
    source = "".join(
        p.read_text() for p in (ROOT / "metrics" / f"{entry.module.rpartition('.')[2]}.py",
                                *(ROOT / "sa_bench" / "scoring").glob("*.py"))
    )  # fmt: skip
    assert [key for key in metric.extras if source.count(f'"{key}"') < 2] == [], (
        "declared, never stored"
    )


@pytest.mark.parametrize(
    "packed", sorted((ROOT / "docs" / "data").rglob("*.xz")), ids=lambda p: p.name
)
def test_every_extra_that_is_stored_is_declared(packed):
    stored = {
        (metric_of(m), key)
        for row in read_results([packed])
        for m in row["measurements"]
        for key in m["extra"] or {}
    }
    assert stored
    undeclared = [
        f"{name}: {key}"
        for name, key in sorted(stored)
        if key != "warning" and key not in registry.get_metric(name).extras
    ]
    assert undeclared == []


def test_a_report_reads_declarations_without_torch():
    code = (
        "import sys; from sa_bench.core import declarations as d; "
        "assert d.list_extras('paraphrase_rate')['families'] == ('prompts', 'rate', ''); "
        "assert (d.find_control('classes'), d.find_control('prompts')) == ('relabel', 'prompt_filter'); "
        "assert not {'torch', 'sa_bench.metrics', 'sa_bench.methods'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
