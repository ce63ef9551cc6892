"""The HTML report in a real browser: sorting, filtering, unveiling, enlarging, folds, and nothing in the console."""

import html
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from result_rows import OTHERS, result_row
from sa_bench.reports import html as report
from safetensors.numpy import save_file

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars "
    "--enable-logging=stderr --v=0"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
EVIL = "<img src=x onerror=top.document.body.dataset.hacked=1>"


def render(cells, **options):
    """The page for rows as they are read back."""
    return report.render([{"folder": "", **cell} for cell in cells], **options)


@pytest.fixture
def driven(tmp_path):
    """Run JavaScript against a page (`d`: its document, `w`: its window); what it returns, and the console."""

    def call(page, script):
        run = f"document.body.dataset.r = JSON.stringify((() => {{{script}}})())"
        host = (
            f'<!doctype html><body><iframe width="1200" height="900" srcdoc="{html.escape(page)}"></iframe>'
            f"<script>onload = () => {{ const w = frames[0], d = w.document; {run} }}</script>"
        )
        (tmp_path / "host.html").write_text(host)
        done = subprocess.run(
            [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
             (tmp_path / "host.html").as_uri()],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        assert "data-hacked" not in done.stdout
        (found,) = re.findall(r'data-r="([^"]*)"', done.stdout)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(found)), console

    return call


def rows():
    return [
        result_row(fields={"lam": 1.0}, keep=-94.0),
        result_row(fields={"lam": 10.0}, keep=-93.5, forget=0.4),
        result_row("esd", keep=-99.0),
        result_row("uce", error=f"{EVIL} no GPU"),
        *OTHERS,
    ]


NAMES = (
    "[...d.querySelectorAll('table.board tbody tr')].filter((r) => !r.hidden)"
    ".map((r) => r.cells[1].querySelector('b').textContent)"
)


def test_a_heading_sorts_up_down_and_back(driven):
    script = f"""
      const names = () => {NAMES}, buttons = [...d.querySelectorAll('table.board th button')];
      const button = buttons.find((b) => b.textContent.startsWith('kept'));
      const all = [names()];
      for (let i = 0; i < 3; i++) {{ button.click(); all.push(names(), button.parentElement.getAttribute('aria-sort')) }}
      return all"""
    found, console = driven(render(rows()), script)
    before, up, one, down, two, back, three = found
    assert (one, two, three) == ("ascending", "descending", None)
    assert back == before
    assert up[0] == "retrain"  # −104 nats
    assert up[-1] == down[-1] == "uce"  # has no value: last both ways
    assert down[:-1] == up[:-1][::-1] or set(down) == set(up)
    assert console == []


def test_columns_of_numbers_are_sorted_as_numbers_and_what_is_missing_is_last(driven):
    """Also where a number has no attribute: intervals, bases, n, and what stands beside the metrics."""
    cells = [result_row("a", forget=(0.1, 0.09, 0.11)), result_row("b", forget=(0.02, 0.015, 0.3))]
    cells += [result_row("c", forget=(0.5, 0.2, 0.6)), result_row("d", forget="no judge"), *OTHERS]
    for row, base, n in zip(cells, (0.9, 0.1, 1.0, None), (1200, 90, 2000, 0), strict=False):
        row["measurements"][0] |= {"base": base, "n": n}
        row["measurements"][1]["extra"] = (
            {"best": {"x": n / 2000, "y": n / 25000, "z": 1.0}} if n else {}
        )
    script = """
      const found = {}, names = ['95 % interval', 'base', 'n', 'a'];
      for (const table of d.querySelectorAll('details details table.sortable, details table.sortable')) {
        for (const head of table.tHead.rows[0].cells) {
          const name = head.textContent.replace(/\\d+ runs?$/, '');
          if (!names.includes(name) || name in found) continue;
          found[name] = [];
          for (let i = 0; i < 2; i++) {
            head.querySelector('button').click();
            found[name].push([...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].textContent));
          }
        }
      }
      return found"""
    found, console = driven(render(cells), script)
    number = {
        name: [[re.match(r"[\d.,]*", x)[0] for x in order] for order in both]
        for name, both in found.items()
    }
    assert sorted(number) == ["95 % interval", "a", "base", "n"]
    for name, (up, down) in number.items():
        ours = [float(x.replace(",", "")) for x in up if x]
        assert ours == sorted(ours), name
        assert [float(x.replace(",", "")) for x in down if x] == sorted(ours, reverse=True), name
        for order in (up, down):
            assert "" not in order[: len(ours)], name
    assert "" in number["base"][0]
    assert console == []


