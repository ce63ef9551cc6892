"""Tables for papers: the ledger's rows with ours beside them, and leaderboards; the same numbers in every format."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace

import pytest
from result_rows import OTHERS, measurement, on_bases, result_row
from sa_bench.reports.tables import FORMATS, comma_separated, latex, markdown, page, tex

from sa_bench import api
from sa_bench.analysis import published as claims
from sa_bench.analysis import published as ledger
from sa_bench.analysis.paper_tables import load_layouts, make_published_table
from sa_bench.analysis.tables import make_leaderboards
from sa_bench.core import registry
from sa_bench.core.declarations import title_label
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve
from sa_bench.results.files import pack_results

JUDGES = [{"judge": f"mnist-paper-{i}", "value": 0.06} for i in range(3)]
PROBABILITY = {"title": "P(c_f)", "unit": "probability", "better": "lower"}
ENTROPY = {"title": "Entropy", "unit": "nats", "better": None}


def run(seed, p, scale="paper", method="sa", fields=None, **changes):
    row = result_row(
        method,
        seed=seed,
        scale=scale,
        fields={"lam": 100.0} if fields is None else fields,
        **changes,
    )
    judges = [{**j, "value": p} for j in JUDGES]
    row["measurements"] += [
        measurement("forget_probability", p, 0.97, PROBABILITY, judges=judges),
        measurement("entropy", "nothing to be seen", None, ENTROPY),
    ]
    return row


def named(table, group, label):
    return next(row for row in table.rows if (row.group, row.label) == (group, label))


def test_ours_stands_beside_the_published_value_with_its_verdict():
    found = make_published_table("table1", [run(s, p) for s, p in enumerate((0.055, 0.060, 0.065))])
    cell = named(found, "mnist_0", "sa lam=100").entries[4]
    assert (cell.text, cell.runs, cell.scale, cell.published) == ("0.06", 3, "paper", 0.058)
    assert cell.interval == "0.055, 0.06, 0.065"
    assert cell.verdict == "consistent"
    entropy = named(found, "mnist_0", "sa lam=100").entries[3]
    assert (entropy.text, entropy.reason) == ("", "nothing to be seen")
    assert any("nothing to be seen" in note for note in found.notes)


def test_a_published_number_reads_the_same_with_and_without_results():
    """A share was 0.967 without results and 96.7 % with any: its unit was that of a measurement, not of the metric."""
    heads = [make_published_table("table1", rows).columns for rows in ([], [run(0, 0.06)])]
    assert heads[0] == heads[1]
    assert [c.unit for c in heads[0]][-2:] == ["nats", "fraction"]


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_the_row_of_retrain_says_that_it_has_nine_tenths_of_the_bases_steps(write):
    """What `9 classes` had is not published; the ours beside it sees each class as often as the base did."""
    found = make_published_table("table1", [])
    for task in ("cifar10_airplane", "stl10_airplane"):
        assert named(found, task, "retrain (0.9 × the base's steps)").entries
    assert not [
        row.label for row in found.rows if "steps" in row.label and "retrain" not in row.label
    ]
    assert re.search(r"[rR]etrain \(0\.9 .{1,20} the base('|&#x27;|&#39;)s steps\)", write([found]))


def test_every_margin_of_a_column_is_printed():
    margins = make_published_table("table1", []).margins
    assert margins["FID"] == "1 (no_gr lam=10: 10)"
    wide = {
        (e.method, e.margin)
        for e in ledger.load_numbers()
        if e.metric == "entropy" and "Table 1" in e.source
    }
    assert all(f"{margin:g}" in margins["Entropy"] for _, margin in wide)
    assert "FID 1 (no_gr lam=10: 10), " in page([make_published_table("table1", [])])


def test_paper_scale_comes_before_full_and_quick_is_in_no_table():
    rows = [run(0, 0.3, "full"), run(0, 0.06), run(0, 0.9, "quick")]
    cell = named(make_published_table("table1", rows), "mnist_0", "sa lam=100").entries[4]
    assert (cell.scale, cell.value) == ("paper", 0.06)
    cell = named(make_published_table("table1", rows[::2]), "mnist_0", "sa lam=100").entries[4]
    assert (cell.scale, cell.value) == ("full", 0.3)
    assert cell.verdict.startswith("not comparable: scale full")
    assert (
        named(make_published_table("table1", rows[2:]), "mnist_0", "sa lam=100").entries[4].text
        == ""
    )


@pytest.mark.parametrize(
    ("fields", "changes"),
    [({"lam": 10.0}, {}), (None, {"overrides": {"concept": "three"}})],
    ids=["lam", "concept"],
)
def test_another_experiment_fills_no_cell(fields, changes):
    found = make_published_table("table1", [run(0, 0.06, fields=fields, **changes)])
    assert named(found, "mnist_0", "sa lam=100").entries[4].text == ""


@pytest.mark.parametrize("name", sorted(load_layouts()))
def test_every_published_number_of_a_table_is_in_it(name):
    found = make_published_table(name, [])
    layout = load_layouts()[name]
    printed = [
        e.value if layout.get("alone") else e.published for row in found.rows for e in row.entries
    ]
    wanted = [
        e.value for e in ledger.load_numbers() if any(text in e.source for text in layout["match"])
    ]
    assert sorted(v for v in printed if v is not None) == sorted(wanted)
    if layout.get("alone"):  # nothing of ours may stand there, so no command fills it
        assert not any(row.command for row in found.rows)
        assert "none of ours is ranked with them" in found.notes[0]
    else:
        assert all(row.command.startswith("python -m sa_bench run --task ") for row in found.rows)


def test_boxes_of_nudity_are_ours_and_never_compared():
    row = result_row(
        "sa", scale="paper", task="nudity_i2p", fields={"lam": 50.0, "scope": "noxattn"}
    )
    boxes = {"belly": 12, "armpits": 3}
    declared = {"title": "x", "unit": "rate", "better": "lower"}
    row["measurements"].append(
        measurement("nudity", 0.1, 0.3, declared, extra={"at": {"0.6": {"boxes": boxes}}})
    )
    found = named(make_published_table("table3", [row]), "nudity_i2p", "sa lam=50 scope=noxattn")
    assert [e.text for e in found.entries[:3]] == ["3", "12", ""]
    assert found.entries[1].published == 77
    assert found.entries[1].verdict.startswith("not comparable: boxes of NudeNet 2")


def test_best_is_bold_only_beyond_both_intervals():
    kept = {
        "sa": (-94.0, -94.5, -93.5),
        "l2": (-95.0, -95.2, -94.8),
        "naive": (-94.8, -95.0, -94.2),
    }
    rows = [result_row(method, scale="full", keep=keep) for method, keep in kept.items()]
    rows += [r | {"scale": "full"} for r in OTHERS]

    def best(rows):
        (found,) = make_leaderboards(rows)
        return [row.label for row in found.rows if row.entries[3].best]

    assert best(on_bases(rows[:2] + rows[3:], apart=0.1)) == ["sa"]
    assert best(rows[:2] + rows[3:]) == []  # of one run nothing is known of another's nats
    assert best(on_bases(rows, apart=0.5)) == []  # naive reaches into sa's interval
    assert best(on_bases([rows[0], *rows[3:]])) == []  # nobody to be better than


def test_nothing_is_bold_where_a_run_has_no_interval():
    """Five runs with a spread give one of their own."""

    def rows(method, keep, runs, bare):
        made = [
            result_row(method, scale="full", keep=keep - i / 100, seed=i, base_seed=i)
            for i in range(runs)
        ]
        for row in made:
            row["measurements"][2] |= {"low": None, "high": None} if bare else {}
        return made

    def best(*rows):
        return [
            row.label
            for row in make_leaderboards([r for some in rows for r in some])[0].rows
            if row.entries[3].best
        ]

    assert best(rows("sa", -94.0, 3, False), rows("l2", -95.0, 3, False)) == ["sa"]
    assert best(rows("sa", -94.0, 3, True), rows("l2", -95.0, 3, False)) == []
    assert best(rows("sa", -94.0, 3, False), rows("l2", -95.0, 3, True)) == []
    assert best(rows("sa", -94.0, 5, True), rows("l2", -95.0, 3, False)) == ["sa"]


def test_a_selection_by_label_over_boards_and_what_is_unknown(cli, tmp_path):
    fields = [result_row(fields={"lam": lam}, seed=s) for lam in (1.0, 3.0) for s in (0, 1)]
    other = [{**row, "task": "mnist_0_r1000", "method": "uce"} for row in [result_row()]]
    extra = measurement("kid", 0.2, 0.1, {"title": "KID", "unit": None, "better": "lower"})
    other[0]["measurements"].append(extra)
    rows = [*fields, result_row("l2"), *other]

    def labels(**options):
        return [[row.label for row in table.rows] for table in make_leaderboards(rows, **options)]

    assert labels(methods="l2,sa lam=3") == [["l2", "sa lam=3"]]
    assert labels(methods=["sa"]) == [["sa lam=1", "sa lam=3"]]
    assert labels(methods="uce", metrics="forget_top1,kid") == [
        ["uce"]
    ]  # the first board has none of these
    assert len(labels(metrics="kid")) == 1
    both = make_leaderboards(rows, metrics="forget_top1,kid")
    assert [[row.entries[1].text for row in table.rows] for table in both] == [
        ["", "", ""],
        ["0.2"],
    ]
    assert (
        len(labels(task="mnist_0,mnist_0_r1000"))
        == len(labels(task=["mnist_0", "mnist_0_r1000"]))
        == 2
    )
    with pytest.raises(
        SaBenchError, match=r"Unknown method with a result here 'nope'.*sa lam=3, uce"
    ):
        labels(methods="sa,nope")
    with pytest.raises(
        SaBenchError, match=r"Unknown metric of these results 'kidd'\. Did you mean kid"
    ):
        labels(metrics="kidd")
    file = tmp_path / "some.jsonl.xz"
    file.write_bytes(pack_results(rows))
    asked = ("--task", "mnist_0,mnist_0_r1000", "--method", "sa lam=3,uce", "--metric", "recovery")
    text = cli("table", "leaderboard", str(file), *asked, check=0).stdout
    assert re.findall(r"^\| (sa|uce|l2)", text, re.M) == ["sa", "uce"]


def test_scales_and_fingerprints_stand_in_tables_of_their_own():
    a, b, c = result_row("sa"), result_row("l2", scale="full"), result_row("naive", scale="full")
    c["measurements"][0]["fingerprint"] = {"metric": "forget_top1", "version": 2}
    found = make_leaderboards([a, b, c])
    assert [[row.label for row in t.rows] for t in found] == [["sa"], ["l2"], ["naive"]]
    assert [[row.label for row in t.rows] for t in make_leaderboards([a, b], methods=["l2"])] == [
        ["l2"]
    ]
    assert len(make_leaderboards([a], metrics=["recovery"])[0].columns) == 1
    with pytest.raises(SaBenchError, match="No result fits"):
        make_leaderboards([result_row(error="no GPU")])
    with pytest.raises(SaBenchError, match="Unknown task of these results 'cifar10_airplane'"):
        make_leaderboards([a], task="mnist_0,cifar10_airplane")
    with pytest.raises(SaBenchError, match="forget_top1"):
        make_leaderboards([a], metrics=["forget_top"])
    with pytest.raises(SaBenchError, match="table1"):
        make_published_table("table9", [])


def test_a_leaderboard_shows_the_front_collapse_and_cost():
    rows = [
        result_row("sa"),
        result_row("l2", keep=-99.0),
        result_row("naive", keep=-50.0, flags=["collapse: one class"]),
        result_row("kept", forget=0.9),
        *OTHERS,
    ]
    (found,) = make_leaderboards(on_bases(rows))
    assert [c.title for c in found.columns[4:]] == ["Pareto front", "CPU s to forget"]
    front = {row.label: (row.entries[4].text, row.entries[4].value) for row in found.rows}
    assert front == {
        "sa": ("yes", 1.0), "l2": ("no: sa", 0.0), "kept": ("–", None), "naive [collapsed]": ("–", None),
        "retrain [reference]": ("–", None), "original [control]": ("–", None), "relabel [control]": ("–", None),
    }  # fmt: skip
    assert {row.entries[5].text for row in found.rows} == {"2"}
    assert found.columns[0].title == "outcome"
    outcomes = {row.label.partition(" ")[0]: row.entries[0].text for row in found.rows}
    assert (outcomes["naive"], outcomes["kept"]) == ("COLLAPSED", "NOT FORGOTTEN")
    assert any(
        note.startswith("Pareto front: of the methods of one threat model that forgot")
        for note in found.notes
    )


HOSTILE = r"a_b & 50% #1 <b>x</b> $y$ {z} ~ ^ \ |"


def hostile():
    rows = [
        result_row(scale="full", task_title=HOSTILE, keep=HOSTILE),
        result_row("l2", scale="full", task_title=HOSTILE),
    ]
    return make_leaderboards(rows)


def test_all_formats_carry_the_same_numbers_and_hostile_names_as_text():
    found = [
        make_published_table("table1", [run(s, 0.055 + s / 200) for s in range(3)]),
        *hostile(),
    ]
    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    values = {row["value"] for row in rows if row["value"]}
    assert {float(v) for v in values} >= {
        e.value for t in found for r in t.rows for e in r.entries if e.value is not None
    }
    for written in (markdown(found), page(found), latex(found)):
        assert "0.06" in written
        assert "n/a" in written
    assert "<b>x</b>" not in markdown(found) + page(found)
    assert r"a\_b \& 50\% \#1" in latex(found)
    assert "a_b &amp; 50% #1 &lt;b&gt;x&lt;/b&gt;" in page(found)
    assert not re.search(r"<script|http", page(found))


def test_fewer_images_than_published_get_no_verdict_and_do_not_stand_in_for_as_many():
    """In whatever order the files come."""
    few = [run(s, 0.9, overrides={"n_forget": "50"}) for s in range(3)]
    for row in few:
        row["task_values"] = {**row["task_values"], "n_forget": 50}
    whole = [run(s, p) for s, p in enumerate((0.055, 0.060, 0.065))]
    for rows in ([*few, *whole], [*whole, *few]):
        cell = named(make_published_table("table1", rows), "mnist_0", "sa lam=100").entries[4]
        assert cell.verdict == "consistent"
    cell = named(make_published_table("table1", few), "mnist_0", "sa lam=100").entries[4]
    assert cell.verdict == "not comparable: n_forget=50 instead of 1000"


def test_csv_has_the_words_of_columns_without_numbers():
    rows = csv.DictReader(io.StringIO(comma_separated(make_leaderboards([result_row(), *OTHERS]))))
    words = {(row["method"], row["metric"]): row["text"] for row in rows}
    assert words["sa", "outcome"] == "ERASED"
    assert words["relabel [control]", "outcome"] == "CONTROL"
    assert words["sa", "Pareto front"] == "yes"
    assert words["sa", "forget_top1"] == "1.0 %"


@pytest.mark.parametrize(
    ("name", "begins"),
    [("b.tex", "%"), ("b.csv", "table,group"), ("b.html", "<!doctype"), ("b.md", "## ")],
)
def test_the_ending_of_the_file_says_the_format(tmp_path, name, begins):
    source, out = tmp_path / "some.jsonl.xz", tmp_path / name
    source.write_bytes(pack_results([result_row(), *OTHERS]))
    api.table("leaderboard", [source], out=out)
    assert out.read_text().startswith(begins)
    with pytest.raises(SaBenchError, match=r"b\.txt: add --format, or an ending of \.md"):
        api.table("leaderboard", [source], out=tmp_path / "b.txt")
    api.table("leaderboard", [source], "csv", out=tmp_path / "b.txt")
    assert (tmp_path / "b.txt").read_text().startswith("table,group")


def test_csv_has_every_run_and_never_calls_their_span_an_interval():
    """Two runs: points alone. Six on three bases: Student's t over the bases' means, t(2) = 4.303; a rate stays in 0..1."""
    few = [result_row("sa", keep=-94.0 - s, seed=s, scale="full") for s in range(2)]
    many = [
        result_row("l2", keep=-90.0 - b, forget=0.0 + 0.01 * b, seed=s, base_seed=b, scale="full")
        for b in range(3)
        for s in range(2)
    ]
    rows = csv.DictReader(io.StringIO(comma_separated(make_leaderboards([*few, *many, *OTHERS]))))
    found = {(row["method"], row["metric"]): row for row in rows}
    two, six = found["sa", "retain_log_likelihood"], found["l2", "retain_log_likelihood"]
    assert (two["points"], two["low"], two["high"]) == ("-94.0 -95.0", "", "")
    assert six["points"].split() == ["-90.0", "-90.0", "-91.0", "-91.0", "-92.0", "-92.0"]
    half = 4.302653 / 3**0.5
    assert [float(six[k]) for k in ("low", "high")] == pytest.approx([-91 - half, -91 + half])
    assert float(found["l2", "forget_top1"]["low"]) == 0
    same = [result_row("l2", forget=0.0, seed=s, base_seed=s, scale="full") for s in range(5)]
    rows = list(csv.DictReader(io.StringIO(comma_separated(make_leaderboards([*same, *OTHERS])))))
    assert (
        next(r for r in rows if r["method"] == "l2")["low"] == ""
    )  # no spread was seen: no interval, not [0, 0]


def compiled(text, folder):
    """The PDF's log, in a document with nothing but what the first line asks for."""
    packages = re.findall(r"\\usepackage\{[^}]*\}", text.splitlines()[0])
    head = "\\documentclass{article}" + "".join(packages)
    (folder / "x.tex").write_text(f"{head}\\begin{{document}}\n{text}\\end{{document}}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=folder, capture_output=True, text=True,
        timeout=120, check=False, encoding="latin-1",
    )  # fmt: skip
    if ".sty' not found" in done.stdout:
        pytest.skip("this TeX lacks a package")
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "x.log").read_text(encoding="latin-1")


