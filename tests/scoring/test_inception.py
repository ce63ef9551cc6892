"""Inception metrics: the weights are looked for and never fetched, features are computed once, names are told apart.

The real weights cannot be had by every machine: the network here has random ones, or is replaced by a projection.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

import sa_bench
from sa_bench.commands.doctor import describe_assets
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import datasets
from sa_bench.data.assets import catalogue
from sa_bench.scoring import features, inception

PAGE = Path(__file__).parents[2] / "docs" / "precision-recall.md"
STANDARD = ("inception_fid", "inception_kid", "inception_precision", "inception_recall")
OFFICIAL = ("official_fid", "official_precision", "official_recall")
SETS = ["task.n_forget=20", "task.n_retain=5", "task.feature_images=5", "task.metrics=fid,recall"]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights in any of the three places."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("SA_BENCH_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A folder with a weight file as torch-fidelity's, its values random."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    folder = tmp_path_factory.mktemp("weights")
    cls = module.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(cls, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = cls(inception.NAME, [inception.LAYER])
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(network.state_dict(), folder / inception.FILE)
    return folder


def install(folder, monkeypatch):
    """Let the file in `folder` count as the right one."""
    found = hashlib.sha256((folder / inception.FILE).read_bytes()).hexdigest()
    known = dataclasses.replace(catalogue.CATALOGUE[inception.NAME], sha256=found[:8])
    monkeypatch.setitem(catalogue.CATALOGUE, inception.NAME, known)
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(folder))


@pytest.fixture
def weights(nowhere, random_weights, monkeypatch):
    install(random_weights, monkeypatch)
    return random_weights


@pytest.fixture
def projected(tmp_path, monkeypatch):
    """Weights that are there, and a network that is a random projection of pixels; returns what it was shown."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / inception.FILE).write_bytes(b"made up")
    install(tmp_path / "w", monkeypatch)
    matrix, calls = np.random.default_rng(0).normal(size=(784, 12)).astype(np.float32), []

    def project(images, device="cpu", progress=None):
        calls.append(len(images))
        return images.reshape(len(images), -1).astype(np.float32) / 255 @ matrix

    monkeypatch.setattr(inception, "extract_features", project)
    return calls


@pytest.fixture
def digits(store_env, shared_store, tmp_path, monkeypatch):
    """A folder of real digits, five a class, and a store of one's own with the data in it."""
    test = datasets.load("mnist").test
    for c in range(10):
        folder = tmp_path / "images" / (f"retain/{c}" if c else "forget")
        folder.mkdir(parents=True)
        for i, image in enumerate(test.of(c).images[:5, ..., 0]):
            Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data").symlink_to((shared_store / "data").resolve())
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "kept"))
    return tmp_path / "images"


def evaluate(folder, metrics):
    result = sa_bench.evaluate(folder, "mnist_0", scale="quick", sets=SETS, metrics=metrics)
    return {m["name"]: m for m in result["measurements"]}, result


def test_weights_are_looked_for_in_three_places(nowhere, monkeypatch):
    (nowhere / "own").mkdir()
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(nowhere / "own"))
    asset = dataclasses.replace(inception.ASSET, sha256=hashlib.sha256(b"x").hexdigest())
    monkeypatch.setitem(catalogue.CATALOGUE, inception.NAME, asset)
    folders = [
        nowhere / "own",
        nowhere / "store" / "weights",
        nowhere / "torch" / "hub" / "checkpoints",
    ]
    assert [p.parent for p in catalogue.list_places(inception.ASSET)][:3] == folders
    for folder in folders[::-1]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / inception.FILE).write_bytes(b"x")
        assert inception.find_weights()[0] == folder / inception.FILE


def test_absent_weights_are_one_line_that_says_what_where_and_whence(nowhere):
    text = inception.find_missing()
    assert "\n" not in text
    for part in (
        inception.FILE,
        "95 MB",
        str(nowhere / "store" / "weights"),
        "SA_BENCH_WEIGHTS",
        inception.URL,
    ):
        assert part in text
    with pytest.raises(MissingAsset):
        inception.extract_features(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_broken_download_is_named(nowhere, monkeypatch):
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(nowhere))
    (nowhere / inception.FILE).write_bytes(b"<html>")
    assert str(nowhere / inception.FILE) in inception.find_missing()
    assert "is damaged" in inception.find_missing()


def test_the_doctor_lists_the_weights(nowhere):
    text, _ = describe_assets()
    for part in (inception.FILE, inception.URL, "95 MB", "Apache-2.0", "unlocks: inception_fid"):
        assert part in text


def test_the_doctor_finds_them(weights):
    assert f"{inception.NAME}: here, {weights / inception.FILE}" in describe_assets()[0]


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2))]
)
def test_a_pickle_that_does_more_than_hold_tensors_is_never_run(nowhere, monkeypatch, save):
    """Even one whose hash is right, which eight digits do not rule out."""
    save(Trap(nowhere / "sprung"), nowhere / inception.FILE)
    install(nowhere, monkeypatch)
    with pytest.raises(SaBenchError, match="more than tensors"):
        inception.extract_features(np.zeros((1, 32, 32, 3), np.uint8))
    assert not (nowhere / "sprung").exists()


