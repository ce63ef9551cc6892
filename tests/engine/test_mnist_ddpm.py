"""The micro diffusion task end to end: shipped bases, judges of its resolution, methods at scale quick."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import call_main

from sa_bench.contracts import Request, image_seed
from sa_bench.core import registry
from sa_bench.data import datasets
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.models import base_models
from sa_bench.scoring import judges
from sa_bench.scoring.cards import judge_card
from sa_bench.scoring.judges import shows_anything

TASK = registry.get_task("mnist_0_ddpm")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shipped_bases_draw_digits(seed, store_env):
    card = json.loads((WEIGHTS / f"base-ddpm-mnist16-micro-{seed}.json").read_text())
    assert card["accuracy"] >= 0.97
    found = base_models.find_shipped("ddpm", "mnist16", "micro", seed)
    assert found is not None
    model = base_models.new_model("ddpm", "mnist16", "micro").load(found.file)
    rows = [Request(c, image_seed("card", 100 * c + i)) for c in range(10) for i in range(5)]
    images, labels = model.to_images(model.sample(rows, TASK.sampler)), np.repeat(range(10), 5)
    right, _ = judges.majority_vote({n: judges.load(n) for n in TASK.judges}, images, labels)
    assert right.mean() >= 0.95
    assert shows_anything(images).mean() >= 0.99


@pytest.mark.parametrize("name", [*TASK.judges, TASK.reject_judge])
def test_its_judges_are_of_its_resolution_and_above_their_bar(name, store_env):
    card, test = judge_card(name), datasets.load("mnist16").test
    assert card["size"] == 16
    judge = judges.load(name)
    right = judge.probabilities(test.images[:2000])[:, :10].argmax(1) == test.labels[:2000]
    assert right.mean() == pytest.approx(card["accuracy"], abs=0.015)
    assert card["accuracy"] >= card["bar"]


def test_noise_and_grey_show_nothing_at_16_pixels_and_every_digit_does(store_env):
    data, rng = datasets.load("mnist16"), np.random.default_rng(0)
    noise = rng.integers(0, 256, (1000, 16, 16, 1), dtype=np.uint8)
    assert shows_anything(noise).sum() == 0
    assert shows_anything(np.full((1, 16, 16, 1), 128, np.uint8)).sum() == 0
    assert shows_anything(data.test.images).all()


MEASURED = {
    "sa": ("task.metrics=forget_top1,retain_accuracy,retain_bound,forget_bound",),
    "relabel": ("task.metrics=forget_top1,recovery,retain_bound",),
    "original": ("task.metrics=forget_top1,retain_bound",),
}
"""What the tests below ask of each method."""
FEWER = (
    "task.n_forget=20",
    "task.n_retain=5",
    "task.replay_images=90",
    "task.recovery_starts=mean",
    "task.recovery_rates=0.03",
    "task.recovery_budgets=0,60",
    "task.sampler.steps=10",
)
"""A quarter of the images in half the steps, and one short fit in place of four."""
SHORT = {"sa": ("sa.steps=60", "sa.batch=16")}
"""Fields of a method: three fifths of its steps, of half the images each."""


@pytest.fixture(scope="module")
def quick(shared_store, tmp_path_factory):
    """Three methods at scale quick: (measurements by name, results), each by method."""
    folder, results = tmp_path_factory.mktemp("ddpm"), {}
    for methods, metrics in MEASURED.items():
        words = ["--task", "mnist_0_ddpm", "--scale", "quick", "--method", methods]
        sets = (*FEWER, *metrics, *SHORT.get(methods, ()))
        words += [word for value in sets for word in ("--set", value)]
        done = call_main("run", *words, "--out", methods, store=shared_store, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [json.loads(p.read_text()) for p in (folder / methods).glob("*/result.json")]
        results |= {row["method"]: row for row in rows}
    measured = {
        method: {m["name"]: m for m in row["measurements"]} for method, row in results.items()
    }
    return measured, results


def test_sa_forgets_and_keeps(quick):
    rows, _ = quick
    assert rows["original"]["forget_top1"]["value"] >= 0.95
    assert rows["sa"]["forget_top1"]["value"] <= 0.1
    assert rows["sa"]["retain_accuracy"]["value"] >= 0.9
    assert rows["sa"]["retain_bound"]["value"] > rows["sa"]["retain_bound"]["base"]
    assert rows["sa"]["forget_bound"]["value"] > rows["sa"]["forget_bound"]["base"] + 0.3


def test_relabel_is_exposed_by_recovery_alone(quick):
    rows, _ = quick
    relabel, original = rows["relabel"], rows["original"]
    assert relabel["forget_top1"]["value"] <= 0.05
    assert relabel["retain_bound"]["value"] == pytest.approx(original["retain_bound"]["value"])
    assert relabel["recovery"]["value"] >= 0.5


@pytest.mark.slow
def test_naive_stops_at_its_end_point(cli, tmp_path):
    """At a loss of 256, nothing of the noise is predicted any more; it never became NaN."""
    words = ["--task", "mnist_0_ddpm", "--scale", "quick", "--method", "naive"]
    words += ["--set", "task.metrics=forget_top1,retain_bound", "--out", "naive"]
    cli("run", *words, check=0)
    (path,) = (tmp_path / "naive").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "done"
    assert result["fields"]["stop_at"] == 256.0


@pytest.mark.slow
def test_every_value_has_its_base_beside_it_and_none_is_missing(shared_store, tmp_path):
    """Of every metric. The default tests measure four on this task and every one on the others."""
    words = ["--task", "mnist_0_ddpm", "--scale", "quick", "--method", "sa", "--out", "all"]
    done = call_main("run", *words, store=shared_store, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "all").glob("*/result.json")
    for m in json.loads(path.read_text())["measurements"]:
        assert m["value"] is not None, (m["name"], m["reason"])
        assert m["base"] is not None, m["name"]


def test_the_fisher_of_a_shared_set_is_made_once(quick):
    _, results = quick
    made = [r["cost"]["fisher"]["cached"] for r in results.values() if "fisher" in r["cost"]]
    assert made.count(False) <= 1


def test_threads_do_not_change_an_image():
    found = base_models.find_shipped("ddpm", "mnist16", "micro", 0)
    assert found is not None
    model = base_models.new_model("ddpm", "mnist16", "micro").load(found.file)
    rows = [Request(c, c) for c in range(8)]
    one = model.to_images(model.sample(rows, TASK.sampler))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = model.to_images(model.sample(rows, TASK.sampler))
    finally:
        torch.set_num_threads(before)
    assert abs(one.astype(int) - two.astype(int)).max() <= 1
