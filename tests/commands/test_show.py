"""`list`, `show` and `new`: what there is, what a field means, and a file to start from."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from sa_bench.commands.check import check
from sa_bench.commands.listing import list_kinds
from sa_bench.commands.show import describe
from sa_bench.contracts import FisherOptions, Prompts, Sampler, Task
from sa_bench.core import registry
from sa_bench.core.errors import FEW_NAMES, SaBenchError, unknown_name
from sa_bench.core.family_contracts import describe_families, read_contracts
from sa_bench.core.field_comments import read_comments
from sa_bench.core.suite_files import list_suites
from sa_bench.engine.cells import resolve
from sa_bench.engine.suites import read_runs
from sa_bench.models.family import get_family, list_families

ROOT = Path(__file__).parents[2]
METHODS = [entry.name for entry in registry.list_entries("method")]


@pytest.mark.parametrize("kind", ["methods", "tasks", "metrics", "suites", "figures"])
def test_one_kind_is_listed_alone(cli, kind):
    headings = re.findall(r"^(\w+):$", cli("list", kind, check=0).stdout, re.M)
    assert headings == [kind]


def test_a_kind_may_be_called_in_the_singular_and_a_wrong_one_is_told(cli):
    assert cli("list", "method", check=0).stdout == cli("list", "methods", check=0).stdout
    assert "Did you mean metrics" in cli("list", "metrcs", check=2).stderr


@pytest.mark.parametrize("name", METHODS)
def test_the_families_in_the_list_are_those_that_the_method_supports(name):
    """They are read from the source; here from the classes."""
    supports = registry.get_method(name).supports
    families = [f for f in list_families() if supports in get_family(f).contracts]
    shown = describe_families(registry.find("method", name).supports)
    assert shown == ("all" if len(families) == len(list_families()) else ", ".join(families))
    assert f"model families: {', '.join(families)}" in describe(name)


def test_the_contracts_of_families_are_read_from_their_files():
    for name, contracts in read_contracts().items():
        assert contracts == tuple(c.__name__ for c in get_family(name).contracts)


def test_a_list_breaks_between_words_and_keeps_its_columns():
    rows = list_kinds(["methods"], 80).splitlines()[1:]
    assert max(map(len, rows)) <= 80
    words = set(list_kinds(["methods"], None).split()[1:])
    assert words == set(" ".join(rows).split())


@pytest.mark.process
def test_what_a_shell_asks_for_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from sa_bench.commands import completion, listing\n"
        "assert completion.complete_components('s') and listing.list_kinds([], 80)\n"
        "assert not {'torch', 'pydantic', 'numpy', 'rich', 'typer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("cls", [Task, Prompts, Sampler, FisherOptions])
def test_every_comment_in_the_source_of_a_field_is_read(cls):
    comments = read_comments(cls)
    names = {field.name for field in fields(cls)}
    assert set(comments) <= names
    assert len(comments) > len(names) / 2


@pytest.mark.parametrize("name", METHODS)
def test_show_prints_each_field_with_its_comment(name):
    shown, cls = describe(name), registry.get_method(name)
    comments = read_comments(cls)
    for field in fields(cls):
        if not is_dataclass(field.default):
            (row,) = re.findall(rf"^  {field.name} = .*$", shown, re.M)
            comment = comments.get(field.name, "")
            assert row.endswith(f"  # {comment}" if comment else ")")


def test_comments_come_from_both_places_and_from_the_parent():
    assert "lam = 100.0  (float)  # λ, weight of the EWC penalty" in describe("sa")
    assert "# How L is minimised; sa_bench.training.loop.TRAINERS." in describe("sa")
    assert "noqa" not in describe("sa")
    assert read_comments(registry.get_method("l2"))["gamma"] == "weight of replay"
    assert "concept = 0  # c_f, an index into `classes`." in describe("mnist_0")


def test_the_comments_of_a_plug_in_are_read(cli, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom sa_bench.contracts import Method\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Method):\n    depth: int = 3  # layers that are changed\n\n"
        "    def forget(self, model, task, run):\n        return model\n"
    )
    assert "depth = 3  (int)  # layers that are changed" in cli("show", path, check=0).stdout


def test_a_narrow_terminal_has_the_comment_below():
    rows = describe("sa", 80).splitlines()
    start = next(i for i, row in enumerate(rows) if row.startswith("  fisher.targets"))
    assert rows[start].endswith("(means | bernoulli)")
    assert rows[start + 1].startswith("      # Decoder means")
    assert all(len(row) <= 80 for row in rows if row.lstrip().startswith("#"))


def test_long_lists_of_prompts_are_folded():
    task, shown = registry.get_task("concept"), describe("concept")
    (row,) = re.findall(r"^  prompts\.kept = .*$", shown, re.M)
    assert task.prompts.kept[2] in row
    assert task.prompts.kept[3] not in shown
    assert f"… {len(task.prompts.kept) - 3} more]" in row
    assert max(map(len, shown.splitlines())) < 600


@pytest.mark.parametrize("name", [name for name, _ in list_suites()])
def test_show_describes_a_suite(name):
    shown = describe(name)
    assert shown.startswith(f"suite {name}: {dict(list_suites())[name]}")
    for run in read_runs(ROOT / "tasks" / "suites" / f"{name}.toml"):
        assert f"--task {','.join(run['task'])} --method {','.join(run['method'])}" in shown
    assert f"plan --suite {name}" in shown


def test_a_typo_names_the_nearest_and_where_all_are():
    many = [f"name_{i}" for i in range(FEW_NAMES + 1)]
    text = str(unknown_name("thing", "name_O", many, "list things"))
    assert re.fullmatch(
        r"Unknown thing 'name_O'\. Did you mean (name_\d), (name_\d) or (name_\d)\? "
        r"`python -m sa_bench list things` shows them all\.",
        text,
    )
    assert "Available: BGR, RGB." in str(unknown_name("order", "rgb", ["RGB", "BGR"], "list"))
    assert "Did you mean RGB?" in str(unknown_name("order", "rgbb", ["RGB", "XYZ"]))


@pytest.mark.parametrize("kind", ["method", "metric", "task"])
def test_a_new_component_passes_check_and_resolves_as_it_is(cli, tmp_path, kind):
    out = cli("new", kind, "mine", check=0).stdout
    path = tmp_path / "mine.py"
    for command in ("check ./mine.py", "run --task"):
        assert command in out
    registry.register(kind, str(path))
    assert [f.text for f in check(kind, "mine") if not f.kept] == []
    given = {"task": ["mnist_0"], "method": ["relabel"], "metric": []} | {kind: [str(path)]}
    (cell,) = resolve(given["task"], given["method"], "quick", metrics=given["metric"])
    assert "mine" in (cell.task.name, cell.method, *cell.task.metrics)
    assert "already exists" in cli("new", kind, "mine", check=2).stderr
    assert "cannot name a" in cli("new", kind, "class", check=2).stderr
    taken = registry.list_entries(kind)[0].name
    assert "exists" in cli("new", kind, taken, check=2).stderr


def test_a_folder_that_cannot_be_written_is_one_line(cli):
    assert "cannot be written" in cli("new", "metric", "mine", "--in", "nowhere", check=2).stderr


def test_show_of_a_file_that_is_no_suite_is_one_line(tmp_path):
    (tmp_path / "x.toml").write_text("a = 1")
    with pytest.raises(SaBenchError, match="is no suite"):
        describe(str(tmp_path / "x.toml"))
