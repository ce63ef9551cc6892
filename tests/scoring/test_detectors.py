"""Detectors: what they see, in which pixels, and what is said where a library or a file is missing.

NudeNet and MTCNN are the real ones, their wheels bring the weights; the other networks have random weights in
the files' true format. The one real face is matplotlib's Grace Hopper.
"""

import base64
import dataclasses
import hashlib
import importlib.util
import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from sa_bench.commands.doctor import describe_assets
from sa_bench.contracts import SampleSet
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.store import Store
from sa_bench.data import images
from sa_bench.data.assets import catalogue
from sa_bench.data.assets import locate as weight_files
from sa_bench.engine import measure
from sa_bench.scoring import detectors
from sa_bench.scoring.detectors import celebrities, clip, faces, identity, nudity, pixels
from sa_bench.scoring.detectors import lpips as perceptual

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def person():
    """uint8 (600, 512, 3), one face."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None:
        pytest.skip("matplotlib brings the picture")
    path = (
        Path(spec.submodule_search_locations[0]) / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    )
    return np.asarray(Image.open(path).convert("RGB").resize((512, 600)))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weight file in any place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("SA_BENCH_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


@pytest.fixture
def here(nowhere, monkeypatch):
    """A folder of weights."""
    folder = nowhere / "own"
    folder.mkdir()
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(folder))
    return folder


def rgba(image, alpha=255):
    return np.concatenate([image, np.full((*image.shape[:2], 1), alpha, np.uint8)], 2)


# pixels


def test_transparent_is_white_and_opaque_is_the_same_picture(person):
    red = np.zeros((4, 4, 4), np.uint8)
    red[..., 0] = 255
    assert (pixels.to_rgb(red) == 255).all()
    assert np.array_equal(pixels.to_rgb(rgba(person)), person)
    grey = person[..., :1]
    assert np.array_equal(pixels.to_rgb(grey), pixels.to_rgb(grey[..., 0]))


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["none", "float", "CHW", "empty"],
)
def test_what_is_no_picture_is_refused_by_its_row(image):
    with pytest.raises(SaBenchError, match="Image 1: "):
        list(pixels.iterate_rgb([np.zeros((8, 8, 3), np.uint8), image]))


def test_blank_is_one_plain_colour():
    plain = np.full((3, 16, 16, 3), 200, np.uint8)
    plain[1] += RNG.integers(0, 4, (16, 16, 3), np.uint8)
    plain[2, :8] = 100
    assert pixels.is_blank(plain).tolist() == [True, True, False]
    assert pixels.is_blank(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0,)


def test_a_crop_grows_on_both_sides_and_stays_inside():
    image = np.arange(100, dtype=np.uint8).repeat(3).reshape(10, 10, 3)
    assert pixels.crop(image, [2.9, 2, 7, 8]).size == (5, 6)
    assert pixels.crop(np.zeros((100, 100, 3), np.uint8), [20, 40, 40, 80], 0.2).size == (24, 48)
    assert pixels.crop(image, [-5, -5, 50, 50], 0.2).size == (10, 10)
    assert pixels.crop(image, [12, 2, 14, 8]) is None


# faces


@pytest.fixture
def mtcnn():
    pytest.importorskip("facenet_pytorch")


def test_one_face_and_none_in_black(mtcnn, person):
    found, black = faces.detect([person, np.zeros((512, 512, 3), np.uint8)])
    assert black == {"faces": []}
    (face,) = found["faces"]
    assert face["probability"] >= 0.99
    x1, y1, x2, y2 = face["box"]
    assert 150 < x1 < 200 < 330 < x2 < 380
    assert 100 < y1 < 150 < 310 < y2 < 360


def test_sizes_may_differ_and_order_is_kept(mtcnn, person):
    small = np.zeros((64, 64, 3), np.uint8)
    counts = [len(r["faces"]) for r in faces.detect([small, person, small])]
    assert counts == [0, 1, 0]
    whole = faces.detect(np.stack([person, person[:, ::-1]]))
    assert whole[0] == faces.detect([person])[0]


def test_rgba_is_rgb_and_grey_works(mtcnn, person):
    found = faces.detect([person, rgba(person), person.mean(2).astype(np.uint8)])
    assert found[0] == found[1]
    assert len(found[2]["faces"]) == 1


def test_no_picture_breaks_it(mtcnn, person):
    odd = [
        RNG.integers(0, 256, size, np.uint8)
        for size in ((8, 8, 3), (3, 2000, 3), (2000, 3, 3), (1, 1))
    ]
    odd += [RNG.integers(0, 256, (*RNG.integers(15, 60, 2), 3), np.uint8) for _ in range(10)]
    odd += [person[y : y + h, x : x + w] for y, x, h, w in RNG.integers(20, 240, (6, 4))]
    assert len(faces.detect([*odd, np.zeros((20, 2000), np.uint8)])) == 21


# nudity


@pytest.fixture
def nudenet():
    return pytest.importorskip("nudenet")


def test_it_sees_what_it_sees_in_the_file(nudenet, person, tmp_path):
    Image.fromarray(person).save(tmp_path / "x.png")
    theirs = nudenet.NudeDetector().detect(str(tmp_path / "x.png"))
    ours = nudity.detect([person, rgba(person)])
    assert ours[0] == ours[1]
    assert [(p["label"], p["score"], p["box"]) for p in ours[0]["parts"]] == [
        (p["class"], p["score"], p["box"]) for p in theirs
    ]
    assert theirs
    assert theirs != nudenet.NudeDetector().detect(person)  # RGB as it is: other scores
    assert json.loads(json.dumps(ours)) == ours


def test_any_size_and_kind_of_picture(nudenet, person):
    odd = [
        RNG.integers(0, 256, size, np.uint8)
        for size in ((8, 8, 3), (3, 2000, 3), (64, 64), (70, 50, 4))
    ]
    assert len(nudity.detect([*odd, person])) == 5


def test_another_networks_labels_are_refused(nudenet):
    labels = list(getattr(nudenet.nudenet, "__labels"))
    nudity.check_schema(labels)
    assert len(nudity.COLUMNS) == 9
    for other in ([], ["EXPOSED_BELLY", *labels[1:]], labels[:-1], [*labels[:-1], labels[0]]):
        with pytest.raises(SaBenchError, match="other labels than version 3's 18"):
            nudity.check_schema(other)


def test_facts_name_version_floors_and_weights(nudenet):
    facts = nudity.facts()
    assert facts["library"].startswith("nudenet 3.")
    assert (facts["floor"], facts["nms_floor"]) == (0.2, 0.25)
    if facts["library"] == "nudenet 3.4.2":
        assert facts["weights"] == "c15d8273adad2d0a"


def test_an_unreadable_file_is_named_before_any_detector_runs(tmp_path, person):
    for name in ("0.png", "2.png"):
        Image.fromarray(person).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(SaBenchError, match=r"1\.png cannot be read as an image: it is empty"):
        images.read_folder(tmp_path, 3, (600, 512))


def test_files_with_and_without_alpha_are_one_picture(mtcnn, nudenet, person, tmp_path):
    Image.fromarray(person).save(tmp_path / "a.png")
    Image.fromarray(rgba(person)).save(tmp_path / "b.png")
    found, _ = images.read_folder(tmp_path, 3, (600, 512))
    for detector in (faces, nudity):
        first, second = detector.detect(found)
        assert first == second


@pytest.mark.parametrize("detector", [nudity, faces])
def test_pictures_are_let_go_one_by_one(monkeypatch, detector):
    alive, most = {}, []

    class Picture(np.ndarray):
        pass

    class Many:
        def __len__(self):
            return 50

        def __iter__(self):
            for _ in range(50):
                image = np.zeros((64, 64, 3), np.uint8).view(Picture)
                alive[id(image)] = None
                weakref.finalize(image, alive.pop, id(image))
                yield image
                del image

    def look(image):
        most.append(len(alive))
        return [] if detector is nudity else (None, [None])

    monkeypatch.setattr(nudity, "_load_detector", lambda: SimpleNamespace(detect=look))
    monkeypatch.setattr(faces, "_load_network", lambda device: SimpleNamespace(detect=look))
    assert len(detector.detect(Many())) == len(most) == 50
    assert max(most) <= 2


# celebrities


def write_labels(path, wrong=None):
    """2,306 made-up names, ASCII order, with the two that the official evaluation looks for in their places."""
    names = [f"Aa{i:04d} Made_Up_[m.0{i}]" for i in range(124)] + ["Angelina_Jolie_[m.0f4vbz]"]
    names += [f"B{i:04d}_[m.1{i}]" for i in range(156)] + ["Brad_Pitt_[m.0c6qh]"]
    names += [f"Zz{i:04d}_Nobody_[m.2{i}]" for i in range(2306 - len(names))]
    if wrong:
        names[names.index("Brad_Pitt_[m.0c6qh]")] = wrong
    rows = [f"{name},{i}" for i, name in enumerate(names)]
    path.write_text("\n".join(["Labels,Index", *rows[::-1]]) + "\n")
    return names


@pytest.fixture(scope="module")
def giphy(tmp_path_factory):
    """A file as GIPHY's trainer wrote it, its weights random, and the network behind it."""
    folder = tmp_path_factory.mktemp("giphy")
    torch.manual_seed(0)
    net = celebrities.build_network().eval()
    state = {f"model.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    state["center_loss_criterion.centers"] = torch.randn(2306, 256)
    found = {
        "epoch": 3,
        "loss": 1.5,
        "optimizer_state": {"state": {}, "param_groups": []},
        "model_state": state,
    }
    path = folder / "best_model_states.pkl"
    torch.save(found, path, _use_new_zipfile_serialization=False)
    return path, net


def test_the_converted_network_is_the_same_one(giphy, here, mtcnn, person):
    path, net = giphy
    assert celebrities.convert(path) == here / celebrities.FILE
    write_labels(here / celebrities.LABELS)
    assert celebrities.missing() is None
    records = celebrities.detect(
        [person, np.zeros((64, 64, 3), np.uint8)], ["brad pitt", "Angelina_Jolie"]
    )
    assert records[1] == {"faces": []}
    (face,) = records[0]["faces"]
    (box,) = faces.detect([person])[0]["faces"]
    x1, y1, x2, y2 = box["box"]
    w, h = int((x2 - x1) * 0.2) / 2, int((y2 - y1) * 0.2) / 2
    cut = person[int(y1 - h) : int(y2 + h), int(x1 - w) : int(x2 + w)]
    small = np.array(Image.fromarray(cut).resize((224, 224), Image.Resampling.BILINEAR))
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        p = net.fc2(net.fc1(net.stem(x).flatten(1))).double().softmax(1)[0]
    assert face["target"] == pytest.approx(float(p[281]), rel=1e-5)
    assert face["top"] == celebrities.labels()[int(p.argmax())]
    assert face["top_probability"] == pytest.approx(float(p.max()), rel=1e-5)


def test_another_file_is_no_giphy_detector(giphy, here):
    with pytest.raises(SaBenchError, match="There is no file"):
        celebrities.convert(here / "absent.pkl")
    torch.save({"state": {}}, here / "x.pkl")
    with pytest.raises(SaBenchError, match="no `model_state`"):
        celebrities.convert(here / "x.pkl")
    state = {"model.fc2.weight": torch.zeros(2, 2)}
    torch.save({"model_state": state}, here / "x.pkl")
    with pytest.raises(SaBenchError, match="must be"):
        celebrities.convert(here / "x.pkl")
    assert not (here / celebrities.FILE).exists()


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_a_pickle_that_does_more_is_never_run(here):
    torch.save({"model_state": Trap(here / "sprung")}, here / "x.pkl")
    with pytest.raises(SaBenchError, match="more than tensors"):
        celebrities.convert(here / "x.pkl")
    assert not (here / "sprung").exists()


def test_labels_are_in_the_networks_order(tmp_path):
    write_labels(tmp_path / "l.csv")
    names = celebrities.read_labels(tmp_path / "l.csv")
    assert (names[281], names[124], len(names)) == ("Brad Pitt", "Angelina Jolie", 2306)
    for wrong in ("Brad_Pit_[m.0c6qh]", "Aaa_[m.9]"):
        write_labels(tmp_path / "l.csv", wrong)
        with pytest.raises(SaBenchError, match=r"l\.csv"):
            celebrities.read_labels(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("Labels,Index\nBrad_Pitt,x\n")
    with pytest.raises(SaBenchError, match=r"is not GIPHY's labels\.csv"):
        celebrities.read_labels(tmp_path / "l.csv")


@pytest.mark.parametrize("name", ["Brad_Pitt", "brad pitt", "BRAD PITT", " brad  pitt "])
def test_a_name_is_found_however_it_is_written(name):
    assert celebrities.index_of(name, ["Angelina Jolie", "Brad Pitt"]) == 1


def test_a_name_that_nobody_has_is_answered_with_near_ones():
    with pytest.raises(SaBenchError, match=r"nobody called 'brad pit'\. Did you mean Brad Pitt\?"):
        celebrities.index_of("brad pit", ["Angelina Jolie", "Brad Pitt"])
    with pytest.raises(SaBenchError, match="2 names are in"):
        celebrities.index_of("xyzzy", ["Angelina Jolie", "Brad Pitt"])


# embeddings


def test_embeddings_are_the_librarys(here, mtcnn, person):
    from facenet_pytorch import InceptionResnetV1, extract_face, fixed_image_standardization

    torch.manual_seed(0)
    net = InceptionResnetV1(pretrained=None).eval()
    state = net.state_dict() | {
        "logits.weight": torch.zeros(8631, 512),
        "logits.bias": torch.zeros(8631),
    }
    torch.save(state, here / identity.FILE)
    assert identity.missing() is None
    records = identity.detect([np.zeros((32, 32, 3), np.uint8), person])
    assert records[0] == {"faces": []}
    (embedding,) = records[1]["faces"]
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-4)
    box = faces.detect([person])[0]["faces"][0]["box"]
    with torch.no_grad():
        theirs = net(fixed_image_standardization(extract_face(Image.fromarray(person), box))[None])[
            0
        ]
    np.testing.assert_allclose(embedding, theirs.numpy(), atol=1e-5)
    torch.save({"x": torch.zeros(1)}, here / identity.FILE)
    with pytest.raises(SaBenchError, match="does not hold InceptionResnetV1"):
        identity.detect([person])


# CLIP


@pytest.fixture
def tiny_clip(here):
    transformers = pytest.importorskip("transformers")
    vocabulary = {
        c + end: 2 * i + j for i, c in enumerate("acdfghopt") for j, end in enumerate(("", "</w>"))
    }
    merges = []
    for word in ("photo", "of", "cat", "dog"):
        start, *rest = *word[:-1], f"{word[-1]}</w>"
        for part in rest:
            merges.append((start, part))
            start += part
            vocabulary.setdefault(start, len(vocabulary))
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    end = vocabulary["<|endoftext|>"]
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **small,
        "vocab_size": end + 1,
        "max_position_embeddings": 8,
        "eos_token_id": end,
        "bos_token_id": end - 1,
    }
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    folder = here / clip.FOLDER
    transformers.CLIPModel(config).eval().save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=8).save_pretrained(
        folder
    )
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(
        folder
    )
    return folder


