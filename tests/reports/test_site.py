"""The site: every page is whole, reachable and harmless, says what the results say, and loads nothing."""

import base64
import hashlib
import html as markup
import json
import os
import re
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote

import pytest
from result_rows import OTHERS, result_row
from sa_bench.reports import html, site

from sa_bench import api
from sa_bench.analysis import pairwise
from sa_bench.analysis.ranking import make_boards
from sa_bench.core import disk, escaping, registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.method_source import read_method
from sa_bench.results.bundles import BUNDLED, open_bundle, write
from sa_bench.results.files import pack_results, read_results, write_result

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EVIL = "=1+1<img src=x onerror=evil()>\x1b[31m[/red]\u202e|`a`\n```\n</script><!--"
LOADS = ("src", "srcset", "poster", "data", "action", "formaction")


def rows(**changes):
    """Two settings of sa and one of a method that nobody here knows, over six runs, and the controls."""
    runs = [{"seed": s, "base_seed": b} for b in range(3) for s in range(2)]
    cells = []
    for i, run in enumerate(runs):
        cells += [
            result_row(fields={"lam": 1.0}, keep=-94.0 - i / 100, **run, **changes),
            result_row(fields={"lam": 10.0}, keep=-96.0 - i / 90, **run, **changes),
            result_row("of_a_stranger", keep=-99.0 - i / 80, forget=0.9, **run, **changes),
        ]
    return [row | {"folder": ""} for row in [*cells, *(r | changes for r in OTHERS)]]


def render(results, bundles=()):
    return site.render(make_boards(results), html, bundles)


@pytest.fixture(scope="module")
def pages():
    return render([*rows(), *rows(scale="full")])