def with_verdicts():
    found = [run(s, p) for s, p in enumerate((0.055, 0.060, 0.065))]
    found += [run(s, 0.5 + s / 100, method="original", fields={}) for s in range(3)]
    other = {"task": "mnist_0", "scale": "full", "keep": -95.0}
    found += [run(s, 0.1, method="retrain", fields={}, **other) for s in range(3)]
    return make_published_table("table1", found + [{**r, "method": "no_gr"} for r in found[:3]])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_the_latex_compiles_and_stays_on_the_page(tmp_path):
    many = [
        result_row(f"a_rather_long_method_{i}", scale="full", seed=s)
        for i in range(70)
        for s in range(4)
    ]
    published = [make_published_table(name, []) for name in load_layouts()]
    log = compiled(
        latex([*published, with_verdicts(), *hostile(), *make_leaderboards(many)]), tmp_path
    )
    assert [
        float(x) for x in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(x) > 3
    ] == []
    assert "Float too large" not in log


def test_latex_sets_verdicts_margins_and_claims_and_not_as_comments():
    table = with_verdicts()
    claim = claims.Verdict(claims.load_claims()[0], "holds", "sa 0.1 % & less")
    text = "\n".join(
        x for x in latex([replace(table, claims=(claim,))]).splitlines() if x[0] != "%"
    )
    assert r"0.058\textsuperscript{$=$}" in text
    assert r"0.967\textsuperscript{$\neq$}" in text
    assert r"2.19\textsuperscript{?1}" in text
    assert r"\textsuperscript{$\neq$} differs" in text
    assert re.search(r"^1: inconclusive ", text, re.M)
    assert "Margins, declared before any run" in text
    assert r"holds. sa 0.1 \% \& less\par" in text
    assert "Ours: mean over runs" in text


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("-93.6 (-95.1 to -.5)", "$-$93.6 ($-$95.1 to $-$.5)"),
        ("sa − esd", "sa $-$ esd"),
        ("lr=1e-05, mnist-cnn-0, 2026-11-30", "lr=1e-05, mnist-cnn-0, 2026-11-30"),
    ],
)
def test_only_the_hyphen_before_a_negative_number_becomes_a_minus_sign(text, source):
    assert tex(text) == source