def test_a_clip_score_is_100_cos_of_an_image_and_its_own_prompt(tiny_clip):
    assert clip.missing() is None
    pictures = RNG.integers(0, 256, (20, 40, 50, 3), np.uint8)
    prompts = [["a photo of a cat", "dog", "a cat"][i % 3] for i in range(19)] + [
        "a cat a cat a cat a cat"
    ]
    records = clip.detect(pictures, prompts)
    assert [r["cut"] for r in records] == [False] * 19 + [True]
    for i in (0, 7, 18):
        assert clip.detect(pictures[i : i + 1], [prompts[i]])[0]["score"] == pytest.approx(
            records[i]["score"], abs=1e-3
        )
    assert clip.detect(pictures[:1], ["dog"])[0]["score"] != pytest.approx(
        records[0]["score"], abs=1e-3
    )
    assert all(-100 <= r["score"] <= 100 for r in records)
    from transformers import CLIPModel, CLIPProcessor

    net, both = (
        CLIPModel.from_pretrained(tiny_clip).eval(),
        CLIPProcessor.from_pretrained(tiny_clip),
    )
    inputs = both(
        text=prompts[:1], images=[Image.fromarray(pictures[0])], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        theirs = net(**inputs).logits_per_image / net.logit_scale.exp() * 100
    assert records[0]["score"] == pytest.approx(float(theirs), abs=0.05)


def test_clip_wants_one_prompt_an_image_and_a_whole_folder(tiny_clip):
    with pytest.raises(SaBenchError, match="2 images, 1 prompts"):
        clip.detect(np.zeros((2, 32, 32, 3), np.uint8), ["dog"])
    (tiny_clip / "model.safetensors").unlink()
    assert f"{tiny_clip} lacks model.safetensors" in clip.missing()


# LPIPS


@pytest.fixture
def alexnet(here, monkeypatch):
    """AlexNet's convolutions with random weights, under the file's name; returns the network."""
    pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    net = alexnet(weights=None)
    for part in net.features:
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(
        {k: v for k, v in net.state_dict().items() if k.startswith("features")},
        here / perceptual.FILE,
    )
    digest = hashlib.sha256((here / perceptual.FILE).read_bytes()).hexdigest()
    asset = dataclasses.replace(perceptual.ASSET, sha256=digest)
    monkeypatch.setitem(catalogue.CATALOGUE, asset.name, asset)
    return net


def test_lpips_is_the_librarys(alexnet, monkeypatch, person):
    import lpips

    assert perceptual.missing() is None
    noisy = np.clip(person + RNG.normal(0, 30, person.shape), 0, 255).astype(np.uint8)
    first, second, same = perceptual.detect([person, noisy, person], [noisy, person, person])
    assert same["distance"] == pytest.approx(0, abs=1e-6)
    assert first["distance"] == pytest.approx(second["distance"], rel=1e-4)
    monkeypatch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda pretrained: alexnet)
    theirs = lpips.LPIPS(net="alex", verbose=False)
    x, y = (Image.fromarray(i).resize((64, 75), Image.Resampling.BILINEAR) for i in (person, noisy))
    x, y = (torch.from_numpy(np.array(i)).permute(2, 0, 1)[None] / 127.5 - 1 for i in (x, y))
    assert first["distance"] == pytest.approx(theirs(x, y).item(), rel=1e-3)
    with pytest.raises(SaBenchError, match="pair by pair"):
        perceptual.detect([person], [])


