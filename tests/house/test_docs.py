"""What the documents say is true: links lead somewhere, commands run, tables equal what they were made from."""

import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from pydoc import locate
from statistics import fmean

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from floors import FLOORS
from readme_tables import (
    QUESTIONS,
    methods_table,
    metrics_table,
    on_the_boards_machine,
    tasks_table,
)
from typer.main import get_command

from sa_bench.analysis.pairwise import compare_endpoint
from sa_bench.analysis.ranking import make_boards
from sa_bench.api import MARK, write_report
from sa_bench.commands.app import app
from sa_bench.commands.check import check
from sa_bench.commands.terminal import print_boards
from sa_bench.core import registry
from sa_bench.data.assets.shipped import guard_card
from sa_bench.engine import suites
from sa_bench.models import scopes
from sa_bench.results.files import read_results
from sa_bench.scoring import cards, collapse_guard

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BOARDS = DOCS / "boards"
SUITES = [path.name.partition(".")[0] for path in sorted((DOCS / "data").glob("*.jsonl.xz"))]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted(DOCS.rglob("*.md")),
]
WRITTEN = [p for p in PAGES if not p.name.startswith(("results-micro", "results-paper", "tuning-"))]
"""The pages that people write; the others are written by a command."""
GENERATED = [p for p in PAGES if p not in WRITTEN]


def judge_table():
    rows = [
        "| judge | accuracy | bar | P(zero) on grey | entropy on grey, nats |",
        "|---|---|---|---|---|",
    ]
    for name in registry.get_task("mnist_0").judges:
        card = cards.judge_card(name)
        grey = card["grey"]
        rows.append(
            f"| `{name}` | {card['accuracy']:.4f} | {card['bar']} | {grey['probability'][0]:.3f} | {grey['entropy']:.2f} |"
        )
    return "\n".join(rows)


def guard_table():
    card = guard_card("mnist")
    rows = ["| wreck | worst class | recall | flagged |", "|---|---|---|---|"]
    for name, found in card["power"].items():
        shares = [", ".join(f"{row[q]:.2f}" for row in found) for q in collapse_guard.QUANTITIES]
        rows.append(
            f"| {name} | {shares[0]} | {shares[1]} | {sum(row['flagged'] for row in found)} of {len(found)} |"
        )
    limits = ", ".join(f"{q} {card['bounds'][q]:.3f}" for q in collapse_guard.QUANTITIES)
    rows += [
        "",
        f"Bounds: {limits}; false flags {card['null']['false_flags']} of {sum(card['null']['resamples'].values())}.",
    ]
    return "\n".join(rows)