def test_a_narrow_table_has_its_intervals_below_and_no_front():
    (table,) = make_leaderboards(
        [result_row("sa", scale="full", seed=s, keep=-93.0 - s) for s in range(3)]
        + [result_row("l2", scale="full")]
    )
    text = latex([table], "narrow")
    assert "\\begin{table}\n" in text
    assert "Pareto" not in text
    assert "\\tiny ($-$95.00, $-$94.00, $-$93.00)" in text
    assert re.search(r"^SA & .* & \$-\$94.00 \\\\\[-2pt\]$", text, re.M)
    wide = latex([table], "wide")
    assert "\\begin{table*}" in wide
    assert "$-$94.00 ($-$95.00, $-$94.00, $-$93.00)" in wide
    assert wide.count("Pareto") > 1


def test_every_table_has_a_label_of_its_own():
    board = make_leaderboards([result_row("sa", scale="full")])
    text = latex([*board, *board, make_published_table("table2", [])])
    names = re.findall(r"\\label\{(.*)\}", text)
    assert names == ["tab:mnist_0-full", "tab:mnist_0-full-2", "tab:table2"]


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("sa lam=10, steps=5 [collapsed]", "SA (λ=10, steps=5) [collapsed]"),
        ("retrain (0.9 of the base's steps)", "Retrain (0.9 of the base's steps)"),
        ("relabel [control]", "Relabel [control]"),
        ("sa lam=1 · Ada [0123abcd]", "SA (λ=1) · Ada [0123abcd]"),
        ("somebodys lr=1", "somebodys (lr=1)"),
    ],
)
def test_rows_are_named_as_papers_name_them(label, title):
    assert title_label(label) == title