class Reader(HTMLParser):
    """The tags of a page with their attributes, its headings, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.headings = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data):
        self.words.append(data)

    def values(self, name):
        return [a[name] for _, a in self.tags if name in a]

    def text(self):
        return " ".join(" ".join(self.words).split())


def test_there_is_a_page_for_each_board_method_and_task(pages):
    assert {"index.html", "compare.html", "submit.html"} < set(pages)
    assert {p for p in pages if p.startswith("boards/")} == {
        "boards/mnist_0-quick.html",
        "boards/mnist_0-full.html",
    }
    methods = ("sa", "of_a_stranger", "retrain", "original", "relabel")
    assert {p for p in pages if p.startswith("methods/")} == {f"methods/{m}.html" for m in methods}
    assert [p for p in pages if p.startswith("tasks/")] == ["tasks/mnist_0.html"]


def test_every_link_leads_to_a_page_of_the_site_from_any_folder(pages):
    targets = set()
    for path, page in pages.items():
        for link in Reader(page).values("href"):
            assert not re.match(r"[a-z]+:|/", link), link
            address, _, anchor = link.partition("#")
            parts = []
            for part in (PurePosixPath(path).parent / address).parts if address else [path]:
                parts = parts[:-1] if part == ".." else [*parts, part]
            target = "/".join(parts)
            assert target in pages, (path, link)
            targets.add(target)
            if anchor.startswith("board="):
                assert target == "compare.html"
                assert unquote(anchor).removeprefix("board=") in pages
            elif anchor:
                assert anchor in Reader(pages[target]).values("id"), (path, link)
    assert targets == set(pages)  # nothing is out of reach


def test_no_page_loads_anything_and_only_its_own_style_and_script_are_allowed(pages):
    for path, page in pages.items():
        reader = Reader(page)
        for name in LOADS:
            assert all(v.startswith("data:image/webp;base64,") for v in reader.values(name)), path
        assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
        assert not [n for _, a in reader.tags for n in a if n == "style" or n.startswith("on")]
        hashes = {}
        for tag in ("style", "script"):
            (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
            assert not re.search(r"https?://|url\(|@import", inner)
            hashes[tag] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        (policy,) = [
            a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy == (
            f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['style']}'; "
            f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
        )


def test_pages_have_a_language_a_title_of_their_own_and_headings_in_order(pages):
    titles = [re.search("<title>(.*?)</title>", page)[1] for page in pages.values()]
    assert len(set(titles)) == len(titles)
    for path, page in pages.items():
        reader = Reader(page)
        assert ("html", {"lang": "en"}) in reader.tags
        assert [a["content"] for _, a in reader.tags if a.get("name") == "description"] != [""]
        assert reader.headings[0] == 1, path
        assert reader.headings.count(1) == 1, path
        steps = zip(reader.headings, reader.headings[1:], strict=False)
        assert all(after <= before + 1 for before, after in steps), path


def test_the_first_page_has_the_answer_of_each_board_and_a_word_for_each_method(pages):
    text = Reader(pages["index.html"]).text()
    boards = make_boards([*rows(), *rows(scale="full")])
    for board in boards:
        assert board.headline in text
        words = {line.outcome.word for line in board.lines}
        assert all(word in text for word in words)
    assert "× 2" in text  # two settings of sa with one outcome


def test_a_known_method_has_its_documentation_fields_and_references_and_a_strange_one_its_results(
    pages,
):
    known, strange = (Reader(pages[f"methods/{m}.html"]).text() for m in ("sa", "of_a_stranger"))
    assert "Selective Amnesia (Heng & Soh, NeurIPS 2023), Eq. 4" in known
    assert "@inproceedings{heng2023" in known
    assert "λ, weight of the EWC penalty" in known
    assert "fisher.n" in known
    assert "SA (λ=10)" in known
    assert "This sa_bench has no file of this method" in strange
    assert strange.count("NOT FORGOTTEN") >= 2  # one row a board
    assert "This sa_bench has no file" not in known


def test_a_plug_in_under_a_known_name_gets_a_page_without_our_documentation():
    code = {"method sa": {"path": "sa.py", "sha256": "c" * 64}}
    row = result_row(fields={"lam": 3.0}, folder="")
    row["provenance"]["plug_ins"] = code
    made = render([*rows(), row])
    assert "Selective Amnesia" in made["methods/sa.html"]
    assert "Selective Amnesia" not in made["methods/sa-cccccccc.html"]
    assert "This sa_bench has no file of this method" in made["methods/sa-cccccccc.html"]


def test_what_is_read_of_a_method_is_what_it_declares():
    for entry in registry.list_entries("method"):
        cls, source = registry.get_method(entry.name), read_method(entry.name)
        names = [name.partition(".")[0] for name, _, _ in source.fields]
        assert list(dict.fromkeys(names)) == [f.name for f in fields(cls)], entry.name
        assert source.source == cls.source, entry.name
        assert source.documentation, entry.name
    assert read_method("nobody") is None


def test_a_task_says_how_it_is_scored(pages):
    text = Reader(pages["tasks/mnist_0.html"]).text()
    board = make_boards(rows())[0]
    for title in ("Images of zero still judged zero", "mnist-cnn-0", "Forgotten: the upper bound"):
        assert title in text
    assert text.count(board.title) >= 2
    assert "Name of the base model's recipe." in text  # the comment of a field


def comparisons(page):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(data)


def test_what_is_compared_in_the_browser_is_what_the_analysis_computed(pages):
    first = comparisons(pages["compare.html"])[0]
    board = make_boards(rows())[0]
    labels = [row["label"] for row in first["rows"]]
    assert labels == [line.label for line in board.lines]
    computed, _ = pairwise.compare_first(board)
    shown = [pair for pairs in first["pairs"].values() for pair in pairs]
    assert len(shown) == len(computed) == 9
    for c in computed:
        text = f"{c.a} − {c.b}: {pairwise.format_difference_of(c)}"
        (pair,) = [p for p in shown if p["difference"] == text and c.metric in p["metric"]]
        assert pair["verdict"] == pairwise.name_verdict(c)
    assert {p["verdict"] for p in shown} >= {"sa lam=1 is better", "neither is shown to be better"}
    n = len(labels)
    assert len(first["pairs"]) + len(first["missing"]) == n * (n - 1) // 2
    i, j = sorted((labels.index("retrain"), labels.index("sa lam=1")))
    assert "retrain is a reference" in first["reasons"][first["missing"][f"{i}-{j}"]]


def test_why_two_lines_are_not_compared_agrees_with_what_is_compared():
    board = make_boards(rows())[0]
    compared = {(c.a, c.b) for c in pairwise.compare_all_pairs(board)}
    for i, a in enumerate(board.lines):
        for b in board.lines[i + 1 :]:
            assert bool(pairwise.explain_missing(a, b)) is ((a.label, b.label) not in compared)


def test_failed_runs_and_missing_values_are_shown_with_their_reasons():
    failed = result_row("uce", error="no GPU", folder="")
    made = render([*rows(), failed, result_row("esd", keep="no real images", folder="")])
    assert "1 of 1 failed" in Reader(made["methods/uce.html"]).text()
    assert "n/a [1]" in Reader(made["methods/esd.html"]).text()
    assert "[1] no real images" in Reader(made["methods/esd.html"]).text()
    board = comparisons(made["compare.html"])[0]
    (esd,) = [row for row in board["rows"] if row["label"] == "esd"]
    number = board["notes"].index("no real images") + 1
    assert esd["facts"]["kept"] == f"n/a [{number}]"
    alone = render([failed])  # nothing but a failed run
    assert "FAILED" in Reader(alone["index.html"]).text()
    assert "mnist-cnn-0" in alone["tasks/mnist_0.html"]


def test_images_from_elsewhere_have_a_page_of_the_name_that_they_were_given():
    made = render([*rows(), result_row("external", label="Theirs", folder="")])
    assert "Theirs" in Reader(made["methods/theirs.html"]).text()


def test_a_task_is_described_by_our_own_board_where_there_is_one():
    theirs = [row | {"origin": "Eve [1]", "task_title": "Eve's task"} for row in rows(scale="full")]
    assert "<h1>Eve&#39;s task</h1>" in render(theirs)["tasks/mnist_0.html"]
    assert "Eve&#39;s task</h1>" not in render([*theirs, *rows()])["tasks/mnist_0.html"]


def test_a_pair_that_a_page_leaves_out_says_so(monkeypatch):
    monkeypatch.setattr(pairwise, "MATRIX", 2)
    first = comparisons(render(rows())["compare.html"])[0]
    assert len(first["pairs"]) == 1
    assert pairwise.LEFT_OUT in first["reasons"]


@pytest.mark.parametrize("place", ["method", "task", "task_title", "concept", "summary", "origin"])
def test_hostile_text_is_shown_and_never_obeyed(place):
    results = [row | {place: EVIL} for row in rows()]
    results[0] = results[0] | {"fields": {"lam": EVIL}, "flags": [EVIL]}
    texts = dict.fromkeys(("file", "origin", "sha256", "problem"), EVIL)
    made = render(results, [{**texts, "cells": 1, "files": 1}])
    harmless = render(rows())
    assert any("evil()" in page for page in made.values())
    for path, page in made.items():
        assert re.fullmatch(r"([a-z]+/)?[a-z0-9_-]+\.html", path)
        assert "<img src=x" not in page, path
        assert not escaping.find_steering_characters(page), path
        assert page.count("<script") == page.count("</script>"), path
    assert json.dumps(comparisons(made["compare.html"]))
    assert made.keys() == harmless.keys() or place in ("method", "task")


def test_names_of_pages_are_unlike_each_other_on_every_file_system():
    taken = set()
    names = [site._name_page("methods", n, taken) for n in ("A b", "a_b", "a-b", "../..", "", "é")]
    assert names == [
        f"methods/{n}.html" for n in ("a-b", "a_b", "a-b-2", "unnamed", "unnamed-2", "unnamed-3")
    ]


# Writing


@pytest.fixture
def packed(tmp_path):
    file = tmp_path / "ours.jsonl.xz"
    file.write_bytes(pack_results(rows()))
    return file


def texts(folder):
    """What lies in a folder, but for the data that a site holds."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_text() for name, p in files.items() if not name.startswith("data/")}


