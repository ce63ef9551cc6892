"""The data sets: the right pixels and labels, one content hash a content, and one line for every damage."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from archives import (
    batch,
    cifar10_members,
    columns,
    packed,
    python2_pickle,
    shapes,
    stl10_members,
    write_cifar10,
    write_stl10,
    write_tar,
)
from PIL import Image
from servers import silent_server
from torchvision import datasets as published
from torchvision import transforms

from sa_bench.commands import doctor
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import archives, cifar10, datasets, mnist, stl10
from sa_bench.data.assets import download
from sa_bench.engine import external

SETS = {
    "cifar10": (cifar10, cifar10_members, write_cifar10),
    "stl10": (stl10, stl10_members, write_stl10),
}
both = pytest.mark.parametrize("name", SETS)


@functools.cache
def members(name):
    return SETS[name][1](2)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """An empty store, no SA_BENCH_DATA and no proxy between a test and its own server."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    for variable in ("SA_BENCH_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return


@pytest.fixture
def local(tmp_path, monkeypatch):
    """`local(name, members)` writes an archive into the folder that SA_BENCH_DATA names; returns its path."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setenv("SA_BENCH_DATA", str(folder))

    def write(name, content=None):
        archive = SETS[name][0].archive()
        return write_tar(folder / archive.file, archive.folder, content or members(name))

    return write


def extract(path, name):
    """Its members as files beside it; returns the folder."""
    folder = path.parent / SETS[name][0].archive().folder
    folder.mkdir(parents=True)
    for member, raw in members(name).items():
        (folder / member).write_bytes(raw)
    return folder


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def refused(name):
    with pytest.raises(SaBenchError) as caught:
        datasets.load(name)
    return one_line(caught)


def as_published(monkeypatch, name, address="http://127.0.0.1:9"):
    """Let the tiny archive be the published one, to be had from `address`; returns its bytes."""
    module, _, _ = SETS[name]
    archive = module.archive()
    raw = packed(archive.folder, members(name))
    md5s = {member: md5(members(name)[member]) for member in archive.members}
    tiny = replace(archive, md5=md5(raw), url=f"{address}/{archive.file}", members=md5s)
    monkeypatch.setattr(module, "archive", lambda: tiny)
    return raw


def md5(raw):
    return hashlib.md5(raw).hexdigest()


@pytest.fixture
def serve():
    """`serve(answer)` starts a server whose every reply is `answer(handler)`; returns (address, requests)."""
    servers = []

    def start(answer):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                answer(self)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(raw, announced=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


# Pixels and labels


def test_cifar10_pixels_and_labels_are_those_written(local):
    local("cifar10")
    data = datasets.load("cifar10")
    for part, (images, labels) in ((data.train, shapes(2, 32)), (data.test, shapes(1, 32, seed=1))):
        assert part.images.dtype == np.uint8
        assert np.array_equal(part.images, images)
        assert part.labels.tolist() == labels.tolist()


def test_stl10_pixels_are_upright_and_resized_as_torchvision_does(local):
    local("stl10")
    data = datasets.load("stl10")
    images, labels = shapes(2, 96, seed=0)  # the test part
    resize = transforms.Resize(64)
    wanted = np.stack([np.asarray(resize(Image.fromarray(image))) for image in images])
    assert np.array_equal(data.test.images, wanted)
    assert data.test.labels.tolist() == labels.tolist()


def test_an_arrow_in_stl10_points_where_it_pointed(local):
    """A file is column by column: read row by row, the top edge would be the left one."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[:12, :, 0] = 255  # red along the top
    image[:, :12, 2] = 255  # blue along the left
    local("stl10", {**members("stl10"), "test_X.bin": columns(image[None]), "test_y.bin": b"\x09"})
    (small,) = datasets.load("stl10").test.images
    assert small[2, 32].tolist() == [255, 0, 0]
    assert small[32, 2].tolist() == [0, 0, 255]
    assert small[32, 32].tolist() == [0, 0, 0]
    assert datasets.load("stl10").test.labels.tolist() == [8]
    assert datasets.ENTRIES["stl10"].classes[8] == "ship"


def test_stl10_trains_on_both_parts_and_its_test_part_lies_inside(local):
    local("stl10")
    data = datasets.load("stl10")
    assert len(data.train) == 40
    assert np.bincount(data.train.labels).tolist() == [4] * 10
    assert np.array_equal(data.train.images[20:], data.test.images)


