"""The commands from Python: objects that a notebook shows, method and task objects, errors in Python's words."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from result_rows import OTHERS, result_row

import sa_bench
from sa_bench.commands import python, stage_times
from sa_bench.contracts import Method
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve
from sa_bench.results.files import pack_results

ROOT = Path(__file__).parents[2]
TINY = ["task.n_forget=12", "task.n_retain=3", "task.metrics=forget_top1,entropy"]


@pytest.fixture
def packed(tmp_path):
    file = tmp_path / "board.jsonl.xz"
    rows = [result_row(seed=s, keep=-94.0 - s, scale="full") for s in range(5)]
    others = [{**row, "scale": "full"} for row in OTHERS]
    file.write_bytes(pack_results([*rows, *others]))
    return file


@pytest.fixture(autouse=True)
def fast_probe(monkeypatch):
    monkeypatch.setattr(stage_times, "_probe_machine", lambda: stage_times.rates_card()["speed"])


def test_the_interface_is_listed_and_every_name_of_it_is_there():
    assert dir(sa_bench) == sorted(sa_bench.__all__)
    assert set(python.__all__) | {"SaBenchError", "__version__"} == set(sa_bench.__all__)
    for name in sa_bench.__all__:
        assert getattr(sa_bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        sa_bench.rum  # noqa: B018


def test_a_run_gives_a_table_and_its_folder(store_env, tmp_path):
    frame = sa_bench.run(
        "mnist_0", "relabel", seeds=0, scale="quick", sets=TINY, out=tmp_path / "r", progress=False
    )
    assert list(frame["name"]) == ["forget_top1", "entropy"]
    assert frame.attrs["folder"] == str(tmp_path / "r")
    assert (tmp_path / "r" / "report.html").is_file()


def test_a_plan_is_a_text_and_a_table(store_env):
    plan = sa_bench.plan("mnist_0", ["sa", "relabel"], seeds=1, scale="quick")
    assert "2 cells at scale quick" in str(plan)
    assert "<pre>" in plan._repr_html_()
    frame = plan.frame
    assert set(frame["cell"]) == set(plan.stages)
    to_do = frame[frame["state"] == "to do"]
    assert (to_do["low_s"] <= to_do["high_s"]).all()


def test_objects_are_what_their_settings_are():
    sa = registry.get_method("sa")(lam=3.0, steps=7)
    names, methods, sets = python.name_objects("mnist_0", sa)
    (cell,) = resolve(names, methods, "quick", sets=sets)
    assert cell.build_method() == sa, "a preset of the scale overrode a field"
    task = replace(registry.get_task("mnist_0"), n_forget=60, surrogate="class:8")
    names, methods, sets = python.name_objects(task, "relabel")
    assert names == ["mnist_0"]
    assert set(sets) == {"task.n_forget=60", "task.surrogate=class:8"}
    (cell,) = resolve(names, methods, sets=sets)
    assert cell.task.n_forget == 60


def test_two_objects_that_differ_are_refused_as_one_run():
    sa = registry.get_method("sa")
    with pytest.raises(SaBenchError, match=r"Two objects set sa\.lam differently"):
        python.name_objects("mnist_0", [sa(lam=1.0), sa(lam=2.0)])


def test_a_method_of_a_file_is_registered_by_it_and_one_of_a_prompt_is_refused(
    tmp_path, monkeypatch
):
    import importlib.util

    file = tmp_path / "still.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom sa_bench.contracts import Method\n\n\n"
        "@dataclass(frozen=True)\nclass Still(Method):\n    '''Leave it.'''\n\n    lam: float = 1.0\n\n"
        "    def forget(self, model, task, run):\n        return model\n"
    )
    spec = importlib.util.spec_from_file_location("still", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "still", module)
    spec.loader.exec_module(module)
    assert python.name_objects("mnist_0", module.Still(lam=2.0))[1:] == (
        ["still"],
        ["still.lam=2.0"],
    )

    namespace = {"Method": Method, "dataclass": dataclass}
    exec("@dataclass(frozen=True)\nclass Typed(Method):\n    pass", namespace)
    with pytest.raises(SaBenchError, match="Typed is defined in no file"):
        python.name_objects("mnist_0", namespace["Typed"]())


def test_tables_figures_and_comparisons_are_shown(packed, tmp_path):
    table = sa_bench.table("leaderboard", packed)
    assert str(table).startswith("## ")
    assert "\\begin{table" in table.to("latex", "narrow")
    assert set(table.frame["method"]) >= {"sa", "retrain [reference]"}
    assert "<table>" in table._repr_html_()
    figure = sa_bench.figure("tradeoff", packed, out=tmp_path / "x.svg")
    assert figure.path.is_file()
    assert "image/svg+xml" in figure._repr_html_()
    text = sa_bench.compare(packed, methods="sa,retrain")
    assert text.startswith("sa against retrain")
    assert text._repr_html_().startswith("<pre>sa against")
    assert sa_bench.report(packed, out=tmp_path / "r.html") == tmp_path / "r.html"


def test_what_there_is_is_a_table_with_families():
    methods = sa_bench.list_methods().set_index("name")
    assert methods.loc["uce", "families"] == "text_to_image"
    assert methods.loc["sa", ["title", "families"]].tolist() == ["SA", "all"]
    assert "micro-1" in set(sa_bench.list_suites()["name"])
    assert {"forget_top1", "recovery"} <= set(sa_bench.list_metrics()["name"])
    assert "mnist_0" in set(sa_bench.list_tasks()["name"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--scale quick runs now", 'scale="quick" runs now'),
        ("lower it (--set sa.lr=1e-4).", 'lower it (sets=["sa.lr=1e-4"]).'),
        ("--base-seed (base_seeds) -1", "base_seeds (base_seeds) -1"),
        ("Type python -m sa_bench run --task x; or give --out", "Type python -m sa_bench run --task x; or give out"),
        ("Use --device cpu.", 'Use device="cpu".'),
    ],
)  # fmt: skip
def test_errors_name_arguments_and_leave_commands_as_they_are(command, said):
    assert python.translate(command) == said


def test_every_mistake_is_one_exception(tmp_path):
    for call in (
        lambda: sa_bench.run("mnist_0", "sa", scale="huge"),
        lambda: sa_bench.report(tmp_path),
        lambda: sa_bench.table("nothing"),
        lambda: sa_bench.evaluate(tmp_path / "no", "mnist_0"),
        lambda: sa_bench.figure("pareto", tmp_path),
        lambda: sa_bench.load_results(tmp_path / "none"),
    ):
        with pytest.raises(sa_bench.SaBenchError) as caught:
            call()
        assert "--" not in str(caught.value).partition("python -m sa_bench")[0]


def test_the_notebook_runs(store_env, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "examples" / "notebook.ipynb").read_text())
    codes = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(codes) > 5
    assert not any(c.get("outputs") for c in notebook["cells"])
    namespace, printed = {}, StringIO()
    with redirect_stdout(printed):
        for i, code in enumerate(codes):
            exec(compile(code, f"cell {i}", "exec"), namespace)
    assert "Unknown scale 'huge'" in printed.getvalue()
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