def test_a_site_holds_the_data_that_its_boards_are_of(packed, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / packed.name).write_bytes(packed.read_bytes())
    api.write_site([packed, other / packed.name], tmp_path / "site")
    data = tmp_path / "site" / "data"
    assert sorted(p.name for p in data.iterdir()) == [f"another-{packed.name}", packed.name]
    assert (data / packed.name).read_bytes() == packed.read_bytes()
    (board,) = (tmp_path / "site" / "boards").iterdir()
    assert f'href="../data/{packed.name}"' in board.read_text()


def test_a_site_is_written_again_without_pages_that_are_gone_and_keeps_other_files(
    packed, tmp_path
):
    out = tmp_path / "site"
    page, n = api.write_site([packed], out)
    first = texts(out)
    assert page == out.resolve() / "index.html"
    assert len(first) == n
    (out / "CNAME").write_text("example")
    (out / "methods" / "gone.html").write_text(f"<html>{site.MARK}")
    (out / "methods" / "mine.html").write_text("<html>of my own")
    api.write_site([packed], out)
    assert texts(out) == first | {"CNAME": "example", "methods/mine.html": "<html>of my own"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.jsonl.xz", "site"]


def test_a_folder_with_something_else_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "index.html").write_text("<html>of my own")
    missing = tmp_path / "missing.jsonl.xz"
    with pytest.raises(SaBenchError, match=r"holds index\.html and no site .* add --overwrite"):
        api.write_site([missing], tmp_path)
    with pytest.raises(SaBenchError, match="is a file; give a folder"):
        api.write_site([missing], tmp_path / "thesis.tex")
    with pytest.raises(SaBenchError, match="A site needs results"):
        api.write_site([], tmp_path / "new")
    with pytest.raises(SaBenchError, match="is no packed results"):
        api.write_site([missing], tmp_path / "new")
    assert sorted(texts(tmp_path)) == ["index.html", "thesis.tex"]