@both
def test_the_classes_are_torchvisions(name):
    assert len(set(datasets.ENTRIES[name].classes)) == 10
    order = {
        "cifar10": {1: "automobile", 2: "bird", 6: "frog"},
        "stl10": {1: "bird", 2: "car", 7: "monkey"},
    }
    for label, word in order[name].items():
        assert datasets.ENTRIES[name].classes[label] == word


def tasks():
    return [registry.get_task(entry.name) for entry in registry.list_entries("task")]


@pytest.mark.parametrize("task", tasks(), ids=lambda t: t.name)
def test_a_tasks_classes_are_its_data_sets_in_order(task):
    if task.dataset in datasets.ENTRIES:
        assert task.classes == datasets.ENTRIES[task.dataset].classes


def test_mnist16_is_mnist_padded_and_averaged(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    arrays = {
        f"{s}_{k}": v
        for s in ("train", "test")
        for k, v in (("images", images), ("labels", np.arange(5)))
    }
    monkeypatch.setattr(mnist, "load", lambda *_: arrays)
    data = datasets.load("mnist16")
    assert data.train.images.shape == (5, 16, 16, 1)
    assert data.train.labels.tolist() == list(range(5))
    exact = torch.nn.functional.avg_pool2d(
        torch.tensor(np.pad(images, ((0, 0), (2, 2), (2, 2))) / 1.0), 2
    )
    assert np.array_equal(data.train.images[..., 0], np.floor(exact.numpy() + 0.5))
    assert not data.train.images[:, 0].any()
    assert mnist.shrink(np.full((1, 28, 28), 255, np.uint8)).max() == 255


# Content


@both
def test_archive_and_folder_give_the_same_arrays_and_hash(local, name):
    path = local(name)
    packed = datasets.load(name)
    datasets.load.cache_clear()
    extract(path, name)
    path.unlink()
    plain = datasets.load(name)
    assert plain.content == packed.content
    assert np.array_equal(plain.train.images, packed.train.images)
    assert np.array_equal(plain.test.labels, packed.test.labels)


@both
def test_sa_bench_data_may_be_the_extracted_folder_itself(local, name, monkeypatch):
    path = local(name)
    packed = datasets.load(name).content
    folder = extract(path, name)
    path.unlink()
    monkeypatch.setenv("SA_BENCH_DATA", str(folder))
    assert datasets.load(name).content == packed


@both
def test_another_archive_is_marked_and_hashed_by_what_it_holds(local, name):
    path = local(name)
    assert not datasets.is_published(name)
    first = datasets.data_content(name)
    assert first == datasets.load(name).content != datasets.ENTRIES[name].content()
    said = datasets.data_remark(name)
    assert f"not the published {datasets.ENTRIES[name].title}, content {first}" in said
    SETS[name][2](path.parent, 3)
    assert datasets.data_content(name) != first


@both
def test_the_published_hash_needs_no_data(name, monkeypatch):
    monkeypatch.setattr(archives.Archive, "load", None)
    assert datasets.data_content(name) == datasets.ENTRIES[name].content()
    assert datasets.is_published(name)
    assert datasets.data_remark(name) is None


def test_content_hashes_stay():
    """Every cache key and fingerprint depends on them: a change makes all earlier results another protocol's."""
    assert {name: datasets.data_content(name) for name in datasets.ENTRIES} == {
        "mnist": "a5ab3e5d9b3a5eb0", "mnist16": "70e7c4ea546d4f8f",
        "cifar10": "e75fb7cf8ce1a24a", "stl10": "bbfa4994e00c9454", "mnist_canvas": "a5ab3e5d9b3a5eb0-rgb32",
    }  # fmt: skip


@both
def test_the_published_files_are_known_wherever_they_lie(local, name, monkeypatch):
    as_published(monkeypatch, name)
    extract(local(name), name)
    data = datasets.load(name)
    assert data.published
    assert data.content == SETS[name][0].archive().content
    assert datasets.data_remark(name) is None


def test_sa_bench_data_with_another_set_alone_leaves_mnist_where_it_was(local, tmp_path):
    path = local("stl10")
    assert datasets.mnist_folder() is None
    assert not datasets._is_local("cifar10")
    path.unlink()
    assert datasets.mnist_folder() == path.parent  # an empty folder is a mistake that must be told


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])  # in a member that is read


def page(path):
    path.write_bytes(b"<!DOCTYPE html><html>please log in</html>")


def flipped(path):
    raw = bytearray(path.read_bytes())
    raw[2000:2100] = bytes(100)
    path.write_bytes(raw)


