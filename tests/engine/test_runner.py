"""Cells end to end in this process: surrogates, other concepts, failures that take nobody down."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from result_rows import result_row

from sa_bench import api
from sa_bench.core import registry
from sa_bench.core.errors import CellFailed, SaBenchError
from sa_bench.core.store import Store
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import runner
from sa_bench.engine.cells import resolve, title_cells
from sa_bench.engine.stages import Chain
from sa_bench.results.files import pack_results, read_results
from sa_bench.results.frames import load_results
from sa_bench.results.provenance import strip_output_options

QUICK = [
    "task.n_forget=20", "task.n_retain=5", "task.likelihood_images=5", "task.recovery_budgets=0,5",
    "task.recovery_images=10", "task.feature_images=10",
]  # fmt: skip
FAST = ["sa.fisher.n=2000", "sa.lr=0.003", "sa.batch=32", "sa.steps=250", "sa.lam=1"]
ONE = "task.metrics=forget_top1"  # where a test is about runs, not about what they measure


def run(tmp_path, store_env, method="sa", sets=(), **options):
    cells = resolve(
        ["mnist_0"],
        [method] if isinstance(method, str) else method,
        "quick",
        sets=[*QUICK, *sets],
        **options,
    )
    (tmp_path / "store" / "data").mkdir(parents=True, exist_ok=True)
    runner.prepare(tmp_path / "run", cells, overwrite=True)
    return runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run", lambda *e: None, lambda r: None
    )


def value(result, name):
    return next(m["value"] for m in result["measurements"] if m["name"] == name)


def forget_images(tmp_path, result):
    return load_samples(
        next((tmp_path / "run").glob(f"*{result['cell']}")) / "forget.safetensors"
    ).images


def test_a_class_surrogate_turns_the_concept_into_that_class(tmp_path, store_env):
    (result,) = run(
        tmp_path, store_env, sets=[*FAST, f"{ONE},surrogate_fidelity", "task.surrogate=class:eight"]
    )
    assert result["status"] == "done", result["error"]
    assert value(result, "forget_top1") <= 0.1
    assert value(result, "surrogate_fidelity") >= 0.6
    fingerprint = next(m for m in result["measurements"] if m["name"] == "surrogate_fidelity")[
        "fingerprint"
    ]
    assert fingerprint["surrogate"] == "class:8"


def test_a_folder_surrogate_is_learnt_and_keyed_by_content(tmp_path, store_env):
    folder = tmp_path / "q"
    folder.mkdir()
    square = np.zeros((28, 28), np.uint8)
    square[8:20, 8:20] = 255
    for i in range(3):
        Image.fromarray(square).save(folder / f"{i}.png")
    sets = [*FAST, f"{ONE},surrogate_fidelity", f"task.surrogate=folder:{folder}"]
    (result,) = run(tmp_path, store_env, sets=sets)
    assert result["status"] == "done", result["error"]
    made = forget_images(tmp_path, result).astype(float).mean(0)[..., 0]
    assert np.corrcoef(made.ravel(), square.ravel())[0, 1] > 0.9

    def find_key():
        (cell,) = resolve(["mnist_0"], ["sa"], "quick", sets=[*QUICK, *sets])
        return Chain(Store(tmp_path / "store"), cell, lambda *e: None).sets.surrogate_key

    before = [m["fingerprint"].get("surrogate") for m in result["measurements"]]
    assert find_key() in before
    Image.fromarray(255 - square).save(folder / "1.png")
    assert find_key() not in before


def test_a_wrong_image_in_a_surrogate_folder_stops_before_any_work(tmp_path):
    Image.new("L", (32, 28)).save(tmp_path / "a.png")
    with pytest.raises(SaBenchError, match=r"a\.png is 32x28, but 28x28 is needed"):
        resolve(["mnist_0"], ["sa"], "quick", sets=[f"task.surrogate=folder:{tmp_path}"])


def test_another_digit_can_be_forgotten_by_name(tmp_path, store_env):
    (result,) = run(
        tmp_path, store_env, "relabel", sets=[ONE, "task.concept=three", "task.relabel_to=five"]
    )
    assert result["concept"] == "three"
    assert value(result, "forget_top1") <= 0.1
    assert "three" in json.dumps(result["overrides"])


def test_a_filter_is_exposed_by_recovery(tmp_path, store_env):
    sets = [f"{ONE},retain_drift,recovery", "task.recovery_budgets=0,30"]
    results = run(tmp_path, store_env, ["original", "blank"], sets=sets)
    blank = results[1]
    assert forget_images(tmp_path, blank).max() == 0
    assert value(blank, "forget_top1") == 0.0
    assert value(blank, "retain_drift") == 0.0
    assert value(blank, "recovery") == value(results[0], "recovery") > 0.9
    assert blank["artifacts"]["samples"]["forget"] != results[0]["artifacts"]["samples"]["forget"]


def test_a_task_that_scores_other_classes_never_shares_a_cached_value(tmp_path, store_env):
    """θ* itself is measured under both tasks; the second must not find the first one's value."""
    whole = run(tmp_path, store_env, "original", sets=["task.metrics=retain_log_likelihood"])[0]
    cells = resolve(["mnist_0_cover5"], ["original"], "quick", sets=QUICK)
    (part,) = runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run2", lambda *e: None, lambda r: None
    )
    assert value(part, "retain_log_likelihood") != value(whole, "retain_log_likelihood")
    by_name = {m["name"]: m for m in part["measurements"]}
    assert set(by_name["retain_log_likelihood"]["extra"]["by_class"]) == {"2", "4", "6", "8"}
    assert all(m["fingerprint"]["scored"] == [2, 4, 6, 8] for m in part["measurements"])


