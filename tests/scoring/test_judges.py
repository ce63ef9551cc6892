"""Judges are instruments: shipped with hash and card, of several families, and they can refuse."""

import contextlib
import json
import shutil

import numpy as np
import pytest

from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data.assets import shipped
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.engine.cells import resolve_task
from sa_bench.scoring import cards, judges

NAMES = cards.list_judges()
TASK = registry.get_task("mnist_0")
GREY = np.full((3, 28, 28, 1), 128, np.uint8)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A copy of one judge that may be harmed."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(WEIGHTS / f"judge-mnist-cnn-0{suffix}", tmp_path)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    monkeypatch.setattr(cards, "WEIGHTS", tmp_path)
    monkeypatch.setattr(judges, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_judge_is_what_its_card_says(name):
    judge = judges.load(name)
    assert judge.content == judge.card["sha256"]
    assert judge.card["accuracy"] >= judge.card["bar"]
    assert judge.card["command"] == f"python -m sa_bench.weights judges {name}"
    side = judge.card.get("size", 28)
    grey = judge.probabilities(np.full((3, side, side, 1), 128, np.uint8))
    np.testing.assert_allclose(grey.sum(1), 1.0)
    np.testing.assert_allclose(grey[0], judge.card["grey"]["probability"], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_its_accuracy_can_be_measured_again(name, store_env):
    from sa_bench.data import datasets

    judge, test = judges.load(name), datasets.load(name.partition("-")[0]).test
    part = test.take(slice(0, 2000))
    right = judges.is_top1(judge.probabilities(part.images)[:, :10], part.labels).mean()
    # 2,000 of the card's 10,000 digits: three standard errors, and the first half of MNIST's test set is harder
    assert abs(right - judge.card["accuracy"]) < 0.02
    by_class = judge.card["accuracy_by_class"]
    assert len(by_class) == 10
    assert min(by_class) > 0.9


def test_the_panel_has_five_strong_cnns_the_papers_own_and_another_family():
    cards_of = {name: cards.judge_card(name) for name in TASK.judges}
    strong = [n for n, c in cards_of.items() if c["kind"] == "cnn" and c["accuracy"] >= 0.985]
    assert len(strong) >= 5
    assert any(c["recipe"] == "paper" for c in cards_of.values())
    assert any(c["kind"] != "cnn" for c in cards_of.values())
    assert TASK.designated in strong


def test_judges_of_one_recipe_disagree_about_grey():
    """Why one judge's entropy is no fact about a model: grey is not a digit, and each says something else."""
    entropy = [
        cards.judge_card(n)["grey"]["entropy"] for n in TASK.judges if "cnn" in n or "paper" in n
    ]
    assert max(entropy) - min(entropy) > 0.5
    assert cards.judge_card("mnist-knn")["grey"]["entropy"] == pytest.approx(np.log(10))


def test_the_reject_judge_is_calibrated_on_hard_negatives():
    card = cards.judge_card(TASK.reject_judge)
    assert set(card["caught"]) >= {"half", "mirrored", "warped", "blend", "grey", "noise", "blank"}
    assert card["false_reject"] < 0.03
    assert min(card["caught"][k] for k in ("half", "mirrored", "warped")) > 0.9


def test_a_judge_below_its_bar_refuses_before_any_work(shelf):
    path = shelf / "judge-mnist-cnn-0.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"accuracy": card["bar"] - 0.001}))
    with pytest.raises(
        SaBenchError, match=r"mnist-cnn-0 refuses to judge.*below its bar.*make judges"
    ):
        judges.load("mnist-cnn-0")


def test_a_damaged_judge_refuses(shelf):
    path = shelf / "judge-mnist-cnn-0.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SaBenchError, match="is damaged"):
        judges.load("mnist-cnn-0")


def test_an_unknown_judge_is_named_with_its_neighbours():
    with pytest.raises(SaBenchError, match="mnist-cnn-0"):
        judges.load("mnist-cn-0")


def test_a_tie_is_nobodys_vote():
    p = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    assert judges.is_top1(p, 0).tolist() == [0.0, 1.0, 0.0]
    assert judges.is_top1(p, np.array([1, 0, 2])).tolist() == [0.0, 1.0, 0.0]
    grey, votes = judges.majority_vote({"mnist-knn": judges.load("mnist-knn")}, GREY, 0)
    assert votes["mnist-knn"].sum() == grey.sum() == 0


def test_scores_do_not_depend_on_how_many_images_are_judged_together():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (620, 28, 28, 1), dtype=np.uint8)
    for name in ("mnist-cnn-0", "mnist-knn"):
        judge = judges.load(name)
        whole = judge.probabilities(images)
        np.testing.assert_allclose(judge.probabilities(images[:7]), whole[:7], atol=1e-5)


@pytest.mark.parametrize(
    "images", [GREY.astype(np.float32) / 255, GREY[..., 0]], ids=["floats in 0..1", "no channel"]
)
def test_images_of_another_type_are_refused(images):
    with pytest.raises(SaBenchError, match="uint8 images"):
        judges.load("mnist-cnn-0").probabilities(images)


def test_nearest_neighbours_have_no_features():
    with pytest.raises(SaBenchError, match="designated judge"):
        judges.load("mnist-knn").features(GREY)


def test_a_digit_shows_something_and_grey_noise_and_blank_show_nothing(store_env):
    """Most judges call grey "one": without this no model could ever be said to have forgotten the 1."""
    from sa_bench.contracts import Request, Sampler
    from sa_bench.data import datasets
    from sa_bench.models import base_models
    from sa_bench.models.vae import VAE

    real = datasets.load("mnist").test.take(slice(0, 3000))
    assert judges.shows_anything(real.images).mean() == 1.0
    for seed in range(3):
        model = VAE().load(base_models.find_shipped("vae", "mnist", "cosine", seed).file)
        rows = [Request(i % 10, i) for i in range(1000)]
        assert judges.shows_anything(model.to_images(model.sample(rows, Sampler()))).mean() == 1.0
    rng = np.random.default_rng(0)
    for images in (
        GREY,
        np.zeros_like(GREY),
        np.full_like(GREY, 255),
        rng.integers(0, 256, (200, 28, 28, 1), dtype=np.uint8),
        (128 + rng.normal(0, 8, (200, 28, 28, 1))).astype(np.uint8),
    ):
        assert judges.shows_anything(images).sum() == 0


def test_grey_is_nobodys_one():
    panel = {n: judges.load(n) for n in TASK.judges}
    closed = [judges.is_top1(j.probabilities(GREY), 1).mean() for j in panel.values()]
    assert np.mean(closed) > 0.5  # what a panel without a veto says
    score, votes = judges.majority_vote(panel, GREY, 1)
    assert score.sum() == 0
    assert all(v.sum() == 0 for v in votes.values())


def test_a_ghost_in_grey_shows_something(store_env):
    """Half-forgotten digits are unlike digits, and a person still sees them: they must be judged."""
    from sa_bench.data import datasets

    digits = datasets.load("mnist").test.take(slice(0, 1000)).images.astype(float)
    for strength in (0.5, 0.3):
        ghosts = (128 + strength * (digits - digits.mean())).clip(0, 255).astype(np.uint8)
        assert judges.shows_anything(ghosts).mean() == 1.0
    noisy = (
        (digits * 0.5 + np.random.default_rng(0).normal(64, 30, digits.shape))
        .clip(0, 255)
        .astype(np.uint8)
    )
    assert judges.shows_anything(noisy).mean() > 0.99


@pytest.mark.parametrize(
    ("task", "setting", "says"),
    [
        (
            "cifar10_airplane",
            "judges=mnist-cnn-0",
            "looks at images of mnist and mnist_canvas, not of cifar10",
        ),
        ("mnist_0", "judges=mnist16-cnn-0", "Judges of those: mnist-cnn-0"),
        ("mnist_0", "reject_judge=mnist16-reject", "looks at images of mnist16"),
        ("mnist_0_ddpm", "judges=cifar10-smoke", "looks at images of cifar10"),
        ("celeb_brad_pitt", "judges=mnist-cnn-0", "No judge of none"),
    ],
)
def test_a_judge_of_other_images_is_refused_before_work(task, setting, says):
    name, _, value = setting.partition("=")
    overrides = {name: value} | ({"designated": value} if name == "judges" else {})
    overrides |= {"model": "smoke"} if task.startswith("celeb") else {}
    with pytest.raises(SaBenchError, match=says):
        resolve_task(task, "quick", overrides)


def test_every_shipped_task_has_judges_of_its_images():
    for entry in registry.list_entries("task"):
        for scale in ("full", "quick", "paper"):
            overrides = (
                {"model": "smoke"}
                if registry.get_task(entry.name).model or not registry.get_task(entry.name).base
                else {}
            )
            with contextlib.suppress(MissingAsset):
                assert resolve_task(entry.name, scale, overrides).name == entry.name
