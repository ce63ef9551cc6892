"""The HTML report, from hand-made result rows: what is said, escaped, kept out, and how wide it is."""

import base64
import hashlib
import html
import importlib
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from result_rows import OTHERS, measurement, result_row
from sa_bench.reports import html as html_report
from sa_bench.reports.html import render
from safetensors.numpy import save_file

from sa_bench.core.errors import SaBenchError
from sa_bench.scoring.cards import judge_card

HOSTILE = [
    "<b>&x</b>", "celeb_brad_pitt", "50%", "\"double\" 'single'", "{{ 7 * 7 }}", "{% raw %}", "</script>",
]  # fmt: skip
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture
def folder(tmp_path):
    """A cell's folder with sample sets whose images changed."""
    images = np.random.default_rng(0).integers(0, 255, (2, 30, 8, 8, 1), np.uint8)
    for name, labels in (("forget", np.zeros(30)), ("retain", np.arange(30) % 9 + 1)):
        for end, array in zip(("-base", ""), images, strict=True):
            save_file(
                {"images": array, "labels": labels.astype(np.int64)},
                tmp_path / f"{name}{end}.safetensors",
            )
    return tmp_path


@pytest.fixture
def page(folder):
    """Render rows as they are read back: with the folder that they came from."""

    def call(*rows, at=folder):
        return render([row | {"folder": str(at)} for row in rows])

    return call