def memory_table():
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(dict(scopes.SD_1))
    rows = [
        "| scope | parameters | weights | θ* | F | gradient | Adam | total |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scope in scopes.SCOPES:
        trained = sum(p.numel() for p in scopes.within(net, scope).values())
        shown = " | ".join(f"{size / 2**30:.2f}" for size in scopes.memory(net, scope).values())
        rows.append(f"| `{scope}` | {trained:,} | {shown} |")
    return "\n".join(rows)


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_and_names_in_the_documents_are_there(page):
    text = page.read_text()
    for path in re.findall(
        r"`((?:sa_bench|methods|metrics|tasks|reports|tests|docs)/[\w./-]*)`", text
    ):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(sa_bench(?:\.[A-Za-z_]\w*)+)`", text):
        if page.name != "CHANGELOG.md":
            assert locate(name) is not None, name


@pytest.mark.parametrize("page", GENERATED, ids=lambda p: p.name)
def test_a_generated_page_holds_no_prose_but_a_link_to_it(page):
    title, written, *rest = page.read_text().partition(MARK)[0].split("\n\n")
    assert title.startswith("# ")
    assert re.fullmatch(
        r"Written by `make [a-z0-9-]+`\. What it says, in words: \[(.+)\]\(\1\)\.", written
    )
    assert "".join(rest) == ""


def test_the_readme_leads_to_every_page():
    """Five pages from the README, every other from those."""
    reached, further = set(), [ROOT / "README.md"]
    while further:
        page = further.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#]+\.md)[^)]*\)", page.read_text())
        targets = {
            (page.parent / link).resolve() for link in links if not link.startswith("https://")
        }
        further += [target for target in targets if target not in reached and target.is_file()]
    assert set(PAGES) <= reached, set(PAGES) - reached


def test_the_judge_table_equals_the_cards():
    assert judge_table() in (ROOT / "docs" / "metrics.md").read_text()


def test_the_guards_table_equals_its_calibration():
    assert guard_table() in (ROOT / "docs" / "metrics.md").read_text()


def test_the_memory_table_equals_the_configurations():
    assert memory_table() in (ROOT / "docs" / "stable-diffusion.md").read_text()


def test_every_metric_is_documented():
    text = (ROOT / "docs" / "metrics.md").read_text()
    for entry in registry.list_entries("metric"):
        assert f"`{entry.name}" in text, entry.name


def readme_commands():
    text = (ROOT / "README.md").read_text()
    return [
        line.partition("#")[0].strip()
        for line in re.findall(r"^python -m sa_bench (.+)$", text, re.M)
    ]


@pytest.mark.parametrize("command", readme_commands())
def test_the_readmes_commands_resolve(cli, command, tmp_path, monkeypatch):
    """Of a suite the first cells are planned; test_suites resolves every suite that ships."""
    arguments = shlex.split(command)
    on_the_boards_machine(monkeypatch.setattr)
    (tmp_path / "drift.py").write_text(readme_code())
    arguments = [x.replace("./drift.py", str(tmp_path / "drift.py")) for x in arguments]
    for option in ("--device", "--out"):  # a plan needs none
        if option in arguments and arguments[0] == "run":
            place = arguments.index(option)
            del arguments[place : place + 2]
    if "--model" in arguments:  # a folder of the reader's
        place = arguments.index("--model")
        arguments[place : place + 2] = ["--scale", "quick"]
    resolve_suite = suites.resolve_suite
    monkeypatch.setattr(suites, "resolve_suite", lambda *given: resolve_suite(*given)[:3])
    if arguments[0] == "run":
        arguments[0] = "plan"  # the same options, checked the same way, and nothing is run
        assert " at scale " in cli(*arguments, check=0).stdout
    elif arguments[0] in ("list", "show", "plan"):
        cli(*arguments, check=0)
    else:
        name, *rest = arguments
        get_command(app).commands[name].make_context(name, rest)


def readme_code():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return code


def test_the_readmes_method_is_the_one_that_extending_tries():
    assert readme_code() == dict(EXAMPLES)["drift.py"]


def test_the_readmes_tables_are_what_there_is(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    on_the_boards_machine(monkeypatch.setattr)
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))  # nothing ran there
    assert methods_table() in text
    assert metrics_table() in text
    assert tasks_table() in text
    named = sorted(" ".join(QUESTIONS.values()).split())
    assert named == sorted(entry.name for entry in registry.list_entries("metric"))


def test_the_readme_shows_what_the_demo_printed(capsys, monkeypatch):
    """Its table and its headline are those of docs/examples/demo.jsonl.xz, whose run drew the picture."""
    text = (ROOT / "README.md").read_text()
    rows = read_results([DOCS / "examples" / "demo.jsonl.xz"])
    monkeypatch.setenv("COLUMNS", "80")
    print_boards(rows)
    printed = [x.rstrip() for x in capsys.readouterr().out.splitlines()]
    table = [x for x in printed if set("│┃╇") & set(x)]
    assert "\n".join(table) in text
    (board,) = make_boards(rows)
    headline = board.headline.partition(" Controls caught")[0].replace("sa hid", "`sa` hid")
    assert headline.replace(" — ", ". ").lower() in " ".join(text.replace("*", "").split()).lower()
    settings = re.search(r"run (--task mnist_0 .*) --jobs", (ROOT / "Makefile").read_text())[1]
    assert all(settings in row["provenance"]["command"] for row in rows)


def test_what_the_readme_found_is_in_the_board():
    """75 to 95 % come back from what hid zero and kept the rest; forty times the base's distance."""
    (board,) = (
        b
        for b in make_boards(read_results([DOCS / "data" / "micro-t2i-1.jsonl.xz"]))
        if b.task == "mnist_0_t2i"
    )
    _, recovery, keep = board.primary
    hidden = [x for x in board.lines if x.outcome.word == "HIDDEN" and len(x.cells) == 9]
    kept = [x for x in hidden if x.endpoints[keep].value < 10]
    shares = [round(100 * x.endpoints[recovery].value) for x in kept]
    assert (min(shares), max(shares)) == (75, 95)
    (salun,) = (x for x in board.lines if x.outcome.word == "ERASED")
    assert round(salun.endpoints[keep].value / salun.endpoints[keep].base, -1) == 40
    runs = sum(len(read_results([DOCS / "data" / f"{name}.jsonl.xz"])) for name in SUITES)
    assert f"{runs:,} runs, on CPUs" in (ROOT / "README.md").read_text()