def test_any_letter_becomes_latex_that_compiles(tmp_path):
    """Every letter of the lower planes is ASCII with its braces closed; a sample of them goes through TeX."""
    assert (
        tex("北京 é ö λ ﬁ")
        == r"{[}U+5317]\allowbreak{}{[}U+4EAC]\allowbreak{} \'{e} \"{o} $\lambda$ fi"
    )
    for code in [*range(0x3100), *range(0xD7F0, 0x10000, 7), *range(0x10000, 0x20000, 61)]:
        text = tex(chr(code))
        assert text.isascii()
        assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}"), hex(code)
    if shutil.which("pdflatex"):
        codes = [
            *range(0x250),
            *range(0x300, 0x400),
            *range(0x1E00, 0x1F00),
            *range(0x2000, 0x2300),
            0x5317,
            0x1F600,
        ]
        rows = [
            tex("".join(map(chr, codes[i : i + 16]))) + " & x \\\\"
            for i in range(0, len(codes), 16)
        ]
        rows += [tex("e" + chr(code)) + " & x \\\\" for code in range(0x300, 0x340)]
        rows += [tex(begin + "北京") + " & x \\\\" for begin in ("", "[1]", "*", "-", "?`")]
        lines = [f"\\begin{{tabular}}{{ll}}{row}\\end{{tabular}}\\par" for row in rows]
        both = ["\\begin{tabular}{ll}x & y \\\\", *rows[-5:], "\\end{tabular}"]
        compiled("%\n" + "\n".join([*lines, *both]), tmp_path)
        odd = [
            result_row(f"北京 {c}", scale="full", task_title=c)
            for c in ("\t", "[2]", "ẞ", "*", "…", "$\\frac{a$")
        ]
        compiled(latex(make_leaderboards(odd)), tmp_path)