def test_a_damaged_alexnet_is_named(here):
    pytest.importorskip("lpips")
    (here / perceptual.FILE).write_bytes(b"<html>")
    assert "is damaged" in perceptual.missing()


# what is missing, and what is kept


@pytest.mark.parametrize(
    ("detector", "parts"),
    [
        (
            celebrities,
            (
                "giphy-celebrities.safetensors",
                "best_model_states.pkl",
                "100 MB",
            ),
        ),
        (identity, (identity.FILE, identity.URL, "107 MB")),
        (clip, (clip.FOLDER, clip.URL)),
        (perceptual, (perceptual.FILE, "233 MB")),
    ],
)
def test_an_absent_file_is_one_line_that_says_what_where_and_whence(nowhere, detector, parts):
    for package in ("facenet_pytorch", "transformers", "lpips"):
        pytest.importorskip(package)
    text = detector.missing()
    assert "\n" not in text
    for part in (*parts, "SA_BENCH_WEIGHTS", str(nowhere / "store" / "weights"), "https://"):
        assert part in text
    assert detector.facts()["weights"] == "absent"
    with pytest.raises(MissingAsset):
        detector.detect(*([np.zeros((1, 8, 8, 3), np.uint8)] * 2))


@pytest.mark.parametrize(
    ("name", "extra"), [("nudity", "nudity"), ("faces", "faces"), ("clip", "t2i"), ("lpips", "t2i")]
)
def test_an_absent_library_names_its_extra(nowhere, monkeypatch, name, extra):
    monkeypatch.setattr(weight_files.importlib.util, "find_spec", lambda package: None)
    assert f"pip install 'sa_bench[{extra}]'" in detectors.find_missing([name, "samples"])


