"""Every metric core against a closed form, a property, or torch-fidelity itself."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sa_bench.contracts import SampleSet, samples
from sa_bench.core import registry
from sa_bench.scoring import distances, features, judges
from sa_bench.scoring.distances import FrechetTo, extrapolate_fid, frechet_distance, jackknife_kid
from sa_bench.statistics import combine_left_out, jackknife, jackknife_groups


def by_torch_fidelity(x, y):
    return frechet_distance(x, y)


def by_ours(x, y):
    return FrechetTo(x, y)(np.arange(len(x)))


both_ways = pytest.mark.parametrize("fid", [by_torch_fidelity, by_ours])


def mmd2(x, y):
    """Unbiased MMD² as its formula reads."""
    xx, xy, yy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    n, m = len(x), len(y)
    return (
        (xx.sum() - np.trace(xx)) / n / (n - 1)
        + (yy.sum() - np.trace(yy)) / m / (m - 1)
        - 2 * xy.mean()
    )


def column(*values):
    return np.array(values, float)[:, None]


def test_precision_and_recall_the_right_way_round():
    real, made = column(0, 1, 2, 3, 4), column(0.5, 1.5, 2.5, 100, 101)
    assert features.is_in_manifold(made, real, k=1).mean() == pytest.approx(0.6)  # precision
    assert features.is_in_manifold(real, made, k=1).mean() == pytest.approx(0.8)  # recall


def test_collapse_has_precision_without_recall():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 8))
    made = real[:1] + 1e-4 * rng.normal(size=(200, 8))
    assert features.is_in_manifold(made, real).mean() == 1.0
    assert features.is_in_manifold(real, made).mean() == pytest.approx(0.005)


def test_one_picture_in_unequal_numbers_lies_where_it_lies():
    """Its distances are 0 whatever formula rounds them, also where a network gave its features twice."""
    one = np.random.default_rng(0).normal(size=(1, 64)) * 10
    for n, m in ((5, 40), (40, 5), (30, 31)):
        noise = np.random.default_rng(1).normal(size=(n, 64)) * 1e-6
        x, y = one.repeat(n, 0) + noise, one.repeat(m, 0)
        assert features.is_in_manifold(x, y).mean() == 1.0
        assert features.is_in_manifold(y, x).mean() == 1.0
    assert features.is_in_manifold(one + 1e-2, one.repeat(5, 0)).mean() == 0.0


def test_a_point_and_three_neighbours_are_four():
    x, images = (
        np.eye(4),
        SampleSet(np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, int), np.arange(4)),
    )
    assert distances.measure_precision(x, x, images).value == 1.0
    assert distances.measure_recall(x, x, images).value == 1.0
    assert distances.measure_precision(x, x[:3], images).value is None
    assert distances.measure_recall(x[:3], x, images).value is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_set_against_itself_is_at_distance_zero(scale):
    x = (np.random.default_rng(0).normal(size=(60, 32)) * scale).astype(np.float32)
    assert distances.FrechetTo(x, x)(np.arange(60)) == 0.0
    assert frechet_distance(x.astype(float), x.astype(float)) == 0.0
    images = SampleSet(np.zeros((60, 1, 1, 1), np.uint8), np.zeros(60, int), np.arange(60))
    assert distances.measure_kid(x, x[::-1].copy(), images).value == 0.0
    assert distances.measure_kid(x, x + x.std(), images).value > 0.0
    assert frechet_distance(x.astype(float), x.astype(float) + scale) == pytest.approx(
        32 * scale**2, rel=1e-6
    )


def test_manifold_equals_torch_fidelity():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    made, real = rng.normal(size=(150, 6)), rng.normal(0.5, 1.2, size=(170, 6))
    a, b = calculate_precision_recall_full(torch.from_numpy(made), torch.from_numpy(real), 3, 10000)
    ours = features.is_in_manifold(made, real).mean(), features.is_in_manifold(real, made).mean()
    assert sorted(ours) == pytest.approx(
        sorted((a, b)), abs=1e-6
    )  # whichever way its version names them


@both_ways
def test_fid_closed_forms(fid):
    """Without SciPy, whose matrix root changed from version to version."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    assert fid(x, x + np.array([3.0, 4.0])) == pytest.approx(25.0)
    cross = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float)
    assert fid(cross, 2 * cross) == pytest.approx(4 / 3)
    assert fid(x, x) == pytest.approx(0.0, abs=1e-9)
    assert fid(x, 2 * x) == pytest.approx(fid(2 * x, x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_fast_fid_is_torch_fidelitys_whatever_rows_are_left_out(dtype):
    rng = np.random.default_rng(0)
    x = (3 + rng.normal(size=(300, 20)) @ rng.normal(size=(20, 20))).astype(dtype)
    y = (2 + rng.normal(size=(260, 20))).astype(dtype)
    distance = FrechetTo(x, y)
    for rows in (
        np.arange(300),
        np.arange(0, 300, 2),
        rng.permutation(300)[:280],
        rng.permutation(300)[:40],
    ):
        assert distance(rows) == pytest.approx(
            frechet_distance(x[rows].astype(float), y.astype(float)), rel=1e-6
        )


@pytest.mark.parametrize(
    ("n", "d", "steepness"),
    [(400, 60, 0.0), (400, 60, 2.0), (50, 60, 1.0), (40, 150, 1.0), (403, 90, 0.5), (90, 40, 1.0)],
)
def test_fids_jackknife_is_that_of_leaving_out_each_group(n, d, steepness):
    """Within 2e-6 of the half-width, also with fewer images than dimensions; the value to rounding."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, d + 1.0) ** -steepness
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x, y = ((rng.normal(0.1, 1, size=(m, d)) * scale @ turn).clip(-1) for m in (n, n + 30))
    distance, groups = FrechetTo(x, y), min(20, n // 2)
    one_by_one = jackknife(distance, n, groups)
    value, left_out = distance.leave_out(jackknife_groups(n, groups))
    together = combine_left_out(value, left_out)
    assert value == pytest.approx(one_by_one.value, rel=1e-11)
    half = one_by_one.high - one_by_one.value
    assert together.high - together.value == pytest.approx(half, rel=2e-6)
    group = jackknife_groups(n, groups)
    alone = np.array([distance(np.flatnonzero(group != g)) for g in range(groups)])
    assert np.abs(left_out - alone).max() < 1e-6 * distance.trace


@pytest.mark.parametrize("distinct", [1, 2, 3, 30])
def test_fids_jackknife_of_images_that_repeat(distinct):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(distinct, 64))[np.arange(100) % distinct]
    distance, group = FrechetTo(x, rng.normal(size=(150, 64))), jackknife_groups(100, 20)
    value, left_out = distance.leave_out(group)
    assert value == distance(np.arange(100))
    alone = np.array([distance(np.flatnonzero(group != g)) for g in range(20)])
    assert np.abs(left_out - alone).max() < 1e-6 * distance.trace


def test_groups_larger_than_the_dimensions_are_left_out_one_by_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 6)), rng.normal(1, 1, size=(80, 6))
    distance, group = FrechetTo(x, y), jackknife_groups(90, 9)
    value, left_out = distance.leave_out(group)
    assert value == distance(np.arange(90))
    assert left_out.tolist() == [distance(np.flatnonzero(group != g)) for g in range(9)]


@pytest.mark.parametrize("fid", [pytest.param(by_torch_fidelity, marks=pytest.mark.slow), by_ours])
def test_fid_with_fewer_images_than_dimensions_is_a_real_number(fid):
    """Two samples of 50 of one Gaussian: the true value is 0, at N = 50 about 3,650 is measured."""
    rng = np.random.default_rng(0)
    assert fid(rng.normal(size=(50, 2048)), rng.normal(size=(50, 2048))) == pytest.approx(
        3650, rel=0.01
    )


def test_fid_with_fewer_images_than_dimensions_says_so():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2048)), rng.normal(size=(50, 2048))
    images = samples.SampleSet(np.zeros((50, 1, 1, 1), np.uint8), np.zeros(50), np.arange(50))
    measured = distances.measure_frechet(lambda rows: float(len(rows)), x, y, images)
    assert measured.extra["warning"] == "N=50 < 2048 feature dimensions: biased upward"
    assert measured.extra["dimensions"] == 2048


def test_fid_at_infinite_n_takes_the_bias_away():
    """Two samples of one Gaussian: the true distance is 0, FID_N is biased upward, FID∞ is not."""
    rng = np.random.default_rng(0)
    plain, infinite = [], []
    for _ in range(10):
        distance = FrechetTo(rng.normal(size=(400, 10)), rng.normal(size=(50_000, 10)))
        plain.append(distance(np.arange(400)))
        infinite.append(extrapolate_fid(distance, 400, 10))
    bias = (10 + 10 * 11 / 4) / 400  # to first order: of the mean d/N, of the covariance d(d+1)/4N
    assert np.mean(plain) == pytest.approx(bias, rel=0.2)
    assert abs(np.mean(infinite)) < 0.25 * np.mean(plain)
    assert extrapolate_fid(distance, 79, 10) is None


def test_kid_is_unbiased_and_equals_the_plain_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(80, 5))
    value, low, high = jackknife_kid(x, y)
    assert value == pytest.approx(mmd2(x, y))
    assert low < value < high
    same = [
        jackknife_kid(rng.normal(size=(50, 3)), rng.normal(size=(50, 3)))[0] for _ in range(200)
    ]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert jackknife_kid(x, y + 2)[0] > value


def test_kid_by_blocks_is_the_whole(monkeypatch):
    """Any block size gives the same sums by group, and leaving a group out is leaving its images out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(61, 5)), rng.normal(size=(83, 5))
    group, zeros = rng.integers(0, 4, 61), np.zeros(83, int)
    for a, b, of_b in ((x, x, group), (x, y, zeros)):
        whole = distances.kernel_sums(a, b, group, of_b)
        np.testing.assert_allclose(distances.kernel_sums(a, b, group, of_b, chunk=7), whole)
    seen = {}
    monkeypatch.setattr(
        distances, "jackknife", lambda estimate, n, *_: seen.setdefault("estimate", estimate)
    )
    jackknife_kid(x, y, 6)
    rows = np.flatnonzero(jackknife_groups(61, 6) != 2)
    assert seen["estimate"](rows) == pytest.approx(mmd2(x[rows], y))


def test_images_of_one_prompt_leave_kids_jackknife_together():
    """20 prompts of 10 equal images tell what 20 images tell, not 200; one image a prompt is as without prompts."""
    rng = np.random.default_rng(0)
    few, y = rng.normal(size=(20, 5)), rng.normal(size=(100, 5))

    def measured(x, prompts):
        blank, zeros = np.zeros((len(x), 1, 1, 1), np.uint8), np.zeros(len(x), int)
        return distances.measure_kid(
            x, y, samples.SampleSet(blank, zeros, np.arange(len(x)), prompts)
        )

    many = few.repeat(10, 0) + 0.01 * rng.normal(size=(200, 5))
    right, wrong = measured(many, np.arange(20).repeat(10)), measured(many, None)
    assert right.value == wrong.value
    assert right.high - right.low > 2 * (wrong.high - wrong.low)
    assert right.interval == "jackknife(10), clustered by 20 prompts"
    alone = measured(many, np.arange(200))
    assert (alone.low, alone.interval) == (wrong.low, "jackknife(20)")
    assert "3 prompts" in measured(many, np.arange(200) % 3).reason
    zeros = np.zeros(200, int)
    images = samples.SampleSet(np.zeros((200, 1, 1, 1), np.uint8), zeros, np.arange(200))
    assert "2 real images, not 1" in distances.measure_kid(many, y[:1], images).reason


def test_kid_equals_torch_fidelity():
    from torch_fidelity.metric_kid import mmd2

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    k = [(a @ b.T / 5 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    assert jackknife_kid(x, y)[0] == pytest.approx(mmd2(*k))


HUNGRY = """
import resource
import numpy as np
from sa_bench.scoring.distances import FrechetTo, jackknife_kid
from sa_bench.scoring.features import is_in_manifold
rng = np.random.default_rng(0)
x, y = (rng.normal(size=(8000, 64)).astype(np.float32) for _ in range(2))
def run(n):
    return is_in_manifold(x[:n], y[:n]), jackknife_kid(x[:n], y[:n]), FrechetTo(x[:n], y[:n])(np.arange(n // 2))
run(50)  # what is loaded on first use does not count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(8000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_large_sets_fit_in_memory():
    """Of 4 GiB, 45,000 x 2,048 features of both sides, the extractor and torch leave 2.4 GiB for distances.

    What grows with N must stay below its share at N = 8,000; one 8,000 x 8,000 matrix is 256 to 512 MiB.
    """
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 2.4 * 1024 * 8 / 45


def test_torch_fidelitys_own_numbers_in_a_judges_features_are_ours():
    """Its FID there is the number that `fid[judge-mnist]` reports."""
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class JudgeFeatures(FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("penultimate",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "penultimate"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros(1, 1, 28, 28, dtype=torch.uint8)

        def forward(self, input):
            images = input[:, :1].permute(0, 2, 3, 1).cpu().numpy()
            return (torch.from_numpy(judge.features(images)),)

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
    register_feature_extractor(name, JudgeFeatures)
    ours = [features.extract(judge, z) for z in (a, b)]
    theirs = calculate_metrics(
        input1=Pictures(a), input2=Pictures(b), fid=True, prc=True, feature_extractor=name, cuda=False,
        save_cpu_ram=True, verbose=False, batch_size=40, cache=False,
    )  # fmt: skip
    assert theirs["frechet_inception_distance"] == pytest.approx(frechet_distance(*ours), rel=1e-4)
    both = features.is_in_manifold(*ours).mean(), features.is_in_manifold(*ours[::-1]).mean()
    assert sorted((theirs["precision"], theirs["recall"])) == pytest.approx(sorted(both), abs=0.02)


@pytest.mark.parametrize("entry", registry.list_entries("metric"), ids=lambda e: e.name)
def test_every_metric_declares_itself(entry):
    metric = registry.get_metric(entry.name)
    assert metric.name == entry.name
    assert metric.better in ("lower", "higher", None)
    assert metric.title
    assert metric.source
    assert metric.version >= 1
    from dataclasses import fields

    from sa_bench.contracts import Task
    from sa_bench.scoring.requirements import all_requirements

    assert set(metric.fields) <= {f.name for f in fields(Task)}
    assert set(metric.requires) <= set(all_requirements())


@pytest.mark.parametrize("kept", [0, 12])
def test_the_surrogates_own_images_are_at_no_distance_from_it_and_one_of_them_over_and_over_is(
    kept,
):
    """q is half stripes, half noise; drawn anew each time, or with replacement from a few that were kept."""
    rng, task = np.random.default_rng(0), registry.get_task("mnist_0")

    def draw(n):
        x = rng.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)
        x[rng.random(n) < 0.5, ::2] = 128
        return x

    few = draw(kept)

    def q(n):
        return SampleSet(
            few[rng.integers(kept, size=n)] if kept else draw(n), np.zeros(n, int), np.arange(n)
        )

    def distance(images):
        view = SimpleNamespace(
            task=task,
            samples={
                "forget": SampleSet(images, np.zeros(len(images), int), np.arange(len(images)))
            },
            surrogate=q,
            judges={task.designated: judges.load(task.designated)},
        )
        return registry.get_metric("surrogate_kid").measure(view)

    near, far = distance(draw(200)), distance(np.repeat(draw(1), 200, 0))
    assert abs(near.value) < 0.05 * far.value
    assert near.extra["n_real"] == (kept or 500)
    assert far.n == 200
