"""A numerical failure is no forgetting: images that are not finite are counted, named and left out, in every family."""

import numpy as np
import pytest
import torch

from sa_bench.contracts import Request, SampleSet
from sa_bench.core.errors import NotFinite
from sa_bench.core.store import Store
from sa_bench.data.sample_sets import load_samples, save_samples
from sa_bench.engine import runner
from sa_bench.engine.cells import resolve
from sa_bench.engine.flags import describe_not_finite
from sa_bench.scoring import sampling

HALF = '''"""`halfway`: θ*, which breaks for half of c_f's images. A numerical failure."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sa_bench.contracts import Generator, Run, Task


@dataclass(frozen=True)
class Halfway:
    """θ* whose samples of c_f are NaN for every `every`-th image."""

    every: int = 2
    version: ClassVar[int] = 1
    source: ClassVar[str] = "a test"
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple] = ()
    presets: ClassVar[dict] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Nothing."""
        return model

    def wrap(self, model: Generator, task: Task) -> Generator:
        """Break."""
        sample = model.sample

        def broken(requests, sampler):
            x = sample(requests, sampler)
            asked = [i for i, r in enumerate(requests) if r.condition in task.prompts_for(task.concept)]
            x[asked[:: self.every]] = float("nan")
            return x

        model.sample = broken
        return model
'''
SETS = {
    "mnist_0": ["task.n_forget=20", "task.n_retain=5", "task.metrics=forget_top1,entropy,retain_accuracy,retain_drift"],
    "mnist_0_ddpm": ["task.n_forget=8", "task.n_retain=2", "task.metrics=forget_top1,retain_drift", "task.sampler.steps=2"],
    "mnist_0_t2i": ["task.n_forget=8", "task.n_retain=1", "task.metrics=forget_top1,retain_drift", "task.sampler.steps=2"],
}  # fmt: skip


def run(task, tmp_path, store, sets):
    (tmp_path / "halfway.py").write_text(HALF)
    cells = resolve([task], ["original", str(tmp_path / "halfway.py")], "quick", sets=sets)
    return runner.run_cells(cells, Store(store), tmp_path / "run", lambda *e: None, lambda r: None)


@pytest.mark.parametrize("task", SETS)
def test_broken_images_are_left_out_and_named(task, tmp_path, store_env):
    sound, broken = run(task, tmp_path, store_env, SETS[task])
    n = sound["measurements"][0]["n"]
    assert broken["status"] == "done", broken["error"]
    assert [f for f in sound["flags"] if f.startswith("not finite")] == []
    (flag,) = [f for f in broken["flags"] if f.startswith("not finite")]
    assert flag.startswith(f"not finite: {n // 2} of {n} images of c_f")
    values = {m["name"]: m for m in broken["measurements"]}
    assert values["forget_top1"]["n"] == n - n // 2
    assert values["retain_drift"]["value"] == 0
    scores = {m["name"]: m["value"] for m in sound["measurements"]}
    if task == "mnist_0":  # on fully sampled models the rate is the base's, and does not halve
        assert values["forget_top1"]["value"] == scores["forget_top1"] == 1.0


def test_no_finite_image_is_no_value(tmp_path, store_env):
    sets = [*SETS["mnist_0"], "halfway.every=1"]
    _, broken = run("mnist_0", tmp_path, store_env, sets)
    values = {m["name"]: m for m in broken["measurements"]}
    assert values["forget_top1"]["value"] is None
    assert "none of the 20 images of forget is finite" in values["forget_top1"]["reason"]


def test_recovery_of_broken_images_is_no_safety(tmp_path, store_env):
    sets = [
        *SETS["mnist_0"][:2],
        "task.metrics=recovery",
        "task.recovery_budgets=0,2",
        "task.recovery_images=10",
    ]
    _, broken = run("mnist_0", tmp_path, store_env, sets)
    (m,) = broken["measurements"]
    assert m["value"] is None
    assert "are not finite" in m["reason"]


class Model:
    """Pictures that are their latents."""

    black_is_broken = False

    def __init__(self, x):
        self.x = x

    def sample(self, requests, sampler):
        return self.x[: len(requests)]

    def to_images(self, x):
        return x.nan_to_num(0).to(torch.uint8).numpy()


def test_render_refuses_and_made_marks():
    x = torch.full((3, 2, 2, 1), 7.0)
    x[1, 0, 0, 0] = float("inf")
    with pytest.raises(NotFinite, match="1 of 3 images are not finite"):
        sampling.render(Model(x), x)

    class Task:
        sampler = None

    _, finite = sampling.generate_images(Model(x), [Request(0, i) for i in range(3)], Task)
    assert finite.tolist() == [True, False, True]


def test_the_mark_is_kept(tmp_path):
    whole = SampleSet(
        np.zeros((2, 1, 1, 1), np.uint8), np.arange(2), np.arange(2), None, np.array([True, False])
    )
    sound = SampleSet(np.zeros((1, 1, 1, 1), np.uint8), np.arange(1), np.arange(1))
    save_samples(whole, tmp_path / "a.safetensors")
    read = load_samples(tmp_path / "a.safetensors")
    assert read.finite.tolist() == [True, False]
    assert SampleSet.concatenate([sound, read]).finite.tolist() == [True, True, False]
    assert SampleSet.concatenate([sound, sound]).finite is None
    assert read.take(np.array([1])).broken == 1
    assert describe_not_finite({"forget": (0, 3), "retain": (0, 3)}) is None