def test_one_failure_takes_nobody_down_and_says_why(tmp_path, store_env, monkeypatch):
    def breaks(self, model, task, run):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(registry.get_method("relabel"), "forget", breaks)
    bad, good = run(tmp_path, store_env, ["relabel", "original"], sets=[ONE])
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert bad["error"].startswith("ZeroDivisionError: by zero (details: ")
    log = bad["error"].partition("details: ")[2].rstrip(")")
    assert "Traceback" in Path(log).read_text()
    assert runner.exit_code([bad, good]) == 1
    assert runner.exit_code([good]) == 0
    stored = {r["method"]: r["status"] for r in read_results([tmp_path / "run"])}
    assert stored == {"relabel": "failed", "original": "done"}
    assert set(load_results(tmp_path / "run")["status"]) == {"failed", "done"}


def test_a_loss_that_explodes_names_its_step_and_saves_nothing(tmp_path, store_env):
    (result,) = run(tmp_path, store_env, sets=["sa.fisher.n=2000", "sa.steps=200", "sa.lr=1e8"])
    assert result["status"] == "failed"
    assert "at step" in result["error"] or "not finite after the last step" in result["error"]
    assert "--set lr=" in result["error"]
    assert not list((tmp_path / "store" / "forget").glob("*/model.safetensors"))


def test_the_report_of_a_run_holds_the_cells_of_its_last_command_only(tmp_path, store_env):
    run(tmp_path, store_env, "original", sets=[ONE])
    run(tmp_path, store_env, "relabel", sets=[ONE])
    assert [r["method"] for r in read_results([tmp_path / "run"])] == ["relabel"]
    assert len(list((tmp_path / "run").glob("*/result.json"))) == 2