def test_the_readmes_memory_is_what_was_measured():
    row = next(x for x in (DOCS / "gpu.md").read_text().splitlines() if x.startswith("| `full` |"))
    attention = (DOCS / "gpu.md").read_text().partition("| `xattn` |")[2].partition("\n")[0]
    text = (ROOT / "README.md").read_text()
    assert "27.6 GiB" in row
    assert "8.3 GiB" in attention
    assert "`sa` peaks at 27.6 GiB, at 8.3 GiB in cross-attention" in text


def test_make_targets_named_in_the_documents_exist():
    heads = re.findall(r"^([a-z0-9- ]+):", (ROOT / "Makefile").read_text(), re.M)
    targets = {
        *(name for head in heads for name in head.split()),
        *(f"suite-{path.stem}" for path in (ROOT / "tasks" / "suites").glob("*.toml")),
    }
    named = {
        t for page in PAGES for t in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.M)
    }
    assert named <= targets, named - targets


def test_the_readmes_leaderboard_is_what_its_command_prints(cli):
    text = (ROOT / "README.md").read_text()
    command, below = re.search(
        r"<!-- python -m sa_bench (table .*?) -->\n\n(.*?)\n\n", text, re.S
    ).groups()
    printed = cli(*shlex.split(command), cwd=ROOT, check=0).stdout
    assert [x for x in printed.splitlines() if x.startswith("|")] == below.splitlines()


@pytest.mark.parametrize("data", SUITES)
def test_a_boards_page_is_what_its_data_says(data, tmp_path):
    page = (BOARDS / f"results-{data.removesuffix('-1')}.md").read_text()
    copy = tmp_path / "page.md"
    copy.write_text(page.partition(MARK)[0] + MARK)
    write_report([ROOT / "docs" / "data" / f"{data}.jsonl.xz"], copy)
    assert copy.read_text() == page


def test_the_vae_table_is_what_its_data_says():
    """The small table of its reading: what SA keeps more than each ablation, over the runs that both have."""
    page = (BOARDS / "reading-micro.md").read_text()
    said = {
        row.split("`")[1]: row.replace("*", "")
        for row in page.splitlines()
        if row.startswith("| `")
    }
    data = make_boards(read_results([ROOT / "docs" / "data" / "micro-1.jsonl.xz"]))
    found = {
        b.task: {line.method: line for line in sorted(b.lines, key=lambda x: len(x.cells))}
        for b in data
    }
    tasks = "mnist_0", "mnist_0_r1000", "mnist_0_cover5"
    assert len(said) == 5
    for method, row in said.items():
        if method == "sa":  # the heading
            continue
        for task, cell in zip(tasks, row.split("|")[2:], strict=False):
            c = compare_endpoint("retain_log_likelihood", found[task]["sa"], found[task][method])
            digits = 2 if abs(c.difference) < 2 else 1
            low, high = (format(number, f".{digits}f") for number in (c.low, c.high))
            assert cell.strip() == f"{c.difference:+.{digits}f} ({low} to {high})".replace(
                "-", "−"
            ), (
                method,
                task,
            )


def test_the_text_to_image_table_is_what_its_data_says():
    """The small table of its reading: means of the runs of the row's method, of what is told of both places."""
    page = (BOARDS / "reading-micro-t2i.md").read_text()
    said = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    data = ROOT / "docs" / "data" / "micro-t2i-1.jsonl.xz"
    cells = [r for r in read_results([data]) if r["task"] == "mnist_0_t2i"]
    tuned = {
        "sa": {"lam": 3.0},
        "salun": {"target": "frozen"},
        "concept_ablation": {"target": "frozen"},
    }
    tuned["esd"] = {"scope": "xattn", "lr": 1e-3}
    assert len(said) == 9
    for method, row in said.items():
        runs = [
            {m["name"].partition("[")[0]: m for m in r["measurements"]}
            for r in cells
            if r["method"] == method and tuned.get(method, {}).items() <= r["fields"].items()
        ]
        forget, recovery, kid = (
            fmean(m[name]["value"] for m in runs) for name in ("forget_top1", "recovery", "kid")
        )
        both = [m["paraphrase_rate"]["extra"]["families"] for m in runs]
        company = fmean(f[f"composed, {side}"]["value"] for f in both for side in ("left", "right"))
        texts = [
            f"{100 * forget:.1f} %",
            f"{100 * recovery:.0f} %",
            f"{100 * company:.0f} %",
            f"{kid:#.2g}",
        ]
        assert [part.strip() for part in row.split("|")[2:6]] == texts


