"""Whose code made a number: what a plug-in's hash covers, and that nothing else runs or is joined under it."""

import itertools
import json
import sys
from pathlib import Path

import pytest
from result_rows import OTHERS, result_row

import sa_bench
from sa_bench import api
from sa_bench.analysis.ranking import make_boards
from sa_bench.core import plug_ins, registry
from sa_bench.core.errors import CellFailed, SaBenchError
from sa_bench.engine.cells import OLD_ID, add_cell, resolve
from sa_bench.results.frames import load_results

SCALED = '''"""`mine`: θ times a factor."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sa_bench.contracts import Generator, Run, Task
{imports}


@dataclass(frozen=True)
class Mine:
    """θ ← factor · θ*."""

    factor: float = {factor}
    version: ClassVar[int] = 1
    source: ClassVar[str] = "a test"
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple] = ()
    presets: ClassVar[dict] = {{}}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Scale."""
        {body}
        for value in model.parameters("full").values():
            with torch.no_grad():
                value.mul_(factor)
        return model
'''


def write(path, factor="1.0", imports="", body="factor = self.factor"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SCALED.format(factor=factor, imports=imports, body=body))
    return path


@pytest.fixture(autouse=True)
def forget_plug_ins():
    yield
    registry.forget_plug_ins()


def top1(frame):
    return frame[frame.name == "forget_top1"].value.tolist()


def run_here(path, tiny, out, **options):
    sets = [v for k, v in itertools.pairwise(tiny) if k == "--set"]
    return sa_bench.run(
        "mnist_0",
        str(path),
        scale="quick",
        sets=[*sets, "task.metrics=forget_top1"],
        out=out,
        **options,
    )


def test_an_edit_in_a_notebook_runs_the_new_code(store_env, tiny, tmp_path):
    path = write(tmp_path / "mine.py", "1.0")
    first = top1(run_here(path, tiny, tmp_path / "a"))
    write(path, "0.0")
    second = top1(run_here(path, tiny, tmp_path / "b"))
    assert first == [1.0]
    assert second[0] < 0.5
    assert top1(load_results(tmp_path / "a")) == first


def test_an_edit_during_a_run_stops_it_in_one_line(store_env, tiny, tmp_path):
    path = write(tmp_path / "mine.py")
    sets = [v for k, v in itertools.pairwise(tiny) if k == "--set"]
    cells = resolve(
        ["mnist_0"], [str(path)], "quick", [0, 1], sets=[*sets, "task.metrics=forget_top1"]
    )

    def edit_after_the_first(result):
        if result["seed"] == 0:
            write(path, "0.0")

    results, *_ = api.run_folder(
        cells,
        jobs=1,
        out=tmp_path / "out",
        overwrite=False,
        device="cpu",
        finished=edit_after_the_first,
    )
    assert [r["status"] for r in results] == ["done", "failed"]
    assert "was changed since this run was resolved" in results[1]["error"]
    assert (
        results[0]["provenance"]["plug_ins"]["method mine"]["sha256"]
        == cells[0].code["method mine"]
    )


def test_workers_run_what_was_read(process, tiny, tmp_path):
    write(tmp_path / "mine.py", imports="from helper import K", body="factor = self.factor * K")
    (tmp_path / "helper.py").write_text("K = 0\n")
    command = ["run", "--task", "mnist_0", "--method", "./mine.py,original", *tiny, "--set", "task.metrics=forget_top1",
               "--jobs", "2", "--out", "out"]  # fmt: skip
    process(*command, check=0)
    rows = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("mnist_0-mine*/result.json")]
    assert rows[0]["measurements"][0]["value"] < 0.5
    assert len(rows[0]["provenance"]["plug_ins"]["method mine"]["files"]) == 2