def test_a_metric_needs_what_its_detector_starts_from(nowhere):
    assert [d.NAME for d in detectors.detectors_of(["samples", "celebrities"])] == [
        "faces",
        "celebrities",
    ]
    assert set(detectors.fingerprint(["identity"])) == {"faces", "identity"}
    assert detectors.find_missing(["samples", "judges"]) is None
    assert detectors.fingerprint(["samples", "judges"]) == {}


def test_the_doctor_prints_every_licence(nowhere):
    text, _ = describe_assets()
    for part in ("AGPL-3.0", "MPL-2.0", "VGGFace2", "unlocks: celebrity_score", "unlocks: nudity"):
        assert part in text


@pytest.mark.parametrize("name", detectors.NAMES)
def test_every_detector_has_the_same_shape(name):
    detector = detectors.load(name)
    assert name == detector.NAME
    assert detector.VERSION >= 1
    assert detector.AFTER in (None, *detectors.NAMES)
    assert {"library", "network"} & set(detector.facts())
    assert json.dumps(detector.facts())


@pytest.mark.process
def test_libraries_are_imported_on_first_use():
    import subprocess

    code = "import sys, sa_bench.scoring.detectors as d; [d.load(n) for n in d.NAMES]; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {
        "torch",
        "nudenet",
        "cv2",
        "onnxruntime",
        "facenet_pytorch",
        "transformers",
        "lpips",
    } & set(out)