def test_the_command_line_prints_and_writes(cli, tmp_path):
    assert "| sa lam=100 |" in cli("table", "table1", check=0).stdout
    cli("table", "table2", "--format", "latex", "--out", str(tmp_path / "t.tex"), check=0)
    assert "\\toprule" in (tmp_path / "t.tex").read_text()
    assert (
        "Available: csv, html, latex, markdown"
        in cli("table", "table2", "--format", "word", check=2).stderr
    )
    assert "needs run folders" in cli("table", "leaderboard", check=2).stderr
    assert sorted(FORMATS) == ["csv", "html", "latex", "markdown"]


def test_the_spread_of_table_2_has_its_own_verdict():
    """Beside the score stands its spread over images, judged against the printed one and not against the score."""
    declared = {"title": "GCDS", "unit": "probability", "better": "lower"}
    task = json.loads(json.dumps(asdict(registry.get_task("celeb_brad_pitt"))))
    rows = []
    for seed, spread in enumerate((0.40, 0.42, 0.44)):
        row = result_row(
            "original",
            seed=seed,
            scale="paper",
            task="celeb_brad_pitt",
            task_values=task,
            concept="brad pitt",
        )
        extra = {"given_face": {"mean": 0.6, "std": spread, "n": 900}}
        row["measurements"] = [measurement("celebrity_score", 0.6, 0.6, declared, extra=extra)]
        rows.append(row)
    found = named(make_published_table("table2", rows), "", "original")
    score, spread = found.entries[1:3]
    assert (score.text, score.published) == ("0.6", 0.606)
    assert (spread.text, spread.interval, spread.published) == ("0.42", "0.4 to 0.44", 0.424)
    text = markdown([make_published_table("table2", rows)])
    assert "0.6 (0.6, 0.6, 0.6) / 0.606: " in text
    assert " %" not in (text + markdown([make_published_table("table2", [])])).replace("95 %", "")
    assert spread.verdict == "inconclusive (too noisy: ± 0.0994 against a margin of 0.05)"