class Reader(HTMLParser):
    """The page as a browser takes it: tags with attributes, and the text that is seen."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("b", "a", "code", "wbr"):
            self.text += " "

    def handle_data(self, data):
        self.text += data

    def words(self):
        return " ".join(self.text.split())


def board_rows(page):
    """The words of each row of the first board, by method."""
    body = re.search(r'<table class="board sortable">.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    rows = [Reader(row).words() for row in re.findall(r"<tr.*?</tr>", body, re.S)]
    return {re.sub(r"^[–0-9]* *", "", row).split()[0]: row for row in rows}


def test_the_first_screen_reads_as_expected(page):
    """Golden text: headline, board and sentences of fixed rows, before anything else."""
    words = Reader(page(result_row(recovery=(0.3, 0.2, 0.35)), *OTHERS)).words()
    expected = [
        "Did each method make the model forget zero, can it be undone, and what did the rest pay?",
        "sa wins: it forgot zero; 30.0 % comes back",
        "Controls caught: relabel (by recovery).",
        "1 sa in words ERASED.",
        "1.0 % of its images of zero are still judged so (at most 8.5 % for another base and seed); 30.0 % come back when "
        "its condition is fitted again in 100 steps of 100 images, at most",
        "points more than retrain's 45.0 %; the rest: 1.00 nats worse than in the base. On the Pareto front. "
        "ERASED 30.0 % come back",
        "1.0 % -1.0 to 3.0 %; n = 200 images 30.0 % 20.0 to 35.0 %; n = 200 images -1.00 nats -94.00 nats, "
        "-94.02 to -93.98; n = 200 images; base -93.00 2 s CPU 800 MiB, cpu; 1 run",
        "– retrain reference in words FLOOR.",
        "– relabel control in words CONTROL: caught by recovery.",
        "Forgotten: the upper bound is at most chance (1 in 10).",
        "Before and after, same seeds",
        "Forgetting against retention, and recovery",
        "All measurements",
        "Judges",
        "Provenance",
        "Glossary: what the words mean",
    ]
    at = 0
    for text in expected:
        assert text in words[at:], text
        at = words.index(text, at)


def test_a_gpu_is_named_with_its_seconds_and_its_memory(page):
    row = result_row()
    row["cost"]["forget"] |= {"wall_s": 61.0, "device": "cuda", "device_peak_mib": 40960}
    row["provenance"]["hardware"]["gpu"] = "a <GPU>"
    text = page(row, *OTHERS)
    assert "61 s on cuda 800 MiB, cuda, 40,960 MiB on it; 1 run" in board_rows(text)["sa"]
    assert "a CPU, a <GPU>" in Reader(text).words()
    markdown = importlib.import_module("sa_bench.reports.markdown").render([row, *OTHERS])
    assert "s CPU or on cuda to forget" in markdown
    assert "a CPU, a &lt;GPU&gt;" in markdown


def test_every_ranked_row_has_an_interval_and_n(page):
    rows = board_rows(page(result_row(), result_row("esd", keep=-99.0), *OTHERS))
    ranked = [row for row in rows.values() if row[0].isdigit()]
    assert len(ranked) == 2
    for row in ranked:
        assert len(re.findall(r"-?[\d.]+ to -?[\d.]+", row)) == 3
        assert row.count("n = 200 images") == 3


def test_controls_and_references_are_marked_in_every_table(page):
    text = page(result_row(), *OTHERS)
    for method, standing in (
        ("original", "control"),
        ("relabel", "control"),
        ("retrain", "reference"),
    ):
        assert len(re.findall(rf'<b>{method}</b><span class="tag">{standing}</span>', text)) >= 3
    assert '<b>sa</b><span class="tag">' not in text


def page_with(page, text):
    """Every text that a user or a method can bring in begins with `text`."""
    ours = {
        "concept": f"{text} concept", "overrides": {"surrogate": f"{text} override"}, "flags": [f"{text} flag"],
        "task_title": f"{text} title", "provenance": result_row()["provenance"]
        | {"command": f"{text} command", "cell_command": f"{text} row"},
    }  # fmt: skip
    rows = [result_row(fields={"prompt": f"{text} field {i}"}, **ours) for i in range(2)]
    rows.append(result_row("esd", error=f"{text} error", **ours))
    rows.append(result_row("uce", keep=f"{text} reason", **ours))
    return Reader(page(*rows, *(row | ours for row in OTHERS)))


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_is_shown_literally(page, evil):
    found, harmless = page_with(page, evil), page_with(page, "harmless")
    for what in (
        "concept",
        "override",
        "flag",
        "title",
        "command",
        "row",
        "field 1",
        "error",
        "reason",
    ):
        assert f"{evil} {what}" in found.words(), what
    # a name may be broken after each of its underscores
    first, second = ([tag for tag in x.tags if tag[0] != "wbr"] for x in (found, harmless))
    assert [tag for tag, _ in first] == [tag for tag, _ in second]
    assert [sorted(a) for _, a in first] == [sorted(a) for _, a in second]


def test_the_page_loads_nothing_from_anywhere(page):
    text = page(result_row(), *OTHERS)
    seen = Reader(text)
    keys = ("src", "href", "data", "srcset", "poster", "action")
    loads = [v for _, a in seen.tags for k, v in a.items() if k in keys]
    assert loads
    assert all(v.startswith(("data:image/webp;base64,", "#")) for v in loads)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in seen.tags}
    (policy,) = [
        a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    hashes = {}
    for tag in ("style", "script"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        hashes[tag] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )
    assert not [a for _, a in seen.tags if "style" in a]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_missing_number_is_na_with_its_reason_and_nothing_else(page, value):
    row = result_row()
    row["measurements"][2] |= {
        "value": value,
        "low": None,
        "high": None,
        "reason": "too few images",
    }
    row["measurements"].append(
        measurement("kid", "no extractor", None, {"title": "KID", "unit": None, "better": "lower"})
    )
    row["measurements"][-1] |= {"judges": None, "extra": None, "n": None, "n_unit": None}
    text = page(row, *OTHERS)
    words = Reader(text).words()
    assert "n/a [1]" in board_rows(text)["sa"]
    assert words.count("[1] too few images") == 1
    assert "n/a: too few images" in words
    assert "n/a: no extractor" in words
    assert not re.search(r"\b(nan|inf|None)\b", words)


def test_the_numbers_are_those_of_the_result_to_the_shown_precision(page):
    row = result_row(
        forget=(0.01234, 0.00567, 0.04321),
        recovery=(0.34567, 0.3, 0.4),
        keep=(-94.5678, -95.4321, -93.1),
    )
    row["measurements"].append(
        measurement(
            "kid",
            (12.34567, 11.98765, 13.0),
            6.54321,
            {"title": "KID", "unit": None, "better": "lower"},
        )
    )
    text = page(row, *OTHERS)
    assert "1.2 % 0.6 to 4.3 %" in board_rows(text)["sa"]
    details = re.findall(r'<details class="long"><summary>(\w+) (.*?)</details>', text, re.S)
    for m in row["measurements"]:
        (body,) = [Reader(body).words() for name, body in details if name == m["name"]]
        cells = re.search(
            r" base sa (-?[\d.]+)[ %a-z]* (-?[\d.]+)[ %]* to (-?[\d.]+)[ %]* 200 images (-?[\d.]+)",
            body,
        )
        scale, digits = {"rate": (100, 1), "nats": (1, 2), None: (1, 4)}[m["unit"]]
        for shown, key in zip(cells.groups(), ("value", "low", "high", "base"), strict=True):
            exact = scale * m[key]
            step = (
                10.0**-digits
                if m["unit"]
                else 10.0 ** (1 + math.floor(math.log10(abs(exact))) - digits)
            )
            assert abs(float(shown) - exact) <= step / 2 * 1.0001, (m["name"], key)


def test_the_command_to_repeat_each_row_is_there_failed_ones_too(page):
    rows = [result_row(), result_row("esd", error="out of memory"), *OTHERS]
    text = Reader(page(*rows)).words().partition("he command to repeat each row")[2]
    for row in rows:
        assert row["provenance"]["command"] in text
    assert "failed: out of memory" in text


def test_grids_are_there_with_the_samples_and_left_out_without(page, folder, tmp_path):
    rows = [result_row(), *OTHERS]
    text = page(*rows)
    images = [a for tag, a in Reader(text).tags if tag == "img"]
    assert len(images) == 2 + 2 * len(rows)  # before once, then after every line
    assert {a["alt"] for a in images} >= {"images of zero, before forgetting", "the rest, after sa"}
    (folder / "retain-base.safetensors").unlink()
    assert page(*rows).count("<img") == 1 + 2 * len(rows)
    without = page(*rows, at=tmp_path / "elsewhere")
    assert "<img" not in without
    assert "Before and after" not in without


def test_a_line_that_changed_no_image_has_no_grid(page, folder):
    for name in ("forget", "retain"):
        shutil.copyfile(folder / f"{name}-base.safetensors", folder / f"{name}.safetensors")
    assert "<img" not in page(result_row(), *OTHERS)


def test_flags_stand_in_their_row_and_those_of_all_rows_once_below(page):
    flag, of_all = "fid: N is below the number of dimensions", "recall: few real images"
    numbered = [f"recall: {n} images are blank" for n in (7, 8)]
    rows = [result_row(seed=n, flags=[flag, numbered[n]]) for n in (0, 1)]
    rows += [OTHERS[0] | {"flags": [flag]}, *OTHERS[1:]]
    text = page(*(row | {"flags": [*row["flags"], of_all]} for row in rows))
    shown = board_rows(text)
    assert f"{flag} (2 runs) {numbered[0]} (2 runs, numbers differ)" in shown["sa"]
    assert "in words, 2 notes" in shown["sa"]
    assert flag in shown["retrain"]
    assert flag not in shown["relabel"]
    words = Reader(text).words()
    assert words.count(flag) == 2
    assert f"Every row: {of_all}" in words.partition("Before and after")[0]
    assert words.count(of_all) == 1


def test_failed_cells_show_their_error_on_the_first_screen(page):
    rows = [
        result_row(),
        result_row(seed=1, error="disk full"),
        result_row("esd", error="no GPU"),
        *OTHERS,
    ]
    text = page(*rows)
    first = Reader(text).words().partition("Before and after")[0]
    assert "1 of 2 cells failed: disk full" in first
    assert "Failed: no GPU" in first
    assert "1 run, 1 failed" in board_rows(text)["sa"]


def test_rows_without_a_single_measurement_still_make_a_page(page, tmp_path):
    words = Reader(
        page(result_row(measurements=[]), result_row("esd", error="boom"), at=tmp_path / "none")
    ).words()
    assert "No answer: forgetting was not measured." in words
    assert "All measurements" not in words
    assert "Forgetting against retention" not in words


def test_judge_cards_are_shown_and_one_of_another_judge_is_called_out(page):
    name = "mnist-cnn-0"
    provenance = result_row()["provenance"]
    good, bad = ({"assets": {name: sha}} for sha in (judge_card(name)["sha256"][:16], "f" * 16))
    for assets, called in ((good, False), (bad, True)):
        words = Reader(page(result_row(provenance=provenance | assets), *OTHERS)).words()
        assert f"{name} designated" in words
        assert f"{100 * judge_card(name)['accuracy']:.2f} %" in words
        assert ("card of another judge" in words) is called


def test_a_judge_without_a_card_does_not_stop_the_report(page):
    row = result_row()
    row["task_values"] |= {"judges": ["of-a-plugin"]}
    assert "of-a-plugin" in Reader(page(row)).words()


def test_a_published_number_stands_beside_ours_with_its_verdict(page, monkeypatch):
    row = result_row()
    told = {"published": 0.058, "source": "Table 1", "verdict": "consistent"}
    monkeypatch.setattr(
        "sa_bench.analysis.published.verdict_on",
        lambda row, m: told if m["name"] == "forget_top1" else None,
    )
    assert "published 5.8 % (Table 1): consistent" in Reader(page(row, *OTHERS)).words()


def test_two_boards_are_listed_on_top_and_told_not_to_be_compared(page):
    text = page(result_row(), result_row(scale="full"))
    assert "2 boards; their numbers may not be compared" in Reader(text).words()
    targets = [a["href"].removeprefix("#") for tag, a in Reader(text).tags if tag == "a"]
    assert targets.count("glossary") == 2
    targets = [target for target in targets if target != "glossary"]
    assert targets == [a["id"] for tag, a in Reader(text).tags if tag == "section"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_phone_needs_no_sideways_scrolling(page, tmp_path):
    """At 390 pixels, everything unfolded, with long names and values; wide tables scroll in their own box."""
    long = "W" * 150
    rows = [result_row(fields={"path": f"/{long}/{i}"}, flags=[long]) for i in range(3)]
    rows += [result_row("esd", error=f"OSError: {long}"), result_row("uce", keep=long), *OTHERS]
    inner = re.sub(
        '<details( class="part")?>',
        "<details open>",
        page(*(r | {"concept": f"a_{long}"} for r in rows)),
    )
    wide = inner.replace("</body>", "<hr width=500></body>")
    frames = "".join(
        f'<iframe width="390" height="800" srcdoc="{html.escape(x)}"></iframe>'
        for x in (inner, wide)
    )
    script = "onload = () => document.body.dataset.w = Array.from(frames, f => f.document.documentElement.scrollWidth)"
    (tmp_path / "host.html").write_text(f"<!doctype html><body>{frames}<script>{script}</script>")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "host.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (widths,) = re.findall(r'data-w="(\d+),(\d+)"', done.stdout)
    assert int(widths[1]) > 500  # the ruler works
    assert int(widths[0]) <= 390


def test_markdown_carries_the_same_boards_and_escapes_what_strangers_wrote():
    markdown = importlib.import_module("sa_bench.reports.markdown")
    rows = [result_row(), result_row("esd", error="<b>no_GPU</b> | 50%"), *OTHERS]
    for row in rows:
        row["concept"] = "celeb_brad_pitt <i>"
    text = markdown.render(rows)
    assert "celeb\\_brad\\_pitt &lt;i&gt;" in text
    assert "<b>" not in text
    assert "&lt;b&gt;no\\_GPU&lt;/b&gt; \\| 50%" in text
    assert "| retrain (reference) |" in text
    assert "python -m sa_bench run --method sa" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") - line.count("\\|") == text_columns(text, line)


def text_columns(text, row):
    """The number of bars in the heading of the table that holds `row`."""
    lines = text.splitlines()
    at = lines.index(row)
    while at and lines[at - 1].startswith("|"):
        at -= 1
    return lines[at].count("|")


def test_markdown_has_the_notes_of_the_page():
    """Under its row what one row says, once what every row does."""
    markdown = importlib.import_module("sa_bench.reports.markdown")
    rows = [result_row(), *OTHERS]
    for row in rows:
        row["flags"] = ["every_one: few images"]
    rows[0]["flags"] = [*rows[0]["flags"], "450 images, but 1800 behind the base's values"]
    lines = markdown.render(rows).splitlines()
    own = lines.index("  - 450 images, but 1800 behind the base's values")
    assert lines[own - 1].startswith("- **sa**")
    assert lines.count("- Every row: every\\_one: few images") == 1


def test_markdown_says_n_a_with_the_reason():
    markdown = importlib.import_module("sa_bench.reports.markdown")
    text = markdown.render(
        [result_row(recovery="no model"), result_row("esd", recovery="no model"), *OTHERS]
    )
    assert text.count("no model") == 1  # a note; the cells bear its number
    assert text.count("n/a \\[1\\]") == 3


def line_of(method, keep):
    return [
        result_row(
            method, keep=keep + 0.1 * b + 0.01 * s * (b + 1), base_seed=b, seed=s, scale="full"
        )
        for b in range(3)
        for s in range(2)
    ]


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_methods_are_compared_and_claims_answered_where_there_are_runs_enough(form):
    renderer = importlib.import_module(f"sa_bench.reports.{form}")
    rows = [
        row | {"folder": "/nowhere"}
        for row in (*line_of("sa", -94.0), *line_of("no_gr", -150.0), *OTHERS)
    ]
    text = Reader(renderer.render(rows)).words().replace("\\", "")
    assert "+56.00 nats" in text
    assert "Two sentences, not one" in text
    assert "without generative replay the rest is destroyed" in text
    assert "holds" in text
    few = Reader(renderer.render([r for r in rows if r["seed"] == 0])).words()
    assert "Two sentences, not one" not in few


def test_a_markdown_report_keeps_what_a_person_wrote_above_it(tmp_path):
    from sa_bench.api import MARK, write_report
    from sa_bench.results.rows import to_json

    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "result.json").write_text(to_json(result_row()))
    out = tmp_path / "board.md"
    write_report([tmp_path], out)
    plain = out.read_text()
    assert plain.startswith("# Results")
    out.write_text(f"# Mine\n\nWords.\n\n{MARK}\n\nold tables")
    write_report([tmp_path], out)
    first = out.read_text()
    assert first.startswith(f"# Mine\n\nWords.\n\n{MARK}\n\n## MNIST")
    assert "old tables" not in first
    assert plain.partition("\n\n")[2] in first
    write_report([tmp_path], out)
    assert out.read_text() == first
    out.write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(SaBenchError, match="is no text in UTF-8"):
        write_report([tmp_path], out)


def test_the_guards_card_is_shown_only_with_the_bounds_that_were_used():
    from sa_bench.data.assets.shipped import guard_card

    def page_of(bounds):
        row = result_row()
        row["measurements"][0]["fingerprint"] = {"metric": "forget_top1", "guard": bounds}
        return Reader(render([row | {"folder": "/nowhere"}])).words()

    assert "memorised replay of 9 images" in page_of(guard_card("mnist")["bounds"])
    assert "memorised replay of 9 images" not in page_of({"recall": 0.1})


FID = {"title": "FID of retained images (Inception)", "unit": None, "better": "lower"}
SAMPLER = {"scheduler": "ddim", "steps": 1000, "eta": 0.5, "guidance": 2.0, "ema": True}


@pytest.mark.parametrize("kind", ["html", "markdown"])
def test_a_published_fid_can_be_repeated_from_the_report(page, kind):
    """Steps, guidance, η, N, the reference set and the base model's own FID stand on one page (base 23.8, method 23.5)."""
    from sa_bench.reports import markdown

    prints = {
        "metric": "inception_fid",
        "sampler": SAMPLER,
        "n_retain": 5000,
        "reference": "retain_train",
    }
    m = measurement("fid[inception-v3-compat]", (23.5, 23.1, 23.9), 23.8, FID)
    warned = "fid[inception-v3-compat]: N=50 < 2048 feature dimensions: biased upward"
    row = result_row(flags=[warned])
    row["task_values"] |= {"sampler": SAMPLER, "n_retain": 5000, "feature_images": 0}
    row["measurements"].append(m | {"role": "secondary", "fingerprint": prints})
    if kind == "html":
        text = html.unescape(page(row))
        parts = [
            "sampler.steps = 1000",
            "sampler.eta = 0.5",
            "sampler.guidance = 2.0",
            "sampler.ema = yes",
            "n_retain = 5000",
            "reference = retain_train",
            warned,
        ]
    else:
        text = markdown.render([row | {"folder": ""}])
        parts = [
            "ddim, 1,000 steps, η = 0.5, guidance 2",
            "5,000 of each retained class",
            "all real ones",
        ]
    for part in (*parts, "23.5", "23.8"):
        assert part in text


