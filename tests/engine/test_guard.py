"""The collapse guard: never flags the base at other seeds, always flags a wreck."""

from dataclasses import replace

import numpy as np
import pytest

from sa_bench.core import registry
from sa_bench.data.assets.shipped import guard_card
from sa_bench.scoring import collapse_guard, judges

TASK = registry.get_task("mnist_0")


@pytest.fixture(scope="module")
def digits():
    """Images of a base model for the retained classes, twice, and real ones."""
    from sa_bench.data import datasets
    from sa_bench.models import base_models
    from sa_bench.models.vae import VAE
    from sa_bench.weights.guard_calibration import draw

    task = replace(TASK, n_retain=40)
    model = VAE().load(base_models.find_shipped("vae", "mnist", "cosine", 0).file)
    real = datasets.real_images(TASK, "retain_test").take(slice(0, 1500))
    return draw(model, task, "retain"), draw(model, task, "guard test"), real


def shares(images, base, real):
    panel = {name: judges.load(name) for name in TASK.judges}
    return collapse_guard.measure_shares(images, base, real, panel, TASK.designated)


def test_the_base_at_other_seeds_stands(store_env, digits):
    base, other, real = digits
    found = shares(other, base, real)
    limit = collapse_guard.bounds("mnist")
    assert collapse_guard.describe_collapse(found, limit) == []
    assert all(0.7 < s.share < 1.4 for s in found.values())
    assert all(s.high > s.share for s in found.values())
    same = shares(base, base, real)
    assert all(s.share == 1.0 for s in same.values())


def test_blank_images_and_one_image_a_class_are_flagged(store_env, digits):
    base, _, real = digits
    limit = collapse_guard.bounds("mnist")
    blank = replace(base, images=np.zeros_like(base.images))
    assert len(collapse_guard.describe_collapse(shares(blank, base, real), limit)) == 2
    first = {c: base.images[base.labels == c][0] for c in np.unique(base.labels)}
    prototypes = replace(base, images=np.stack([first[c] for c in base.labels]))
    flagged = collapse_guard.describe_collapse(shares(prototypes, base, real), limit)
    assert any(text.startswith("recall is") for text in flagged)


def test_one_lost_class_is_found_among_nine(store_env, digits):
    base, _, real = digits
    images = base.images.copy()
    images[base.labels == 7] = base.images[base.labels == 1]
    found = shares(replace(base, images=images), base, real)
    assert found["worst class"].where == "7"
    assert collapse_guard.describe_collapse(found, collapse_guard.bounds("mnist"))[0].startswith(
        "worst class (7)"
    )


def test_what_the_base_itself_has_not_is_left_out(store_env, digits):
    """Its 0 was divided by."""
    base, other, real = digits
    blank = replace(base, images=np.zeros_like(base.images))
    assert shares(other, blank, real) == {}


def test_few_images_do_not_flag_by_chance(store_env, digits):
    base, other, real = digits
    few = np.concatenate([np.flatnonzero(other.labels == c)[:3] for c in np.unique(other.labels)])
    found = shares(other.take(few), base, real)
    assert found["worst class"].high > collapse_guard.bounds("mnist")["worst class"]


@pytest.mark.parametrize(
    ("dataset", "task"),
    [("mnist", "mnist_0"), ("mnist16", "mnist_0_ddpm"), ("mnist_canvas", "mnist_0_t2i")],
)
def test_the_shipped_calibration_has_few_false_flags_and_full_power(dataset, task):
    card = guard_card(dataset)
    nulls = {
        name
        for name in (task, f"{task}_cover5")
        if name in {e.name for e in registry.list_entries("task")}
    }
    assert card["null"]["resamples"] == dict.fromkeys(nulls, 300)
    assert card["null"]["false_flags"] <= 0.01 * 300 * len(nulls)
    assert set(card["power"]) == {
        "blank images", "one image a class", "no_gr", "naive", "memorised replay of 9 images"
    }  # fmt: skip
    for name, rows in card["power"].items():
        assert len(rows) == 3
        assert all(row["flagged"] for row in rows), name
    for name, value in card["bounds"].items():
        assert value == card["share"] * min(at[name] for at in card["null"]["at_quantile"].values())


def test_a_flag_takes_the_rank_away():
    from result_rows import OTHERS, line, one, result_row

    flagged = result_row(flags=["collapse: recall is 3 % of the base's"])
    board = one([flagged, *OTHERS])
    assert line(board, "sa").rank is None
    assert line(board, "sa").outcome.word == "COLLAPSED"


def test_fewer_images_are_compared_with_as_few_of_the_base(store_env, digits):
    base, _, real = digits
    half = base.take(np.arange(len(base)) % 40 < 20)  # the first 20 of each class
    assert shares(half, base, real)["recall"].share == 1.0