def test_names_are_sorted_by_all_of_their_words(driven):
    """A name may be broken behind its underscore: no_gr and no_ewc were the same to the sort."""
    cells = [result_row(name) for name in ("no_gr", "no_ewc", "sa", "l2")]
    script = """
      const table = d.querySelector('table.heat'), head = table.tHead.rows[0].cells[0];
      head.querySelector('button').click();
      return [...table.tBodies[0].rows].map((row) => row.cells[0].textContent)"""
    names, console = driven(render([*cells, *OTHERS]), script)
    assert names == sorted(names)
    assert {"no_ewc", "no_gr"} < set(names)
    assert console == []


def test_the_list_of_boards_needs_no_sideways_scrolling_on_a_phone(driven):
    page = render([*rows(), result_row(scale="full")])
    script = """
      w.frameElement.width = 400;
      const box = d.querySelector('nav .scroll');
      return [box.scrollWidth <= box.clientWidth, getComputedStyle(d.querySelector('nav td')).display]"""
    found, console = driven(page, script)
    assert found == [True, "block"]
    assert console == []


def test_the_filter_leaves_rows_with_all_words(driven):
    script = f"""
      const field = d.querySelector('input.filter'), names = () => {NAMES}, all = [];
      for (const text of ['control', 'sa lam=10', 'nothing has this', '']) {{
        field.value = text;
        field.dispatchEvent(new w.Event('input'));
        all.push(names().sort(), d.querySelector('.find output').textContent);
      }}
      return [...all, d.querySelectorAll('table.board tbody details.more').length]"""
    found, console = driven(render(rows()), script)
    assert found[:4] == [["original", "relabel"], "2 of 7", ["sa lam=10"], "1 of 7"]
    assert found[4:6] == [[], "0 of 7"]
    assert len(found[6]) == 7
    assert console == []


def pictures(tmp_path, cells):
    images = np.random.default_rng(0).integers(0, 255, (2, 30, 8, 8, 1), np.uint8)
    for end, array in zip(("-base", ""), images, strict=True):
        for name, labels in (("forget", np.zeros(30)), ("retain", np.arange(30) % 9 + 1)):
            parts = {"images": array, "labels": labels.astype(np.int64)}
            save_file(parts, tmp_path / f"{name}{end}.safetensors")
    return [cell | {"folder": str(tmp_path)} for cell in cells]


def test_an_image_that_stands_in_several_places_is_in_the_file_once(driven, tmp_path):
    page = render(pictures(tmp_path, [result_row(), *OTHERS]))
    assert page.count("data:image/webp") == 4  # before and after, of c_f and of the rest
    script = """
      const all = [...d.querySelectorAll('.seen img')];
      return [all.length, all.filter((image) => image.naturalWidth).length]"""
    found, console = driven(page, script)
    assert found == [2 + 2 * len([result_row(), *OTHERS])] * 2
    assert console == []


def test_an_image_is_unveiled_first_and_then_enlarged(driven, tmp_path):
    nude = [
        row | {"task_values": row["task_values"] | {"metrics": ["nudity"]}}
        for row in (result_row(), *OTHERS)
    ]
    script = """
      const image = d.querySelector('.seen img'), dialog = d.querySelector('dialog');
      const state = () => [image.classList.contains('veiled'), dialog.open];
      const all = [state(), image.getAttribute('aria-label')];
      image.focus();
      for (let i = 0; i < 2; i++) {
        image.dispatchEvent(new w.KeyboardEvent('keydown', { key: 'Enter' }));
        all.push(state());
      }
      return [...all, dialog.querySelector('img').alt, d.querySelectorAll('.veiled').length]"""
    page = render(pictures(tmp_path, nude), unblurred=True)
    found, console = driven(page, script)
    assert found[0] == [True, False]
    assert found[1].endswith("blurred; show")
    assert found[2:4] == [[False, False], [False, True]]
    assert found[4] == "images of zero, before forgetting"
    assert found[5] >= 1  # the others stay veiled
    assert console == []
    assert (
        driven(render(pictures(tmp_path, nude)), "return d.querySelectorAll('.veiled').length")[0]
        == 0
    )


def test_a_link_opens_the_fold_it_leads_into_and_many_boards_begin_folded(driven):
    page = render([*rows(), result_row(scale="full")])
    script = """
      const folds = d.querySelectorAll('details'), open = () => [...folds].filter((f) => f.open).length;
      return [open(), d.querySelectorAll('nav table tbody tr').length, folds.length]"""
    (opened, boards, folds), console = driven(page, script)
    assert (opened, boards) == (0, 2)
    assert folds > 4
    assert console == []


