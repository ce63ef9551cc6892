"""What is said beside a text-to-image cell's numbers: images that are none, prompts that lose their tail."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sa_bench
from sa_bench.engine import flags
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.flags import find_short_training
from sa_bench.models.denoising import Denoising
from sa_bench.scoring import sampling


@pytest.fixture
def result(tmp_path, monkeypatch):
    """A cell of a smoke model in which every second image of the model comes out as NaN."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    (tmp_path / "asked.txt").write_text(
        "a zero\n" + " ".join(["a"] * 75) + "\n" + " ".join(["a"] * 76) + "\n"
    )
    sound, made = Denoising._denoise, []

    def broken(*args, **more):
        x = sound(*args, **more)
        made.append(1)
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) % 2 == 0, x, np.nan)

    monkeypatch.setattr(Denoising, "_denoise", broken)
    sets = [
        "task.metrics=retain_drift", f"task.prompts.files.test={tmp_path / 'asked.txt'}",
        "task.n_forget=6", "task.n_retain=2", "task.leakage_images=0",
    ]  # fmt: skip
    sa_bench.run("celeb_brad_pitt", "original", scale="quick", sets=sets, out=tmp_path / "run")
    (file,) = (tmp_path / "run").glob("*/result.json")
    found = json.loads(file.read_text())
    assert found["status"] == "done", found["error"]
    return found


def test_broken_images_and_long_prompts_are_said_once(result):
    said = [
        flag for flag in result["flags"] if flag.startswith(("not finite", "invalid", "prompts"))
    ]
    assert said == [
        "not finite: 3 of 6 images of c_f, 1 of 2 images of the retain set hold NaN or infinite values and are left out of "
        "every number",
        "prompts: 1 of 3 exceed 77 tokens and lose their tail; the first is row 3",
    ]


def test_rows_are_those_of_the_list_that_is_asked_with(tmp_path):
    (tmp_path / "asked.txt").write_text("\n".join(f"prompt {i}" for i in range(1, 8)))
    given = {"prompts.files.test": str(tmp_path / "asked.txt"), "n_forget": "3"}
    task = resolve_task("celeb_brad_pitt", "quick", given)
    assert sampling.prompts_of_set(task, "forget") == [
        (1, "prompt 1"),
        (3, "prompt 3"),
        (5, "prompt 5"),
    ]
    assert [r.request.condition for r in sampling.plan_set(task, "forget")] == [
        "prompt 1",
        "prompt 3",
        "prompt 5",
    ]
    assert len(sampling.prompts_of_set(task, "leakage")) == len(sampling.plan_set(task, "leakage"))


def test_one_line_for_all_sets_and_none_for_none():
    cut, n = {"forget": [12, 40], "retain": [7]}, {"forget": 4703, "retain": 1000}
    assert flags.describe_lost_tails(cut, n, 77) == (
        "prompts: 2 of 4,703 exceed 77 tokens and lose their tail; the first is row 12, and 1 of 1,000 of the retain set "
        "exceed 77 tokens and lose their tail; the first is row 7"
    )
    assert flags.describe_lost_tails({"forget": []}, n, 77) is None
    assert flags.find_invalid({"forget": (0, 8)}) is None
    cell = SimpleNamespace(
        build_method=lambda: SimpleNamespace(remarks=lambda task: [], standing="method")
    )
    assert (
        flags.find_flags(
            SimpleNamespace(task=SimpleNamespace(prompts=None, base=""), cell=cell), {}
        )
        == []
    )


@pytest.mark.parametrize("method", ["retrain", "retrain_surrogate"])
def test_a_model_trained_by_a_shorter_recipe_than_the_bases_is_flagged(method):
    for scale, short in (("quick", True), ("full", False)):
        (cell,) = resolve(["mnist_0"], [method], scale)
        said = find_short_training(cell.build_method(), cell.task)
        assert (said is not None) is short
        assert said is None or "by the short recipe `quick`, the base model by `cosine`" in said
    (cell,) = resolve(["mnist_0"], ["sa"], "quick")
    assert find_short_training(cell.build_method(), cell.task) is None
