"""The GPU tasks through every stage on a CPU: true archive formats, tiny networks, nothing downloaded."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from archives import write_cifar10, write_stl10

from sa_bench.contracts import Recipe
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import datasets
from sa_bench.engine.base import TrainedBase
from sa_bench.engine.cells import resolve
from sa_bench.scoring import judges, trained_judges
from sa_bench.scoring.cards import TRAINED, judge_card

OTHERS = "no_gr,retrain,retrain_surrogate,relabel"


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Tiny archives of both data sets in SA_BENCH_DATA, and a store of their own."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_cifar10(folder, 4)
    write_stl10(folder, 3)
    monkeypatch.setenv("SA_BENCH_DATA", str(folder))
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    return folder


FEW = ("--set", "task.metrics=forget_top1,kid,fid")


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("cifar10_airplane", {"original,sa": (), OTHERS: FEW}),
        ("stl10_airplane", {"original": FEW}),
    ],
)
def test_methods_run_through_every_stage(name, runs, archives, tmp_path, cli):
    """A method of each way of making a model, and every metric."""
    for methods, metrics in runs.items():
        out = tmp_path / methods
        command = ["run", "--task", name, "--method", methods, "--scale", "quick", *metrics]
        done = cli(*command, "--out", str(out), store=tmp_path / "store", check=0)
        assert "Smoke run" in done.stdout
        results = [json.loads(p.read_text()) for p in out.glob("*/result.json")]
        assert {r["method"] for r in results} == set(methods.split(","))
        for result in results:
            check_result(result, datasets.ENTRIES[name.split("_")[0]].title, metrics)


def check_result(result, title, metrics):
    rows = {m["name"]: m for m in result["measurements"]}
    assert rows[f"kid[judge-{title.lower()}]"]["value"] is not None
    if not metrics:
        assert "6726825d" in rows["fid[inception-v3-compat]"]["reason"]
    judge, card = next(iter(result["artifacts"]["judges"].items()))
    assert judge.endswith("-smoke")
    assert 0 <= card["accuracy"] <= 1
    assert any("smoke run" in flag for flag in result["flags"])
    assert any("not the published" in flag for flag in result["flags"])


def test_a_trained_judge_is_made_once_and_says_how_good_it_is(archives):
    first = judges.load("cifar10-smoke")
    judges.load.cache_clear()
    again = judges.load("cifar10-smoke")
    assert first.content == again.content
    assert 0 <= again.card["accuracy"] <= 1
    assert again.card["n_test"] == len(datasets.load("cifar10").test)
    x = datasets.load("cifar10").test.images
    np.testing.assert_allclose(first.probabilities(x).sum(1), 1)
    assert first.features(x).shape == (len(x), 32)
    with pytest.raises(SaBenchError, match="takes uint8"):
        first.probabilities(x[..., :1])


def test_its_recipe_and_its_data_name_it(archives):
    mine = judge_card("cifar10-smoke")["sha256"]
    assert mine != judge_card("stl10-smoke")["sha256"] != judge_card("stl10-resnet34")["sha256"]
    write_cifar10(archives, 5)
    assert judge_card("cifar10-smoke")["sha256"] != mine


def test_without_imagenet_weights_it_says_which_file_goes_where(archives, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match=r"resnet34-b627a593\.pth .*https://.*weights"):
        judges.load("cifar10-resnet34")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet34-b627a593.pth").write_bytes(b"<html>")
    with pytest.raises(MissingAsset, match="is damaged"):
        judges.load("cifar10-resnet34")


def test_a_judge_below_its_bar_does_not_judge(archives, monkeypatch):
    monkeypatch.setitem(TRAINED, "cifar10-smoke", TRAINED["cifar10-smoke"] | {"bar": 1.01})
    with pytest.raises(SaBenchError, match="refuses to judge"):
        judges.load("cifar10-smoke")


def test_the_resnet_is_torchvisions_with_the_official_head():
    net = trained_judges.ResNet34(10)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(21.3e6, rel=0.01)
    assert net.head.weight.shape == (10, 512)


@pytest.mark.parametrize(
    ("name", "seen", "batch"), [("cifar10_airplane", 45_000, 128), ("stl10_airplane", 11_700, 64)]
)
def test_the_papers_numbers_are_the_tasks(name, seen, batch):
    """Appendix B.1: 5,000 and 1,300 images a class, w = 2, 1,000 steps, λ = 10, 20,000 steps of forgetting."""
    (cell,) = resolve([name], ["sa"], "paper")
    task = cell.task
    assert task.n_retain * 9 == seen
    assert (task.sampler.guidance, task.sampler.steps, task.sampler.scheduler) == (
        3.0,
        1000,
        "ddpm",
    )
    assert task.sampler.ema
    assert task.sampler.dropout
    assert (cell.fields["lam"], cell.fields["steps"], cell.fields["batch"]) == (10.0, 20_000, batch)
    assert cell.fields["fisher"]["n"] == 5000
    assert cell.fields["fisher"]["range"] == "unit"
    assert registry.get_task(name).classes == datasets.ENTRIES[task.dataset].classes


def test_a_methods_recipe_takes_the_bases_averaging_unless_it_has_its_own():
    base = TrainedBase(SimpleNamespace(task=registry.get_task("cifar10_airplane")))
    assert base.complete(Recipe(1, 1e-3, 1)).ema == 0.9999
    assert base.complete(Recipe(1, 1e-3, 1, ema=0.0)).ema == 0.0
    assert base.complete(Recipe(1, 1e-3, 1, ema=0.99)).ema == 0.99
