"""Every metric core against a closed form, a property, or torch-fidelity itself."""

import importlib

import numpy as np
import pytest
import torch

from sa_bench import features, judges, registry

fid = importlib.import_module("sa_bench.metrics.fid")
kid = importlib.import_module("sa_bench.metrics.kid")


def column(*values):
    return np.array(values, float)[:, None]


def test_precision_and_recall_the_right_way_round():
    real, made = column(0, 1, 2, 3, 4), column(0.5, 1.5, 2.5, 100, 101)
    assert features.in_manifold(made, real, k=1).mean() == pytest.approx(0.6)  # precision
    assert features.in_manifold(real, made, k=1).mean() == pytest.approx(0.8)  # recall


def test_collapse_has_precision_without_recall():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 8))
    made = real[:1] + 1e-4 * rng.normal(size=(200, 8))
    assert features.in_manifold(made, real).mean() == 1.0
    assert features.in_manifold(real, made).mean() == pytest.approx(0.005)


def test_manifold_equals_torch_fidelity():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    made, real = rng.normal(size=(150, 6)), rng.normal(0.5, 1.2, size=(170, 6))
    a, b = calculate_precision_recall_full(torch.from_numpy(made), torch.from_numpy(real), 3, 10000)
    ours = features.in_manifold(made, real).mean(), features.in_manifold(real, made).mean()
    assert sorted(ours) == pytest.approx(sorted((a, b)), abs=1e-6)  # whichever way its version names them


def test_fid_closed_forms():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    assert fid.frechet(x, x + np.array([3.0, 4.0])) == pytest.approx(25.0)
    cross = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float)
    assert fid.frechet(cross, 2 * cross) == pytest.approx(4 / 3)
    assert fid.frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    assert fid.frechet(x, 2 * x) == pytest.approx(fid.frechet(2 * x, x))


def test_fid_at_infinite_n_takes_the_bias_away():
    """Two samples of one Gaussian: the true distance is 0, FID_N is biased upward, FID∞ is not."""
    rng = np.random.default_rng(0)
    plain, infinite = [], []
    for _ in range(10):
        x, y = rng.normal(size=(400, 10)), rng.normal(size=(50_000, 10))
        plain.append(fid.frechet(x, y))
        infinite.append(fid.extrapolated(x, y))
    bias = (10 + 10 * 11 / 4) / 400  # to first order: of the mean d/N, of the covariance d(d+1)/4N
    assert np.mean(plain) == pytest.approx(bias, rel=0.2)
    assert abs(np.mean(infinite)) < 0.25 * np.mean(plain)
    assert fid.extrapolated(x[:79], y) is None


def test_fid_with_fewer_images_than_dimensions_is_a_real_number():
    rng = np.random.default_rng(0)
    value = fid.frechet(rng.normal(size=(20, 100)), rng.normal(size=(20, 100)))
    assert np.isfinite(value)
    assert value > 0


def test_kid_is_unbiased_and_equals_the_plain_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(80, 5))
    value, low, high = kid.jackknifed(x, y)
    assert value == pytest.approx(kid.mmd2(x, y))
    assert low < value < high
    same = [kid.mmd2(rng.normal(size=(50, 3)), rng.normal(size=(50, 3))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert kid.mmd2(x, y + 2) > value


def test_kid_equals_torch_fidelity():
    from torch_fidelity.metric_kid import mmd2

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    k = [(a @ b.T / 5 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    assert kid.mmd2(x, y) == pytest.approx(mmd2(*k))


def test_the_registered_extractor_serves_torch_fidelity_and_ours(monkeypatch):
    """torch-fidelity's own FID on the judge's features is the number that `fid[judge-mnist]` reports."""
    from torch_fidelity import calculate_metrics

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, array):
            self.array = torch.from_numpy(array).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)

        def __len__(self):
            return len(self.array)

        def __getitem__(self, i):
            return self.array[i]

    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (120, 28, 28, 1), dtype=np.uint8) // k for k in (1, 2))
    judge = judges.load("mnist-cnn-0")
    name = "judge-mnist"
    ours = [features.extract(name, judge, z) for z in (a, b)]
    theirs = calculate_metrics(
        input1=Pictures(a), input2=Pictures(b), fid=True, prc=True, feature_extractor=name, cuda=False,
        save_cpu_ram=True, verbose=False, batch_size=40, cache=False,
    )  # fmt: skip
    assert theirs["frechet_inception_distance"] == pytest.approx(fid.frechet(*ours), rel=1e-4)
    both = features.in_manifold(*ours).mean(), features.in_manifold(*ours[::-1]).mean()
    assert sorted((theirs["precision"], theirs["recall"])) == pytest.approx(sorted(both), abs=0.02)


@pytest.mark.parametrize("entry", registry.entries("metric"), ids=lambda e: e.name)
def test_every_metric_declares_itself(entry):
    metric = registry.metric(entry.name)
    assert metric.name == entry.name
    assert metric.better in ("lower", "higher", None)
    assert metric.title
    assert metric.source
    assert metric.version >= 1
    from dataclasses import fields

    from sa_bench.contracts import Task

    assert set(metric.fields) <= {f.name for f in fields(Task)}
    assert set(metric.requires) <= {
        "samples",
        "base",
        "real",
        "model",
        "likelihood",
        "judges",
        "features",
        "guard",
    }


def test_two_designated_judges_in_one_process_keep_their_own_features():
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    for name in ("mnist-cnn-1", "mnist-paper", "mnist-cnn-1"):
        judge = judges.load(name)
        np.testing.assert_allclose(features.extract("judge-mnist", judge, images), judge.features(images))