LAYOUTS = {
    "beside it": ("mine.py", {"helper.py": "K = {k}\n"}, "from helper import K", "factor = K"),
    "imported late": ("mine.py", {"helper.py": "K = {k}\n"}, "", "import helper; factor = helper.K"),
    "of a helper": ("mine.py", {"helper.py": "from deep.er import K\n", "deep/__init__.py": "", "deep/er.py": "K = {k}\n"},
                    "from helper import K", "factor = K"),
    "a folder without __init__": ("mine.py", {"bare/helper.py": "K = {k}\n"}, "import bare.helper",
                                  "factor = bare.helper.K"),
    "relative": ("pack/mine.py", {"pack/__init__.py": "", "pack/helper.py": "K = {k}\n"}, "from .helper import K",
                 "factor = K"),
    "by its name as text": ("mine.py", {"helper.py": "K = {k}\n"}, "import importlib",
                            "factor = __import__('helper').K"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_key_covers_what_a_plug_in_imports(toy_like, tmp_path, layout):
    name, helpers, imports, body = layout
    path = write(tmp_path / name, imports=imports, body=body)

    def helpers_say(k):
        for helper, text in helpers.items():
            (tmp_path / helper).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / helper).write_text(text.format(k=k))
        registry.register("method", str(path))
        model = toy_like()
        registry.get_method("mine")().forget(model, None, None)
        return registry.version_key("method", "mine", 1), float(model.value)

    first, second, again = helpers_say(3), helpers_say(5), helpers_say(3)
    assert (first[1], second[1]) == (3.0, 5.0)
    assert first[0] != second[0]
    assert again == first


@pytest.fixture
def toy_like():
    import torch

    class Toy:
        def __init__(self):
            self.value = torch.ones(())

        def parameters(self, scope):
            return {"value": self.value}

    return Toy


def test_two_plug_ins_keep_their_own_helpers(toy_like, tmp_path):
    for folder, k in (("a", 3), ("b", 5)):
        write(tmp_path / folder / "mine.py", imports="", body="from helper import K; factor = K")
        (tmp_path / folder / "helper.py").write_text(f"K = {k}\n")
    classes = []
    for folder in ("a", "b"):
        registry.register("method", str(tmp_path / folder / "mine.py"))
        classes.append(registry.get_method("mine"))
    models = [toy_like(), toy_like()]
    for cls, model in zip(classes, models, strict=True):
        cls().forget(model, None, None)
    assert [float(m.value) for m in models] == [3.0, 5.0]
    assert "helper" not in sys.modules


def test_code_that_cannot_be_followed_is_never_kept_and_says_so(tmp_path):
    path = write(
        tmp_path / "mine.py",
        body="factor = __import__('importlib').import_module(self.version and 'json').loads('1')",
    )
    registry.register("method", str(path))
    first = registry.version_key("method", "mine", 1)
    code = registry.hash_plug_ins([("method", "mine")])
    assert "line" in registry.plug_in_remarks(code)[0]
    assert "cannot be followed" in registry.plug_in_remarks(code)[0]
    registry.forget_plug_ins()  # another command
    registry.register("method", str(path))
    assert registry.version_key("method", "mine", 1) != first
    assert registry.hash_plug_ins([("method", "mine")]) == code


def test_libraries_are_no_part_of_the_key(tmp_path):
    path = write(tmp_path / "mine.py", imports="import torch, numpy, sa_bench, json")
    assert list(plug_ins.read(path).files) == ["mine"]


def test_two_files_of_one_name_are_refused_in_one_command(tmp_path):
    paths = [str(write(tmp_path / folder / "mine.py")) for folder in ("a", "b")]
    with pytest.raises(SaBenchError, match="both a method called mine; rename one"):
        resolve(["mnist_0"], paths)


def test_a_plug_in_is_part_of_a_cells_identity(tmp_path):
    path = write(tmp_path / "mine.py")
    (before,) = resolve(["mnist_0"], [str(path)])
    path.write_text(path.read_text() + "# another\n")
    (after,) = resolve(["mnist_0"], [str(path)])
    assert before.id != after.id
    assert len(after.id) == 16
    assert not resolve(["mnist_0"], ["sa"])[0].code


def with_code(row, sha256, seed):
    model = {"artifacts": {**row["artifacts"], "model": f"{sha256}-{seed}"}, "seed": seed}
    plug_in = {"method mine": {"path": "/x/mine.py", "sha256": sha256}}
    return {
        **row,
        **model,
        "method": "mine",
        "provenance": {**row["provenance"], "plug_ins": plug_in},
    }


def test_two_codes_of_one_name_are_two_lines():
    rows = [with_code(result_row(), "a" * 64, 0), with_code(result_row(), "b" * 64, 0)]
    (board,) = make_boards([*rows, *OTHERS])
    assert {line.label for line in board.lines} >= {"mine code aaaaaaaa", "mine code bbbbbbbb"}
    (board,) = make_boards(
        [with_code(result_row(), "a" * 64, 0), with_code(result_row(), "a" * 64, 1), *OTHERS]
    )
    assert [line.label for line in board.lines if line.method == "mine"] == ["mine"]


def test_ids_of_before_are_recognised_by_their_values(tmp_path):
    (cell,) = resolve(["mnist_0"], ["sa"], "quick", sets=["lam=7"])
    row = json.loads(json.dumps({
        "cell": cell.id[:OLD_ID], "task_values": __import__("dataclasses").asdict(cell.task), "method": "sa",
        "fields": dict(cell.fields), "seed": 0, "base_seed": 0, "scale": "quick", "overrides": {},
    }))  # fmt: skip
    assert cell.is_of(row)
    assert not cell.is_of({**row, "seed": 1}), "a short id that collides is another cell"
    assert cell.is_of({**row, "cell": cell.id})


def test_cells_whose_short_ids_collided_are_two():
    cells = resolve(["mnist_0"], ["sa"], "quick", seeds=[9437, 32605])
    assert len(cells) == 2
    assert cells[0].id[:OLD_ID] == cells[1].id[:OLD_ID]


def test_a_collision_is_an_error(monkeypatch):
    (one,) = resolve(["mnist_0"], ["sa"])
    (two,) = resolve(["mnist_0"], ["sa"], seeds=[1])
    for cell in (one, two):
        monkeypatch.setitem(vars(cell), "id", "0" * 16)
    with pytest.raises(SaBenchError, match="have the same id"):
        add_cell({one.id: one}, two)


def test_a_changed_plug_in_is_refused_when_its_cell_begins(tmp_path):
    path = write(tmp_path / "mine.py")
    (cell,) = resolve(["mnist_0"], [str(path)])
    registry.require_unchanged(cell.code)
    path.write_text("x = 1")
    with pytest.raises(CellFailed, match="run the command again"):
        registry.require_unchanged(cell.code)
    path.unlink()
    with pytest.raises(CellFailed, match="run the command again"):
        registry.require_unchanged(cell.code)


def package(tmp_path, name, entry_points, files):
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sa_bench]\n" + "".join(f"{line}\n" for line in entry_points)
    )


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Packages on the path, as entry points see them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._list_installed.cache_clear()
    yield lambda *arguments: package(tmp_path, *arguments)
    registry._list_installed.cache_clear()