def test_with_overwrite_the_pages_are_written_beside_what_is_there(packed, tmp_path):
    out = tmp_path / "site"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    api.write_site([packed], out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    assert (out / "submit.html").is_file()
    os.mkfifo(out / "pipe")
    before = (out / "index.html").read_text()
    with pytest.raises(SaBenchError, match=r"pipe cannot be kept .* Choose another --out"):
        api.write_site([packed], out)
    assert (out / "index.html").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.jsonl.xz", "site"]


def test_a_writer_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    out = tmp_path / "site"
    out.mkdir()
    (out / "old.html").write_text("old")

    def write_half():
        with disk.replace_folder_when_written(out) as folder:
            (folder / "new.html").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert texts(tmp_path) == {"site/old.html": "old"}


def test_a_folder_whose_writer_was_killed_between_its_two_renames_is_put_back(tmp_path):
    out, stem = tmp_path / "site", f".site.{'0' * 32}"
    for name in ("old", "new"):
        (tmp_path / f"{stem}.{name}").mkdir()
        (tmp_path / f"{stem}.{name}" / f"{name}.html").write_text(name)
    with disk.replace_folder_when_written(out) as folder:
        assert (out / "old.html").read_text() == "old"
        (folder / "next.html").write_text("whole")
    assert texts(out) == {"next.html": "whole"}
    left_over = tmp_path / f"{stem}.new"
    assert left_over.is_dir()  # its writer may live: it is deleted when it is a day old
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "OLD", -1.0)
        with disk.replace_folder_when_written(out):
            assert not left_over.exists()


def test_rows_of_a_bundle_say_whose_they_are_and_the_bundle_is_listed_with_what_was_found(
    packed, tmp_path, monkeypatch
):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    run = tmp_path / "run"
    row = result_row(fields={"lam": 7.0})
    (run / "cell").mkdir(parents=True)
    write_result(run / "cell", row)
    file = tmp_path / f"ada{BUNDLED}"
    write(read_results([run]), file, "Ada", images=False)
    bundle = open_bundle(file)
    api.write_site([packed, file], tmp_path / "site")
    made = {p: Reader(t).text() for p, t in texts(tmp_path / "site").items()}
    assert bundle.sha256 in made["submit.html"]
    assert f"ada{BUNDLED} {bundle.origin} 1 1 {bundle.sha256} no difference" in made["submit.html"]
    assert f"by {bundle.origin}" in made["boards/mnist_0-quick.html"]
    assert f"from {bundle.origin}" in made["methods/sa.html"]


def test_the_commands_on_the_page_on_submitting_exist(pages):
    from typer.main import get_command

    from sa_bench.commands.app import app

    commands = get_command(app).commands
    lines = re.findall(r"<pre>python -m sa_bench (.*?)</pre>", pages["submit.html"])
    assert [line.split()[0] for line in lines] == ["run", "bundle", "verify", "site"]
    for line in lines:
        name, *words = markup.unescape(line).split()
        options = {o for p in commands[name].params for o in p.opts}
        assert {word for word in words if word.startswith("--")} <= options


# In a browser


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser_rows_are_compared_and_no_page_is_wider_than_a_phone(packed, tmp_path):
    api.write_site([packed], tmp_path / "site")
    names = ["index", "compare", "submit", "methods/sa", "tasks/mnist_0", "boards/mnist_0-quick"]
    frames = "".join(
        f'<iframe src="site/{n}.html" width="400" height="800"></iframe>' for n in names
    )
    (tmp_path / "host.html").write_text(f"""<!doctype html><body>{frames}<script>
    const found = {{}};
    onload = () => {{
      for (const frame of document.querySelectorAll('iframe')) {{
        const d = frame.contentDocument;
        d.querySelectorAll('details').forEach((fold) => (fold.open = true));
        found[frame.getAttribute('src')] = d.documentElement.scrollWidth;
      }}
      const w = document.querySelectorAll('iframe')[1].contentWindow, d = w.document;
      const [board, first, second] = d.querySelectorAll('select');
      const pick = (select, label) => {{
        select.value = [...select.options].find((o) => o.textContent.startsWith(label)).value;
        select.dispatchEvent(new w.Event('change'));
      }};
      const say = () => d.getElementById('compared').textContent;
      found.hidden = d.querySelector('.choose').hidden;
      pick(first, 'sa lam=10'); pick(second, 'sa lam=1'); found.methods = say(); found.hash = w.location.hash;
      pick(second, 'retrain'); found.floor = say();
      pick(second, 'sa lam=10'); found.same = say();
      document.body.dataset.r = JSON.stringify(found);
    }}</script>""")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--v=0",
         "--disable-background-networking", "--hide-scrollbars", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "host.html").as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    found = json.loads(markup.unescape(re.findall(r'data-r="([^"]*)"', done.stdout)[0]))
    assert {found[f"site/{n}.html"] for n in names} == {400}
    assert found["hidden"] is False
    assert "sa lam=1 is better" in found["methods"]
    assert "checkpoints differ" in found["methods"]
    assert "a=sa+lam%3D10&b=sa+lam%3D1" in found["hash"]
    assert "retrain is a reference" in found["floor"]
    assert "This is one row" in found["same"]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