@pytest.mark.slow
def test_a_thousand_cells_are_rendered_in_ten_seconds_and_open(driven):
    many = [
        result_row(f"m{i % 40}", seed=seed, base_seed=i % 3, keep=-94 - i / 100, forget=(0.01, 0.0, 0.03))
        for i in range(120) for seed in range(8)
    ]  # fmt: skip
    begin = time.process_time()
    page = render([*many, *OTHERS])
    assert time.process_time() - begin < 10
    found, console = driven(page, "return d.querySelectorAll('table.board tbody tr').length")
    assert found == 43
    assert console == []


def crowded():
    """Rows of thirty methods, most of them in one spot, with an outlier and long names."""
    names = [f"method_{i}_with_a_long_name" for i in range(30)]
    cells = [
        result_row(
            name, keep=-94.0 - 0.01 * i, forget=(0.01 + 0.0005 * i, 0.0, 0.06), flags=[f"note {i}"]
        )
        for i, name in enumerate(names)
    ]
    return [*cells, result_row("far", keep=-3e5), *OTHERS]


def test_no_label_of_a_plot_lies_on_another(driven):
    script = """
      const found = [];
      for (const svg of d.querySelectorAll('.plots svg')) {
        const boxes = [...svg.querySelectorAll('text')].map((t) => [t.textContent, t.getBBox()]);
        const labels = boxes.length;
        for (const [i, [a, p]] of boxes.entries()) {
          for (const [b, q] of boxes.slice(0, i)) {
            const across = Math.min(p.x + p.width, q.x + q.width) - Math.max(p.x, q.x);
            const down = Math.min(p.y + p.height, q.y + q.height) - Math.max(p.y, q.y);
            if (across > 1 && down > 2) found.push([a, b, across, down]);
          }
        }
        if (labels < 8) found.push('too few texts to compare');
      }
      return [d.querySelectorAll('.plots svg').length, found]"""
    for cells in (crowded(), rows()):
        (plots, overlaps), console = driven(render(cells), script)
        assert plots >= 2
        assert overlaps == []
        assert console == []


def test_nothing_is_wider_than_the_page_at_any_width_and_no_name_breaks_in_a_word(driven, tmp_path):
    page = render(pictures(tmp_path, crowded()))
    script = """
      const found = [];
      d.querySelectorAll('details').forEach((fold) => (fold.open = true));
      for (const width of [400, 900, 1400]) {
        w.frameElement.width = width;
        const root = d.documentElement;
        if (root.scrollWidth > width) found.push([width, root.scrollWidth]);
        for (const element of d.body.querySelectorAll('*')) {
          if (element.closest('.scroll table, svg, dialog')) continue;
          if (element.getBoundingClientRect().right > width + 1) found.push([width, element.outerHTML.slice(0, 80)]);
        }
        for (const name of d.querySelectorAll('table.board td.name b, table.heat th[scope]')) {
          for (const part of name.childNodes) {
            const range = d.createRange();
            range.selectNodeContents(part);
            const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
            if (part.nodeType === 3 && lines.size > 1) found.push([width, name.textContent, part.textContent]);
          }
        }
      }
      return found"""
    found, console = driven(page, script)
    assert found == []
    assert console == []


def test_notes_of_a_row_and_the_matrix_and_all_measurements_are_filtered_with_the_board(driven):
    script = """
      const field = d.querySelector('input.filter');
      field.value = 'method_7_';
      field.dispatchEvent(new w.Event('input'));
      const shown = (table) => [...d.querySelectorAll(table + ' tbody tr')].filter((r) => !r.hidden).length;
      return [shown('table.board'), shown('table.heat'), d.querySelectorAll('table.runs').length, shown('table.runs')]"""
    (board, heat, tables, runs), _ = driven(render(crowded()), script)
    assert (board, heat, runs) == (1, 1, tables)
    assert tables == 3


def test_a_page_without_its_script_is_complete(driven, tmp_path):
    """Folds open without it, and every number, name and picture is in the page."""
    page = re.sub(r"<script>.*?</script>", "", render(pictures(tmp_path, rows())), flags=re.S)
    script = """
      return [d.querySelectorAll('table.board tbody tr').length, [...d.querySelectorAll('.seen img[src]')].length,
              [...d.querySelectorAll('.find')].every((e) => e.hidden), d.querySelector('.origin').textContent]"""
    (lines, images, hidden, origin), console = driven(page, script)
    assert (lines, hidden) == (7, True)
    assert images >= 2
    assert "machine" in origin
    assert console == []
