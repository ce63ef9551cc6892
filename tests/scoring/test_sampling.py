"""Sample sets: every image can be made again alone, and a damaged shard is never trusted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_bench.contracts import Request, Sampler, SampleSet, image_seed
from sa_bench.core.errors import SaBenchError
from sa_bench.core.registry import get_task as find_task
from sa_bench.data.sample_sets import load_samples, save_samples
from sa_bench.models import vae
from sa_bench.models.vae import VAE
from sa_bench.scoring import sampling
from sa_bench.scoring.sampling import count_shards, draw_set, requests_of_set


@pytest.fixture
def task():
    return replace(find_task("mnist_0"), n_forget=40, n_retain=5)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(sampling, "SHARD", 16)


def test_the_sets_are_the_concept_and_everything_else(task):
    assert [r.condition for r in requests_of_set(task, "forget")] == [0] * 40
    assert sorted({r.condition for r in requests_of_set(task, "retain")}) == list(range(1, 10))
    seeds = [r.seed for name in ("forget", "retain") for r in requests_of_set(task, name)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    with pytest.raises(SaBenchError, match="forget, retain"):
        requests_of_set(task, "all")


def test_an_image_does_not_depend_on_its_batch():
    model = VAE(seed=3)
    rows = [Request(i % 10, image_seed("forget", i)) for i in range(32)]
    whole = model.to_images(model.sample(rows, Sampler())).astype(int)
    torch.rand(5)  # a stray draw from the global generator changes nothing
    for size in (1, 5):
        parts = [
            model.to_images(model.sample(rows[i : i + size], Sampler()))
            for i in range(0, len(rows), size)
        ]
        assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1


def test_the_same_seeds_give_two_models_the_same_noise():
    seeds = [image_seed("forget", i) for i in range(4)]
    assert torch.equal(vae.noise(seeds, (8,))[2:3], vae.noise(seeds[2:3], (8,)))


def test_resuming_makes_only_what_is_missing(task, tmp_path, small_shards, monkeypatch):
    model = VAE(seed=3)
    whole = draw_set(lambda: model, task, "retain", tmp_path / "a")
    assert len(list((tmp_path / "a").iterdir())) == count_shards(task, "retain") == 3

    # A run that is killed after two of its three shards.
    shards, original = [], sampling.save_part

    def save(path, tensors):
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(path)
        original(path, tensors)

    monkeypatch.setattr(sampling, "save_part", save)
    with pytest.raises(KeyboardInterrupt):
        draw_set(lambda: model, task, "retain", tmp_path / "b")
    monkeypatch.setattr(sampling, "save_part", original)
    made = []
    sample = model.sample
    monkeypatch.setattr(model, "sample", lambda rows, s: made.append(len(rows)) or sample(rows, s))
    again = draw_set(lambda: model, task, "retain", tmp_path / "b")
    assert made == [45 - 32]
    assert np.array_equal(again.images, whole.images)
    assert np.array_equal(again.seeds, whole.seeds)


@pytest.mark.parametrize("harm", ["delete", "truncate", "other seeds", "empty", "a pixel"])
def test_a_damaged_shard_is_made_again_with_its_own_seeds(
    task, tmp_path, small_shards, monkeypatch, harm
):
    model = VAE(seed=3)
    whole = draw_set(lambda: model, task, "retain", tmp_path / "a")
    folder = tmp_path / "b"

    def keep(rows, start):
        values = {k: torch.from_numpy(v) for k, v in whole.take(rows).arrays().items()}
        sampling.save_part(folder / f"shard-{start:06d}.safetensors", values)

    for start in (0, 16, 32):
        keep(slice(start, start + 16), start)
    shard = folder / "shard-000016.safetensors"
    if harm == "delete":
        shard.unlink()
    elif harm == "truncate":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif harm == "empty":
        shard.write_bytes(b"")
    elif harm == "a pixel":
        raw = bytearray(shard.read_bytes())
        raw[-1000] ^= 1
        shard.write_bytes(raw)
    else:
        keep(slice(0, 16), 16)
    keep(slice(0, 16), 9999)  # a stray one
    made = []
    sample = model.sample
    monkeypatch.setattr(model, "sample", lambda rows, s: made.append(len(rows)) or sample(rows, s))
    again = draw_set(lambda: model, task, "retain", folder)
    assert made == [16]
    assert np.array_equal(again.images, whole.images)
    assert len(again) == 45


def test_a_set_keeps_the_prompt_of_every_image_and_writes_none_where_there_is_none(tmp_path):
    plain = SampleSet(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3), np.arange(3))
    save_samples(plain, tmp_path / "plain.safetensors")
    assert load_samples(tmp_path / "plain.safetensors").prompts is None
    prompted = replace(plain, prompts=np.array([4, 4, 7]))
    whole = SampleSet.concatenate([prompted.take(slice(0, 1)), prompted.of(2)])
    save_samples(whole, tmp_path / "prompted.safetensors")
    assert load_samples(tmp_path / "prompted.safetensors").prompts.tolist() == [4, 7]
    assert SampleSet.concatenate([plain, prompted]).prompts is None


def test_a_part_of_a_set_is_spread_over_its_prompts_and_of_classes_its_beginning():
    task = find_task("mnist_0_t2i")
    few = sampling.pick_rows(task, "forget", 24)
    assert len({row.prompt for row in few}) == 24
    assert sampling.pick_rows(task, "forget", 500) == sampling.plan_set(task, "forget")
    plain = find_task("mnist_0")
    assert sampling.pick_rows(plain, "forget", 7) == sampling.plan_set(plain, "forget")[:7]