def test_another_base_model_of_the_paper_fills_its_own_row():
    """Table 4's SD v2.1 is the same task on another model, in its own size; SD v1.4's row stays empty."""
    declared = {"title": "Nudity", "unit": "rate", "better": "lower"}
    task = json.loads(json.dumps(asdict(registry.get_task("nudity_explicit"))))
    (command,) = (
        r.command
        for r in make_published_table("table4", []).rows
        if r.label == "original (SD v2.1)"
    )
    assert command.endswith("--set task.model=stabilityai/stable-diffusion-2-1 --set task.size=768")
    sets = [
        text
        for name, text in zip(command.split(), command.split()[1:], strict=False)
        if name == "--set"
    ]
    (cell,) = resolve(["nudity_explicit"], ["original"], "paper", sets=sets)
    other = json.loads(json.dumps(cell.overrides))  # as a result has them
    row = result_row(
        "original",
        scale="paper",
        task="nudity_explicit",
        task_values=task | other,
        overrides=other,
        concept="nudity",
    )
    boxes = {"at": {"0.6": {"boxes": {"armpits": 105}}}}
    row["measurements"] = [measurement("nudity", 0.2, 0.2, declared, extra=boxes)]
    table = make_published_table("table4", [row])
    cells = {r.label: r.entries[0] for r in table.rows}
    assert cells["original (SD v2.1)"].text == "105"
    assert cells["original (SD v2.1)"].verdict.startswith("not comparable: boxes of NudeNet 2")
    assert cells["original"].text == ""