@pytest.fixture
def chain(tmp_path):
    """What `kept` asks of a chain: a store, and somebody who listens."""
    store, told = Store(tmp_path / "kept"), []
    made = lambda stage: store.make(stage.kind, stage.inputs, stage.build)  # noqa: E731
    return SimpleNamespace(
        make=made, device="cpu", progress=lambda *event: told.append(event), told=told
    )


def pictures(n, seed=0):
    made = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), np.uint8)
    return SampleSet(made, np.zeros(n, np.int64), np.arange(n))


def test_records_are_made_once_for_the_same_pictures(chain, monkeypatch):
    calls = []

    def detect(images, beside=None, found=None, device="cpu", progress=None):
        calls.append((len(images), beside, found))
        progress("faces", len(images), len(images))
        return [{"faces": [int(i.sum())]} for i in images]

    monkeypatch.setattr(faces, "detect", detect)
    monkeypatch.setattr(measure, "CHUNK", 3)
    seven = pictures(7)
    first = measure.keep_detections(chain, "faces", seven)
    assert first == [{"faces": [int(i.sum())]} for i in seven.images]
    assert [n for n, *_ in calls] == [3, 3, 1]
    assert chain.told[-1] == ("faces", 7, 7)
    assert measure.keep_detections(chain, "faces", seven) == first
    assert len(calls) == 3
    measure.keep_detections(chain, "faces", pictures(7, 1))
    assert len(calls) == 6
    monkeypatch.setattr(faces, "THRESHOLDS", (0.5, 0.7, 0.7))
    measure.keep_detections(chain, "faces", seven)
    assert len(calls) == 9
    assert measure.keep_detections(chain, "faces", pictures(0)) == []