DAMAGE = {
    "cut": (cut, "damaged or cut short"),
    "a web page": (page, "not a gzip file (it starts with b'<!DOCTYPE"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "gzip of text": (
        lambda path: path.write_bytes(gzip.compress(b"no tar" * 99)),
        "damaged or cut short",
    ),
    "flipped bytes": (
        flipped,
        ("damaged or cut short", "it holds no ", "cannot be read", "bytes", "images but"),
    ),
}


@both
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_local_archive_is_one_line_with_what_to_do(local, name, case):
    path = local(name)
    harm, why = DAMAGE[case]
    harm(path)
    text = refused(name)
    assert any(part in text for part in ([why] if isinstance(why, str) else why))
    for part in (str(path), SETS[name][0].archive().url, "SA_BENCH_DATA"):
        assert part in text


NEEDED = [("cifar10", m) for m in cifar10_members(1)] + [
    ("stl10", f"{split}_{kind}.bin") for split in ("train", "test") for kind in "Xy"
]


@pytest.mark.parametrize("extracted", [False, True], ids=["archive", "folder"])
@pytest.mark.parametrize(("name", "member"), NEEDED)
def test_a_missing_member_is_named(local, name, member, extracted):
    path = local(name, {k: v for k, v in members(name).items() if k != member})
    if extracted:
        (extract(path, name) / member).unlink()
    assert (
        f"it holds no {'' if extracted else SETS[name][0].archive().folder + '/'}{member}"
        in refused(name)
    )


@pytest.mark.parametrize("member", ["unlabeled_X.bin", "class_names.txt"])
def test_what_is_not_used_may_lack(local, member):
    local("stl10", {k: v for k, v in members("stl10").items() if k != member})
    assert len(datasets.load("stl10").train) == 40


@both
@pytest.mark.parametrize(
    "stray", ["../../outside", "/etc/outside", "cifar-10-batches-py/../../outside"]
)
def test_a_path_that_leads_out_of_the_archive_is_refused(local, tmp_path, name, stray):
    path = local(name)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(stray), io.BytesIO())
    assert f"it holds {stray!r}, a path that leads out of the archive" in refused(name)
    assert not list(tmp_path.rglob("*outside*"))


def test_a_link_is_no_member(local):
    path = local("cifar10")
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    assert "it holds no cifar-10-batches-py/data_batch_1" in refused("cifar10")


def test_an_absurd_member_is_not_read(local, monkeypatch):
    local("stl10")
    monkeypatch.setattr(archives, "LARGEST", 1000)
    assert "bytes, which cannot be right" in refused("stl10")


