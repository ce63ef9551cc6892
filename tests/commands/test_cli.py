"""The commands as a person types them, and the commonest mistakes by message."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sa_bench.core.store import STAGES

ROOT = Path(__file__).parents[2]


def test_list_names_everything(cli):
    out = cli("list", check=0).stdout
    for name in (
        "mnist_0",
        "sa",
        "original",
        "relabel",
        "retrain",
        "forget_top1",
        "recovery",
        "fid",
    ):
        assert re.search(rf"^  {name} ", out, re.M), name


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"], ["--version"]])
def test_start_up_is_light(arguments):
    """Few modules, none of them heavy: counted, since seconds depend on what else the machine does."""
    code = (
        "import sys, runpy; before = len(sys.modules); sys.argv = ['sa_bench', *ARGS]\n"
        "try: runpy.run_module('sa_bench', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'diffusers', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert len(sys.modules) - before < MOST, len(sys.modules) - before"
    ).replace("ARGS", repr(arguments)).replace("MOST", "420")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--task", "mnist_O", "--method", "sa"], "Did you mean mnist_0"),
        (["run", "--task", "mnist_0", "--method", "sea"], "Did you mean sa"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "lamb=5"], "Did you mean lam"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "lam=lots"], "lam='lots'"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "lam=-1"], "greater than or equal to 0"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "lam=nan"], "finite"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "steps=0"], "greater than or equal to 1"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "lam"], "field=value"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "fisher.target=means"], "fisher"),
        (["run", "--task", "mnist_0", "--method", "sa", "--scale", "fast"], "Available: full, paper, quick"),
        (["run", "--task", "mnist_0", "--method", "sa", "--seed", "one"], "whole number from 0"),
        (["run", "--task", "mnist_0", "--method", "sa", "--seed", "-1"], "must be a whole number from 0"),
        (["run", "--task", "mnist_0", "--method", "sa", "--seed", "0-2"], "or several: 0,1,2"),
        (["run", "--task", "mnist_0", "--method", "sa", "lam=3"], "go behind --set"),
        (["--task", "mnist_0", "run"], "Options follow the command"),
        (["explain", "sa"], "sa is a method: python -m sa_bench show sa"),
        (["explain", "nowhere"], "nowhere is no file and no folder: give a cell's folder"),
        (["explain", "docs/data/micro-1.jsonl.xz"], "holds the results of many cells"),
        (["run", "--task", "mnist_0", "--method", "sa", "--jobs", "0"], "at least 1"),
        (["run", "--task", "mnist_0", "--method", "sa", "--device", "cuda:9"], "--device cuda:9"),
        (["run", "--task", "mnist_0", "--method", "sa", "--sweep", "lam=1,,2"], "empty value"),
        (["run", "--task", "mnist_0", "--method", ","], "empty list"),
        (["run", "--task", "mnist_0"], "--task and --method, or --suite"),
        (["run", "--task", "mnist_0", "--method", "original", "--set", "sa.lam=1"], "not among --method original"),
        (["show", "relable"], "Did you mean relabel"),
        (["evaluate", "nowhere", "--task", "mnist_0"], "There is no nowhere. Give a folder"),
        (["report", "nowhere"], "no result.json"),
        (["store", "gc", "--stage", "sample"], "Did you mean samples?"),
        *[
            (["run", "--task", "mnist_0", "--method", "sa", "--set", f"task.concept={bad}"], "0 zero, 1 one")
            for bad in ("10", "-1", "airplane", "0.5")
        ],
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "task.surrogate=nose"], "noise"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "task.surrogate=class:0"], "concept itself"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "task.surrogate=folder:/none"], "no folder"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "task.n_forget=0"], "n_forget='0': Input should be"),
        (["run", "--task", "mnist_0", "--method", "sa", "--set", "task.name=x"], "cannot be set"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(cli, arguments, message):
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_show_prints_fields_and_source(cli):
    out = cli("show", "sa", check=0).stdout
    for text in (
        "lam = 100.0",
        "fisher.targets = 'means'  (means | bernoulli)",
        "preset vae/quick",
        "Eq. 4",
    ):
        assert text in out
    assert "n_forget = 500" in cli("show", "mnist_0", check=0).stdout
    assert "better: lower" in cli("show", "fid", check=0).stdout


def test_a_missing_data_set_is_exit_3_before_any_work(cli, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = cli("run", "--task", "mnist_0", "--method", "retrain", env={"SA_BENCH_DATA": str(empty)})
    assert done.returncode == 3
    assert "train-images-idx3-ubyte" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_run_report_resume_and_refusal(cli, tiny, tmp_path):
    command = ["run", "--task", "mnist_0", "--method", "original,relabel", *tiny, "--out", "here"]
    first = cli(*command, check=0)
    assert "Report: here/report.html" in first.stdout
    assert "relabel [control]" in first.stdout
    results = sorted((tmp_path / "here").glob("*/result.json"))
    assert len(results) == 2
    row = json.loads(results[1].read_text())
    assert row["method"] == "relabel"
    assert row["schema"] == 1
    assert row["control"] is True
    names = {m["name"]: m for m in row["measurements"]}
    assert names["forget_top1"]["value"] == 0.0
    assert names["forget_top1"]["base"] > 0.8
    assert names["forget_top1"]["n"] == 20
    assert names["retain_drift"]["value"] == 0.0
    assert "fid[judge-mnist]" in names
    for m in row["measurements"]:
        assert m["value"] is not None or m["reason"], m["name"]
        assert m["fingerprint"]
        if m["value"] is not None and m["low"] is not None:
            assert m["low"] <= m["value"] <= m["high"], m["name"]
    told = cli("explain", str(results[1].parent), check=0).stdout
    assert "relabel (no fields) was applied to base model 0" in told
    assert "from 20 images (0 of 20 in forget_top1.parquet)" in told
    assert "widened for 6 looks" in told
    assert "Each judge alone: mnist-cnn-0" in told
    assert (
        "delete-a-group jackknife"
        in cli("explain", str(results[1].parent), "--metric", "kid", check=0).stdout
    )
    assert (
        "Did you mean entropy?"
        in cli("explain", str(results[1].parent), "--metric", "entropie").stderr
    )
    assert cli("explain", "nowhere").returncode == 2
    before = {p: p.read_text() for p in results}
    again = cli(*command, check=0)
    assert "0 s of new work" in again.stderr
    for path in results:
        old, new = (json.loads(t) for t in (before[path], path.read_text()))
        assert old["measurements"] == new["measurements"]
    refused = cli("run", "--task", "mnist_0", "--method", "original", *tiny, "--out", "here")
    assert refused.returncode == 2
    assert "holds another run" in refused.stderr
    cli("report", "here", "--out", "other.html", check=0)
    assert "<h1>" in (tmp_path / "other.html").read_text()


def test_out_that_is_a_file_is_refused(cli, tiny, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    done = cli("run", "--task", "mnist_0", "--method", "original", *tiny, "--out", "x.json")
    assert done.returncode == 2
    assert "is a file" in done.stderr


def test_plan_and_doctor_run_nothing(cli, tmp_path):
    store = tmp_path / "cold"
    out = cli(
        "plan", "--task", "mnist_0", "--method", "sa,retrain", "--seed", "0,1", store=store, check=0
    ).stdout
    assert "4 cells" in out
    assert "base shipped" in out
    done = cli("doctor", store=store)
    assert done.returncode == 3
    assert "MNIST: not here yet" in done.stdout
    assert not store.exists()


def test_plan_says_what_the_store_has_and_what_is_shared(cli, tiny, tmp_path):
    store = tmp_path / "s"
    (store / "data").mkdir(parents=True)
    command = ["--task", "mnist_0", "--method", "relabel,sa", *tiny]
    cold = cli("plan", *command, "--seed", "0,1", store=store, check=0).stdout
    assert "time unknown" not in cold
    assert "fisher 10,000 samples shared" in cold
    assert "estimated from the shipped boards" in cold
    assert cold.count("base model's samples") == 1, "once, beside every cell of this base"
    assert not list(store.glob("*/*"))
    cli("run", "--task", "mnist_0", "--method", "relabel", *tiny, check=0)
    warm = cli("plan", *command, check=0).stdout
    assert (
        "relabel (base 0, seed 0): base shipped · forget stored · samples stored · 15 metrics stored"
        in warm
    )
    limited = [
        "--task",
        "mnist_0_r1000,mnist_0_cover5",
        "--method",
        "sa",
        *tiny,
        "--set",
        "sa.steps=3",
        "--set",
        "fisher.n=1000",
        "--set",
        "task.metrics=forget_top1,retain_log_likelihood",
    ]
    assert "replay 1,000 images" in cli("plan", *limited, store=store, check=0).stdout
    cli("run", *limited, check=0)
    limited_warm = cli("plan", *limited, check=0).stdout
    assert "2 metrics stored" in limited_warm
    assert "replay" not in limited_warm
    assert "base model's" not in limited_warm
    swept = cli("plan", *command, "--sweep", "sa.lam=1,50", check=0).stdout
    assert "sa lam=50.0 (base 0, seed 0)" in swept
    paper = cli(
        "plan", "--task", "mnist_0", "--method", "sa", "--scale", "paper", store=store, check=0
    ).stdout
    assert re.search(r"base 100,000 steps \d+\.\d min", paper)
    assert "forget 10,000 steps" in paper


def test_store_commands(cli, tmp_path):
    store = tmp_path / "s"
    partial = store / "forget" / "0123456789abcdef.partial"
    partial.mkdir(parents=True)
    (partial / "x").write_bytes(b"1" * 2**20)
    (store / "locks").mkdir()
    (store / "locks" / "forget-0123456789abcdef.lock").touch()
    assert "unfinished" in cli("store", "ls", store=store, check=0).stdout
    assert "1.00 MiB" in cli("store", "size", store=store, check=0).stdout
    assert "Freed 1.00 MiB" in cli("store", "gc", store=store, check=0).stdout
    assert not partial.exists()
    for stage in STAGES:
        cli("store", "gc", "--stage", stage, store=store, check=0)
    assert "Available" in cli("store", "gc", "--stage", "nonsense", store=store, check=2).stderr


def test_a_users_tasks_py_is_never_imported(process, tmp_path):
    for name in ("tasks", "methods", "metrics", "reports"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    process("show", "sa", check=0, cwd=tmp_path)


def test_from_python(store_env, tmp_path, tiny):
    import sa_bench

    sets = [t for t in tiny[2:] if t != "--set"]
    table = sa_bench.run("mnist_0", "relabel", scale="quick", sets=sets, out=tmp_path / "run")
    assert set(table["method"]) == {"relabel"}
    assert {"name", "value", "low", "high", "base", "n"} <= set(table.columns)
    assert os.path.exists(tmp_path / "run" / "report.html")  # noqa: PTH110