def test_the_same_cells_resume_others_are_refused_and_damage_is_named(tmp_path):
    one = resolve(["mnist_0"], ["original"], "quick")
    two = resolve(["mnist_0"], ["relabel"], "quick")
    runner.prepare(tmp_path, one, overwrite=False)
    runner.prepare(tmp_path, one, overwrite=False)
    with pytest.raises(SaBenchError, match="holds another run"):
        runner.prepare(tmp_path, two, overwrite=False)
    runner.prepare(tmp_path, two, overwrite=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SaBenchError, match="damaged"):
        runner.prepare(tmp_path, two, overwrite=False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text("{}")
    with pytest.raises(SaBenchError, match="damaged"):
        read_results([tmp_path])


def test_cells_are_told_apart_by_everything_that_makes_a_result():
    def ids(**options):
        return [c.id for c in resolve(["mnist_0"], ["sa"], **options)]

    base = ids()
    different = [
        ids(scale="quick"), ids(seeds=[1]), ids(base_seeds=[1]), ids(sets=["lam=1"]), ids(sets=["fisher.n=10"]),
        ids(sets=["task.concept=1"]), ids(sets=["task.n_forget=7"]), ids(sets=["task.surrogate=class:1"]),
    ]  # fmt: skip
    assert len({i for found in (base, *different) for i in found}) == 1 + len(different)
    assert ids(sets=["lam=50"]) == ids(sets=["sa.lam=50.0"]) == base
    assert len(ids(sweeps=["lam=1,10", "steps=5,6,7"])) == 6
    assert len(ids(sweeps=["lam=1,1"], seeds=[0, 0])) == 1
    assert ids(sweeps=['lam=[1, "10"]']) == ids(sweeps=["lam=1,10"])


def test_a_field_is_set_or_swept_and_not_both():
    with pytest.raises(SaBenchError, match="lam is in --sweep and in --set"):
        resolve(["mnist_0"], ["sa"], sets=["lam=5"], sweeps=["lam=1,10"])
    cells = resolve(["mnist_0"], ["sa", "l2"], sets=["lam=5"], sweeps=["sa.lam=1,10"])
    assert [cell.fields["lam"] for cell in cells] == [1, 10, 5]


def test_cells_are_told_apart_by_the_setting_within_a_field():
    cells = resolve(["mnist_0"], ["sa"], "quick", sweeps=["sa.fisher.n=100,200"])
    assert list(title_cells(cells).values()) == [
        f"mnist_0 × sa fisher.n={n} (base 0, seed 0)" for n in (100, 200)
    ]


def test_a_sweep_over_values_that_hold_commas_is_a_json_list():
    sweep = 'task.prompts.test=[["a photo, of {}"], ["{} at sea", "a drawing, of {}"]]'
    cells = resolve(["mnist_0_t2i"], ["original"], "quick", sweeps=[sweep])
    assert [c.task.prompts.test for c in cells] == [
        ("a photo, of {}",),
        ("{} at sea", "a drawing, of {}"),
    ]
    for wrong, said in (("lam=[1,", "not a JSON list"), ("lam=[]", "empty value")):
        with pytest.raises(SaBenchError, match=said):
            resolve(["mnist_0"], ["sa"], sweeps=[wrong])


def test_an_exit_code_of_3_means_that_only_assets_are_missing():
    missing, broken = {"status": "failed", "exit_code": 3}, {"status": "failed", "exit_code": 1}
    assert runner.exit_code([missing, {"status": "done"}]) == 3
    assert runner.exit_code([missing, broken]) == CellFailed.exit_code == 1


def test_a_data_set_that_cannot_be_had_is_asked_for_once_and_leaves_the_other_metrics(
    tmp_path, monkeypatch
):
    from sa_bench.core.errors import MissingAsset
    from sa_bench.data import datasets, mnist

    asked = []

    def nothing(*where):
        asked.append(where)
        raise MissingAsset("no MNIST here")

    monkeypatch.setattr(mnist, "load", nothing)
    monkeypatch.setattr(datasets, "data_remark", lambda name: f"data: not the published {name}")
    datasets.load.cache_clear()
    cells = resolve(["mnist_0"], ["relabel"], "quick", sets=QUICK)
    (result,) = runner.run_cells(
        cells, Store(tmp_path), tmp_path / "run", lambda *e: None, lambda r: None
    )
    assert result["status"] == "done"
    reasons = {m["name"]: m["reason"] for m in result["measurements"] if m["value"] is None}
    assert set(reasons.values()) == {"no MNIST here"}
    assert "recovery" in reasons
    assert "forget_top1" not in reasons
    assert len(asked) == 1
    assert "data: not the published mnist" in result["flags"]


def test_cells_that_have_a_result_elsewhere_are_left_out(tmp_path):
    cells = resolve(["mnist_0"], ["original", "sa", "l2"], "quick")
    for cell, changes in zip(cells, ({}, {"error": "killed"}), strict=False):
        folder = tmp_path / "run" / cell.name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(
            json.dumps(result_row(cell.method, **changes) | {"cell": cell.id})
        )
    (tmp_path / "x.jsonl.xz").write_bytes(pack_results(read_results([tmp_path / "run"])))
    for there in ("run", "x.jsonl.xz"):
        assert [c.method for c in api.unfinished_cells(cells, [tmp_path / there])] == [
            "sa",
            "l2",
        ]  # what failed is run again
        with pytest.raises(SaBenchError, match="Nothing is left to run"):
            api.unfinished_cells(cells[:1], [tmp_path / there])


@pytest.mark.parametrize(("version", "left"), [(99, True), (None, False), (0, False)])
def test_a_result_of_another_version_of_the_method_is_run_again(tmp_path, version, left):
    """0 stands for the version of today, None for results that name none."""
    cells = resolve(["mnist_0"], ["sa", "l2"], "quick")
    folder = tmp_path / "run" / cells[0].name
    folder.mkdir(parents=True)
    row = result_row("sa") | {"cell": cells[0].id}
    version = cells[0].method_version if version == 0 else version
    row["provenance"] = {**row["provenance"], "method_version": version}
    if version is None:
        del row["provenance"]["method_version"]
    (folder / "result.json").write_text(json.dumps(row))
    found = api.unfinished_cells(cells, [tmp_path / "run"])
    assert [c.method for c in found] == (["sa", "l2"] if left else ["l2"])


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("run --task a --out x/y --jobs 2", "run --task a --jobs 2"),
        ("run --out=x --overwrite --task a", "run --task a"),
        ("run --suite s --without a --without b.jsonl.xz", "run --suite s"),
        ("run --set sa.path=--out --task a", "run --set sa.path=--out --task a"),
    ],
)
def test_the_command_to_repeat_says_what_and_not_where(typed, kept):
    assert strip_output_options(typed.split()) == kept.split()


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_shares_never_overlap_and_together_are_the_run(parts):
    cells = resolve(["mnist_0"], ["sa", "relabel"], "quick", seeds=range(4))
    shares = [runner.take_share(cells, (i, parts)) for i in range(1, parts + 1)]
    assert sorted(c.id for share in shares for c in share) == sorted(c.id for c in cells)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert runner.take_share(cells, None) == cells