EXAMPLES = re.findall(
    r"as `(\w+\.py)`.*?```python\n(.*?)```", (DOCS / "extend.md").read_text(), re.S
)


@pytest.fixture
def plug_ins():
    """Forget afterwards what a test registers."""
    yield
    registry.forget_plug_ins()


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_examples_of_extending_keep_their_contracts(name, code, tmp_path, store_env, plug_ins):
    kind = {"drift.py": "method", "brightness.py": "metric", "seven.py": "task"}[name]
    (tmp_path / name).write_text(code)
    (reference,) = registry.register(kind, str(tmp_path / name))
    findings = check(kind, reference)
    assert len(findings) >= 5
    assert [finding.text for finding in findings if not finding.kept] == []


def test_every_example_of_extending_is_tried():
    """A method, a metric and a task, and the script of the model family, which prints what the page says."""
    text = (DOCS / "extend.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (script,) = set(blocks) - {code for _, code in EXAMPLES}
    assert len(EXAMPLES) == 3
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(script, "extend.md", "exec"), {})
    (promised,) = re.findall(r"It prints `(.*?)`", text)
    assert printed.getvalue().strip() == promised


def test_the_picture_of_the_floors_is_the_rule():
    picture = (DOCS / "architecture.md").read_text().partition("```\n")[2].partition("```")[0]
    drawn = [set(line[:46].split()[1:]) for line in picture.splitlines()]
    assert drawn[::-1] == FLOORS


def test_the_table_of_rooms_names_them_all():
    text = (DOCS / "architecture.md").read_text()
    rooms = set(re.findall(r"^\| `(?:sa_bench/)?(\w+)(?:/|\.py)` \|", text, re.M))
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize(
    ("suite", "task", "retention", "count", "digits"),
    [
        ("micro-2", "mnist_0", "retain_log_likelihood", 9, (1, 2)),
        ("micro-ddpm-2", "mnist_0_ddpm", "retain_bound", 13, (0, 3)),
    ],
)
def test_the_table_of_a_second_reading_is_of_its_data(suite, task, retention, count, digits):
    """Means over the runs of each row, as the page's table writes them; `digits` of bits left and of what is kept."""
    rows = [
        row for row in read_results([DOCS / "data" / f"{suite}.jsonl.xz"]) if row["task"] == task
    ]
    page = (DOCS / "boards" / f"reading-{suite}.md").read_text()
    shown = re.findall(r"^\| `(\w+)`(?: λ = ([\d.]+))?(?: (gaussian))? \| (.+) \|$", page, re.M)
    assert len(shown) == count
    for method, lam, noise, columns in shown:
        runs = [
            row
            for row in rows
            if row["method"] == method
            and (not lam or row["fields"]["lam"] == float(lam))
            and (not noise or row["fields"]["noise"] == noise)
        ]
        values = {
            name: [m for row in runs for m in row["measurements"] if m["name"] == name]
            for name in ("forget_top1", "recovery", "relearn", "bits_left", retention)
        }
        means = {name: fmean(m["value"] for m in found) for name, found in values.items()}
        kept = fmean(m["value"] - m["base"] for m in values[retention])
        forgot, recovery, relearn, bits, nats = columns.split(" | ")
        for text, name in ((forgot, "forget_top1"), (recovery, "recovery"), (relearn, "relearn")):
            assert float(text.partition(" %")[0]) == pytest.approx(100 * means[name], abs=0.051)
        half = [0.51 * 10**-n for n in digits]
        assert float(bits) == pytest.approx(means["bits_left"], abs=half[0])
        assert float(nats.replace("−", "-")) == pytest.approx(kept, abs=half[1])