IMAGES, LABELS = shapes(1, 32)
BAD_BATCHES = {
    "a label of 10": (batch(IMAGES, [*LABELS[:-1], 10], ""), "label of image 9, 10, is outside 0..9"),
    "a label of -1": (batch(IMAGES, [-1, *LABELS[1:]], ""), "label of image 0, -1, is outside 0..9"),
    "a label lacks": (batch(IMAGES, LABELS[1:], ""), "10 images but 9 labels"),
    "no labels": (python2_pickle({b"data": IMAGES.reshape(10, -1)}), "no list of labels"),
    "labels of CIFAR100": (
        python2_pickle({b"data": IMAGES.reshape(10, -1), b"fine_labels": [0] * 10}), "no list of labels"
    ),
    "a label that is a word": (
        python2_pickle({b"data": IMAGES.reshape(10, -1), b"labels": [b"cat"] * 10}), "is outside 0..9"
    ),
    "short rows": (python2_pickle({b"data": IMAGES.reshape(10, -1)[:, 1:], b"labels": [0] * 10}), "must be uint8"),
    "floats": (python2_pickle({b"data": IMAGES.reshape(10, -1) / 255, b"labels": [0] * 10}), "float64 (10, 3072)"),
    "no data": (python2_pickle({b"labels": [0] * 10}), "data is NoneType"),
    "a list": (python2_pickle([1, 2]), "holds a list, not a dictionary"),
    "text": (b"<html>", "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "cut": (members("cifar10")["data_batch_3"][:900], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_is_named_with_what_is_wrong(local, case):
    raw, why = BAD_BATCHES[case]
    local("cifar10", {**members("cifar10"), "data_batch_3": raw})
    text = refused("cifar10")
    assert "data_batch_3" in text
    assert why in text


def test_other_class_names_are_refused(local):
    other = python2_pickle({b"label_names": [n.encode() for n in stl10.CLASSES]})
    local("cifar10", {**members("cifar10"), "batches.meta": other})
    assert "batches.meta names other classes than airplane, automobile, bird" in refused("cifar10")


BAD_BINARIES = {
    "cut": ("train_X.bin", lambda raw: raw[:-1], "552,959 bytes, must be 27,648 for each of the 20 labels"),
    "too long": ("test_X.bin", lambda raw: raw + raw[:27_648], "for each of the 20 labels in test_y.bin"),
    "a label lacks": ("train_y.bin", lambda raw: raw[:-1], "for each of the 19 labels"),
    "no labels": ("train_y.bin", lambda raw: b"", "for each of the 0 labels"),
    "a label of 0": ("test_y.bin", lambda raw: b"\0" + raw[1:], "label of image 0, 0, is outside 1..10"),
    "a label of 11": ("test_y.bin", lambda raw: raw[:-1] + b"\x0b", "label of image 19, 11, is outside 1..10"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BINARIES)
def test_a_bad_binary_is_named_with_what_is_wrong(local, case):
    member, harm, why = BAD_BINARIES[case]
    local("stl10", {**members("stl10"), member: harm(members("stl10")[member])})
    text = refused("stl10")
    assert member.partition("_")[0] in text
    assert why in text


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.mkdir, os.system, eval], ids=lambda f: f.__name__)
@pytest.mark.parametrize("member", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_malicious_batch_is_refused_and_not_run(local, tmp_path, member, function, protocol):
    evil = pickle.dumps({"data": Calls(function, str(tmp_path / "trace")), "labels": []}, protocol)
    local("cifar10", {**members("cifar10"), member: evil})
    text = refused("cifar10")
    assert f"{member} cannot be read" in text
    assert "only numpy arrays are admitted" in text
    assert not (tmp_path / "trace").exists()


# Fetching


@both
def test_what_is_fetched_is_checked_kept_and_not_fetched_again(name, monkeypatch, serve, tmp_path):
    address, asked = serve(reply(as_published(monkeypatch, name)))
    as_published(monkeypatch, name, address)
    for _ in range(2):
        datasets.load.cache_clear()
        assert datasets.load(name).published
    assert len(asked) == 1
    assert visible(tmp_path) == [SETS[name][0].archive().file]


def visible(tmp_path):
    found = (tmp_path / "store" / "data").iterdir()
    return [p.name for p in found if not p.name.endswith(".lock")]


BAD_ANSWERS = {
    "another archive": lambda raw: reply(raw[:-1]),
    "a web page": lambda raw: reply(b"<html>please log in</html>"),
    "nothing": lambda raw: reply(b""),
    "half": lambda raw: reply(raw[: len(raw) // 2], announced=len(raw)),
    "404": lambda raw: lambda handler: handler.send_error(404),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_what_is_not_the_archive_is_not_kept(monkeypatch, serve, tmp_path, case):
    address, _ = serve(BAD_ANSWERS[case](as_published(monkeypatch, "cifar10")))
    as_published(monkeypatch, "cifar10", address)
    text = refused("cifar10")
    assert "CIFAR10 is not available" in text
    assert address in text
    left = visible(tmp_path)
    assert not [name for name in left if ".part" not in name]
    assert bool(left) == (case == "half")  # the next attempt goes on from there


@both
def test_offline_one_line_names_file_address_and_what_to_set(name, monkeypatch, tmp_path):
    as_published(monkeypatch, name, "http://127.0.0.1:9")  # a closed port
    monkeypatch.setattr(time, "sleep", lambda s: pytest.fail(f"nothing is worth waiting {s} s for"))
    with pytest.raises(MissingAsset) as caught:
        datasets.load(name)
    archive = SETS[name][0].archive()
    for part in (archive.file, archive.url, "SA_BENCH_DATA", archive.size, "refused"):
        assert part in one_line(caught)
    assert caught.value.exit_code == 3
    assert visible(tmp_path) == []


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    with silent_server() as silent:
        as_published(monkeypatch, "stl10", silent.address)
        monkeypatch.setattr(download, "DEADLINE", 0.2)
        assert silent.address in refused("stl10")
        assert silent.count_requests() == 1
    assert download.DEADLINE < 10


def test_a_download_that_was_cut_goes_on_where_it_ended(monkeypatch, serve, tmp_path):
    """An archive has up to 2.6 GB, and every attempt began anew."""
    raw = as_published(monkeypatch, "cifar10")
    file = tmp_path / "store" / "data" / SETS["cifar10"][0].archive().file
    file.parent.mkdir(parents=True)
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(raw[: len(raw) // 2])
    asked = []

    def rest(handler):
        asked.append(handler.headers["Range"])
        start = len(raw) // 2
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
        handler.send_header("Content-Length", str(len(raw) - start))
        handler.end_headers()
        handler.wfile.write(raw[start:])

    address, _ = serve(rest)
    as_published(monkeypatch, "cifar10", address)
    assert datasets.load("cifar10").published
    assert asked == [f"bytes={len(raw) // 2}-"]
    assert not part.exists()


@both
def test_a_damaged_kept_archive_is_fetched_again_or_named(name, monkeypatch, serve, tmp_path):
    raw = as_published(monkeypatch, name)
    kept = tmp_path / "store" / "data" / SETS[name][0].archive().file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(raw[: len(raw) // 3])
    text = refused(name)
    assert f"{kept}: it is damaged or cut short" in text
    assert kept.exists()  # what may be a passing read error must not cost the only copy
    address, _ = serve(reply(raw))
    as_published(monkeypatch, name, address)
    assert datasets.load(name).published
    assert kept.read_bytes() == raw


def test_only_a_local_archive_may_be_another(monkeypatch, tmp_path, local):
    path = local("cifar10")
    as_published(monkeypatch, "cifar10")
    monkeypatch.delenv("SA_BENCH_DATA")
    kept = tmp_path / "store" / "data" / path.name
    kept.parent.mkdir(parents=True)
    write_cifar10(kept.parent, 1)
    assert f"{kept} is not the published archive" in refused("cifar10")


@both
def test_sa_bench_data_that_is_no_folder_says_so(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SA_BENCH_DATA", str(tmp_path / "nowhere"))
    assert f"SA_BENCH_DATA={tmp_path / 'nowhere'} is not a folder" in refused(name)


def test_sa_bench_data_without_the_set_goes_on_to_the_store(local, monkeypatch, tmp_path):
    kept = tmp_path / "store" / "data" / cifar10.archive().file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(as_published(monkeypatch, "cifar10"))
    assert datasets.load("cifar10").published


def test_an_unknown_data_set_is_told_the_near_one():
    with pytest.raises(SaBenchError, match="Did you mean cifar10"):
        datasets.load("cifar")


# What else knows of them


@pytest.fixture
def ship_task():
    """STL10's classes and size under another task's protocol."""
    return replace(registry.get_task("mnist_0"), dataset="stl10", classes=stl10.CLASSES)


def write_class_folders(root, names):
    for name in names:
        folder = root / "forget" if name is None else root / "retain" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (len(name or ""), 0, 0)).save(folder / "0.png")
    return root


def test_a_class_folder_of_another_data_set_is_an_error_with_both_lists(ship_task, tmp_path):
    root = write_class_folders(tmp_path / "x", [None, "bird", "automobile"])
    with pytest.raises(SaBenchError) as caught:
        external.read_sets(root, ship_task)
    text = one_line(caught)
    assert "no class 'automobile'. Available: 0 airplane, 1 bird, 2 car" in text
    assert "It is a class of CIFAR10." in text


def test_class_folders_are_numbers_or_names_in_the_order_of_the_classes(ship_task, tmp_path):
    root = write_class_folders(tmp_path / "x", [None, "9", "ship", "07", "horse", *"54321"])
    sets, *_ = external.read_sets(root, ship_task)
    assert sets["retain"].labels.tolist() == list(range(1, 10))
    assert sets["retain"].images[:, 0, 0, 0].tolist() == [1, 1, 1, 1, 1, 5, 2, 4, 1]
    (root / "retain" / "10").mkdir()
    with pytest.raises(SaBenchError, match="no class '10'"):
        external.read_sets(root, ship_task)


def test_doctor_lists_them_and_misses_neither(local, monkeypatch, tmp_path):
    text, missing = doctor.describe_assets()
    for part in (
        "163 MB",
        "2.5 GB",
        "Krizhevsky 2009",
        "research use",
        cifar10.archive().url,
        "cifar10_airplane",
    ):
        assert part in text
    assert missing  # MNIST
    kept = tmp_path / "store" / "data" / "mnist.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    path = local("stl10")
    text, missing = doctor.describe_assets()
    assert not missing
    assert f"STL10: here, in {path}" in text
    assert "CIFAR10: not here" in text


def test_addresses_and_checksums_are_torchvisions():
    assert list(mnist.MIRRORS) == published.MNIST.mirrors
    for module, original in ((cifar10, published.CIFAR10), (stl10, published.STL10)):
        archive, md5s = module.archive(), dict([*original.train_list, *original.test_list])
        if original is published.CIFAR10:
            md5s[original.meta["filename"]] = original.meta["md5"]
        assert (archive.url, archive.md5, archive.folder) == (
            original.url,
            original.tgz_md5,
            original.base_folder,
        )
        assert archive.members == {n: m for n, m in md5s.items() if "unlabeled" not in n}