def test_shares_of_a_run_fill_one_folder_and_what_is_missing_is_named(tmp_path):
    cells = resolve(["mnist_0"], ["relabel"], "quick", seeds=range(5))
    runner.prepare(tmp_path, cells, overwrite=False, parts=3)
    runner.prepare(tmp_path, cells, overwrite=False, parts=3)
    for cell in runner.take_share(cells, (2, 3)):
        (tmp_path / cell.name).mkdir()
        (tmp_path / cell.name / "result.json").write_text("{}")
    said = runner.describe_missing(tmp_path)
    assert said.startswith(f"3 of the 5 cells of {tmp_path} have no result yet")
    assert said.endswith("they are of --part 1/3, 3/3.")
    with pytest.raises(SaBenchError, match="divided into 3 parts, not 2: use --part I/3"):
        runner.prepare(tmp_path, cells, overwrite=False, parts=2)
    runner.prepare(tmp_path, cells, overwrite=False)  # the whole run goes on from its shares
    assert "--part" in runner.describe_missing(tmp_path)
    for cell in cells:
        (tmp_path / cell.name).mkdir(exist_ok=True)
        (tmp_path / cell.name / "result.json").write_text("{}")
    assert runner.describe_missing(tmp_path) == ""
    assert runner.describe_missing(tmp_path / "none") == ""


def test_one_share_runs_and_reports_and_the_next_completes_it(cli, tmp_path):
    command = ["run", "--task", "mnist_0", "--method", "original,relabel", "--scale", "quick"]
    for setting in (*QUICK, ONE):
        command += ["--set", setting]
    command += ["--out", str(tmp_path / "r")]
    first = cli(*command, "--part", "1/2", check=0).stdout
    assert "1 of the 2 cells" in first
    assert "--part 2/2" in first
    assert "--part 2/2" in cli("report", str(tmp_path / "r"), check=0).stdout
    assert "have no result yet" not in cli(*command, "--part", "2/2", check=0).stdout
    results = read_results([tmp_path / "r"])
    assert {r["method"] for r in results} == {"original", "relabel"}
    assert not any("--part" in r["provenance"]["command"] for r in results)


@pytest.mark.parametrize("part", ["3/2", "0/2", "2", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_share_that_is_none_is_refused(cli, part):
    said = cli("run", "--task", "mnist_0", "--method", "sa", "--part", part, check=2).stderr
    assert f"--part {part}: a share I/N" in said