def test_features_are_torch_fidelitys_in_any_batch_and_for_grey_as_for_rgb(weights):
    from torch_fidelity.utils import create_feature_extractor

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    images[2] = images[2, ..., :1]
    ours = inception.extract_features(images)
    assert (ours.shape, ours.dtype) == ((3, 2048), np.float32)
    theirs = create_feature_extractor(
        inception.NAME, [inception.LAYER], cuda=False, verbose=False,
        feature_extractor_weights_path=str(weights / inception.FILE),
    )(torch.from_numpy(images).permute(0, 3, 1, 2))[0]  # fmt: skip
    scale = ours.std()
    assert ours.std(0).mean() > 0.01 * scale  # pictures differ
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * scale)
    np.testing.assert_allclose(
        inception.extract_features(images[2:, ..., :1]), ours[2:], atol=1e-4 * scale
    )


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.full((2, 32, 32, 3), -1.0),
        np.zeros((2, 32, 32, 3), np.int64),
        np.zeros((2, 32, 32), np.uint8),
        torch.zeros(2, 3, 32, 32),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 0),
    ],
    ids=["0..1", "-1..1", "int64", "no channels", "tensor", "tuple"],
)
def test_anything_but_uint8_images_is_refused(weights, images):
    """Cast to uint8, floats in 0..1 would be black pictures with one FID for every model."""
    with pytest.raises(SaBenchError, match="uint8 images"):
        inception.extract_features(images)


def test_without_weights_the_judges_metrics_stand(digits, nowhere, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "kept"))
    found, _ = evaluate(digits, ("inception_fid", "official_precision"))
    for name in ("fid[inception-v3-compat]", "precision[official-2023]"):
        assert found[name]["value"] is None
        assert inception.FILE in found[name]["reason"]
    for name in ("fid[judge-mnist]", "recall[judge-mnist]"):
        assert found[name]["value"] is not None
        assert found[name]["base"] is not None


def test_all_metrics_of_a_set_share_its_features(digits, projected):
    """Generated, real and the base's: each is shown to the network once, and once more as Table 1 had it."""
    found, result = evaluate(digits, STANDARD)
    assert projected == [45, 45, 45]
    assert not result["cost"]["features"]["cached"]
    assert evaluate(digits, STANDARD)[0] == found
    assert projected == [45, 45, 45]
    for m in (v for k, v in found.items() if k.endswith("[inception-v3-compat]")):
        assert m["value"] is not None
        assert m["base"] is not None
        assert m["fingerprint"]["features"] == {inception.NAME: "6726825d"}
        assert (m["fingerprint"]["layer"], m["fingerprint"]["reference"]) == (
            "2048",
            "retain_train",
        )
    assert {k.partition("[")[0] for k in found if "inception" in k} == {
        "fid",
        "kid",
        "precision",
        "recall",
    }


def test_another_picture_has_other_features(digits, projected):
    before, _ = evaluate(digits, ("inception_fid",))
    Image.new("L", (28, 28), 255).save(digits / "retain" / "1" / "0.png")
    after, _ = evaluate(digits, ("inception_fid",))
    assert projected == [45, 45, 45, 45]
    name = "fid[inception-v3-compat]"
    assert before[name]["value"] != after[name]["value"]


def test_table_1_has_precision_and_recall_the_other_way_round(digits, projected):
    """On pictures that are grey and (nearly) fill 0..255, order is all that differs from the standard numbers."""
    found, _ = evaluate(digits, (*STANDARD, *OFFICIAL))
    value = {k: m["value"] for k, m in found.items()}
    assert value["precision[official-2023]"] == value["recall[inception-v3-compat]"]
    assert value["recall[official-2023]"] == value["precision[inception-v3-compat]"]
    assert value["precision[official-2023]"] != value["recall[official-2023]"]
    assert value["fid[official-2023]"] == pytest.approx(value["fid[inception-v3-compat]"], rel=0.01)
    for name in OFFICIAL:
        metric = registry.get_metric(name)
        shown = found[f"{name.removeprefix('official_')}[official-2023]"]
        assert dict(metric.protocol).items() <= shown["fingerprint"].items()
        assert shown["fingerprint"]["order"] == "table-1"


def test_pictures_as_published_are_what_the_official_code_wrote_and_read(tmp_path):
    """Through torchvision's file and back; cv2.imread gives BGR."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    images[:10] = 60 + images[:10] // 4
    images[10] = 77
    for image, ours in zip(images, features.stretch_as_published(images, chunk=7), strict=True):
        unit = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        save_image(unit, tmp_path / "x.png", normalize=True)
        assert np.array_equal(ours, np.asarray(Image.open(tmp_path / "x.png"))[..., ::-1])


def test_the_pages_table_is_what_its_code_prints():
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.+?)```", text, re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert f"\n{printed.getvalue()}\n" in text


def test_collapse_in_single_precision_too():
    """Inception's features are float32."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 2048)).astype(np.float32)
    made = real[:1] + 1e-1 * rng.normal(size=(200, 2048)).astype(np.float32)
    assert features.is_in_manifold(made, real).mean() == 1.0
    assert features.is_in_manifold(real, made).mean() == pytest.approx(0.005)