def test_an_installed_package_is_keyed_by_all_of_its_files(installed, tmp_path):
    code = SCALED.format(factor="1.0", imports="from stranger.deep import K", body="factor = K")
    installed(
        "stranger", ["method.scaled = stranger"],
        {"stranger/__init__.py": code, "stranger/deep.py": "K = 2\n"},
    )  # fmt: skip
    facts = registry.describe_source("method", "scaled")
    assert [Path(p).name for p in facts["files"]] == ["__init__.py", "deep.py"]
    before = registry.version_key("method", "scaled", 1)
    (tmp_path / "stranger" / "deep.py").write_text("K = 3\n")
    (cell,) = resolve(["mnist_0"], ["scaled"])
    assert registry.version_key("method", "scaled", 1) != before
    assert cell.code == {"method scaled": registry.describe_source("method", "scaled")["sha256"]}
    assert "deep.py" in __import__("sa_bench.commands.show", fromlist=["describe"]).describe(
        "scaled"
    )


def test_a_broken_package_is_listed_as_broken_and_harms_nothing_else(installed, capsys):
    installed("broken", ["method.bad = broken_code"], {"broken_code.py": "def ("})
    installed("absent", ["metric.lost = nowhere.at_all"], {})
    installed("ending", ["method.quits = quits"], {"quits.py": "import sys; sys.exit(3)"})
    installed(
        "taken",
        ["method.sa = nicer_sa"],
        {"nicer_sa.py": SCALED.format(factor=1, imports="", body="factor = 1")},
    )
    installed("alias", ["method.nicer = package_sa.sa"], {
        "package_sa/__init__.py": "",
        "package_sa/sa.py": SCALED.format(factor=1, imports="", body="factor = 1")})  # fmt: skip
    assert {e.name for e in registry.list_broken("method")} == {"bad", "sa"}
    assert {e.name for e in registry.list_broken("metric")} == {"lost"}
    assert registry.get_method("nicer").__name__ == "Mine"
    assert registry.get_method("sa").__module__ == "sa_bench.methods.sa"
    with pytest.raises(SaBenchError, match="cannot be imported: SystemExit: 3"):
        registry.get_method("quits")
    with pytest.raises(SaBenchError, match=r"cannot be used: .*cannot be read as Python"):
        registry.find("method", "bad")
    from sa_bench.commands.app import list_components

    list_components()
    out = capsys.readouterr().out
    assert "bad" in out
    assert "(cannot be used: " in out
    assert "(package taken)" in out


def test_verify_runs_no_other_code_under_a_results_name(tmp_path):
    from sa_bench.commands.verify.cell_check import CellCheck

    path = write(tmp_path / "mine.py")
    (cell,) = resolve(["mnist_0"], [str(path)])
    check = object.__new__(CellCheck)
    check.code = dict(cell.code)
    assert check._unknown("method", "mine") == ""
    assert check._unknown("method", "sa") == ""
    write(path, "0.0")
    registry.register("method", str(path))
    assert "the code of the method mine differs here" in check._unknown("method", "mine")
    registry.forget_plug_ins()
    assert "its method is not registered here" in check._unknown("method", "mine")
    check.code = {"method sa": "0" * 64}  # a plug-in that bears a built-in one's name
    assert "differs here" in check._unknown("method", "sa")


def test_a_folder_that_is_no_plug_in_is_named_as_what_it_is(tmp_path):
    for read in (registry.detect_kind, lambda path: registry.register("method", str(path))):
        with pytest.raises(SaBenchError, match=r"has no __init__\.py, so no \w+ can be read"):
            read(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SaBenchError, match="is a run's folder and no component; `report`"):
        registry.detect_kind(tmp_path)