def test_a_board_takes_its_endpoint_by_the_metrics_own_name(page):
    """`fid[judge-…]` and `fid[inception-…]` are two metrics; a task names one of them as its endpoint."""
    from result_rows import one

    row = result_row()
    row["task_values"] |= {"primary": ("forget_top1", "recovery", "inception_fid")}
    for metric, shown, value in (
        ("fid", "fid[judge-x]", 5.0),
        ("inception_fid", "fid[inception-v3-compat]", 23.5),
    ):
        m = measurement(shown, value, value, FID)
        row["measurements"].append(m | {"fingerprint": {"metric": metric}})
    assert one([row]).primary[2] == "fid[inception-v3-compat]"


def test_the_style_is_a_file_of_one_rule_a_line_and_lies_in_the_page(page):
    style = (Path(html_report.__file__).parent / "templates" / "report.css").read_text()
    crowded = [x for x in style.splitlines() if x.count("{") > 1 or x.count("}") > 1]
    assert crowded == []
    assert style.count("{") == style.count("}") > 80
    assert style.strip() in page(result_row(), *OTHERS)


def test_a_template_is_compiled_once(monkeypatch):
    first = render([result_row(), *OTHERS])
    monkeypatch.setattr(html_report.Environment, "_generate", None)
    assert render([result_row(), *OTHERS]) == first