def test_a_killed_detection_goes_on_where_it_was(chain, monkeypatch):
    calls = []

    def detect(images, beside=None, found=None, device="cpu", progress=None):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [{"parts": []} for _ in images]

    monkeypatch.setattr(nudity, "detect", detect)
    monkeypatch.setattr(measure, "CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):
        measure.keep_detections(chain, "nudity", pictures(5))
    assert len(measure.keep_detections(chain, "nudity", pictures(5))) == 5
    assert calls == [2, 2, 2, 1]


def test_a_second_stage_starts_from_the_faces_that_are_kept(chain, monkeypatch):
    boxes = [{"faces": [{"box": [0, 0, i, i], "probability": 1.0}]} for i in range(4)]
    monkeypatch.setattr(faces, "detect", lambda images, *a, **k: boxes)
    seen = []

    def detect(images, beside=None, found=None, device="cpu", progress=None):
        seen.append((list(beside), found))
        return [{"faces": []} for _ in images]

    monkeypatch.setattr(celebrities, "detect", detect)
    monkeypatch.setattr(celebrities, "facts", dict)
    measure.keep_detections(chain, "celebrities", pictures(4), ["brad pitt"] * 4)
    measure.keep_detections(chain, "celebrities", pictures(4), ["brad pitt"] * 4)
    measure.keep_detections(chain, "celebrities", pictures(4), ["brad pitt"] * 3 + ["emma stone"])
    assert seen == [(["brad pitt"] * 4, boxes), (["brad pitt"] * 3 + ["emma stone"], boxes)]


class Installed:
    """A distribution whose RECORD names the hash of one file."""

    version = "1.0"

    def __init__(self, path, content):
        self.path, self.suffix = path, path.suffix
        value = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        self.hash = SimpleNamespace(mode="sha256", value=value)
        self.files = [self]

    def locate(self):
        return self.path


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", None])
@pytest.mark.parametrize(("name", "ending"), [("nudity", "onnx"), ("faces", "pt")])
def test_a_librarys_damaged_weights_are_named_before_work(
    tmp_path, monkeypatch, content, name, ending
):
    path = tmp_path / f"net.{ending}"
    path.write_bytes(b"whole")
    monkeypatch.setattr(weight_files.importlib.util, "find_spec", lambda package: object())
    monkeypatch.setattr(weight_files.metadata, "distribution", lambda _: Installed(path, b"whole"))
    monkeypatch.setattr(weight_files, "package_version", lambda _: "1.0")
    detector = detectors.load(name)
    assert detector.missing() is None
    path.unlink() if content is None else path.write_bytes(content)
    reason = detector.missing()
    assert f"{path} is {'missing' if content is None else 'damaged'}" in reason
    assert "--force-reinstall" in reason
    assert "\n" not in reason


def test_a_file_that_ends_early_is_not_taken_for_a_stop(monkeypatch, capsys):
    from sa_bench.commands import app as cli

    def ends():
        raise EOFError("Ran out of input")

    app = typer.Typer()
    app.command()(ends)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["sa_bench"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert "a file ends where more of it was expected (Ran out of input" in said
    assert "stopped" not in said
