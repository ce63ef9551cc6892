"""Tiny archives in the true formats of CIFAR10 and STL10, of simple coloured shapes that differ by class."""

import gzip
import io
import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np

from sa_bench.data import cifar10, stl10

COLOURS = (
    (230, 40, 40), (40, 200, 60), (50, 80, 230), (230, 210, 40), (200, 60, 210),
    (40, 210, 210), (240, 140, 30), (150, 150, 150), (120, 70, 30), (245, 245, 245),
)  # fmt: skip


def shapes(per_class, side, seed=0):
    """(images uint8 (10 · per_class, side, side, 3), labels): one colour a class, shaded top-left to bottom-right.

    Even classes are discs and odd ones boxes, at random places on a dark noisy ground.
    """
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(10), per_class)
    y, x = np.mgrid[:side, :side]
    images = rng.integers(0, 50, (len(labels), side, side, 3))
    for image, label in zip(images, labels, strict=True):
        (cy, cx), radius = rng.uniform(0.35, 0.65, 2) * side, rng.uniform(0.2, 0.32) * side
        down, right = np.abs(y - cy), np.abs(x - cx)
        inside = (
            np.hypot(down, right) < radius if label % 2 == 0 else np.maximum(down, right) < radius
        )
        image[inside] = (np.array(COLOURS[label]) * (1 - 0.3 * (y + 2 * x) / 3 / side)[..., None])[
            inside
        ]
    return images.astype(np.uint8), labels


class Python2(pickle._Pickler):
    """Writes as Python 2 did: byte strings as its `str`, numpy's old module names (`python2_pickle`)."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _string


def python2_pickle(value):
    """The bytes of a pickle as in CIFAR10's own archive."""
    out = io.BytesIO()
    Python2(out, protocol=2).dump(value)
    return out.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def cifar10_members(per_class):
    """The members of `cifar-10-batches-py`: `per_class` images a class in train, half as many (≥ 1) in test."""
    members = {}
    images, labels = shapes(per_class, 32)
    parts = np.array_split(np.arange(len(labels)), 5)
    for i, rows in enumerate(parts, 1):
        members[f"data_batch_{i}"] = batch(images[rows], labels[rows], f"training batch {i} of 5")
    members["test_batch"] = batch(
        *shapes(max(1, per_class // 2), 32, seed=1), "testing batch 1 of 1"
    )
    members["batches.meta"] = python2_pickle(
        {
            b"num_cases_per_batch": 10000,
            b"label_names": [n.encode() for n in cifar10.CLASSES],
            b"num_vis": 3072,
        }
    )
    return members


def batch(images, labels, label):
    """One pickled batch: rows of 1,024 red, green and blue values."""
    return python2_pickle(
        {
            b"batch_label": label.encode(), b"labels": [int(c) for c in labels],
            b"data": np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1)),
            b"filenames": [f"shape_s_{i:06}.png".encode() for i in range(len(images))],
        }
    )  # fmt: skip


def stl10_members(per_class):
    """The members of `stl10_binary`: `per_class` images a class in train, as many in test, a few unlabelled."""
    members = {}
    for seed, split in enumerate(("test", "train")):
        images, labels = shapes(per_class, 96, seed)
        members[f"{split}_X.bin"] = columns(images)
        members[f"{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    members["unlabeled_X.bin"] = columns(shapes(1, 96, seed=2)[0][:2])
    members["class_names.txt"] = "\n".join(stl10.CLASSES).encode()
    return members


def columns(images):
    """Images as STL10 stores them: plane by plane, column by column."""
    return images.transpose(0, 3, 2, 1).tobytes()


def packed(folder, members):
    """The bytes of a `.tar.gz` of `members` (name to bytes) in `folder`; the same each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, raw in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return gzip.compress(out.getvalue(), 1, mtime=0)


def write_tar(path, folder, members):
    """Write what `packed` makes of `members`; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(folder, members))
    return path


def write_cifar10(folder, per_class):
    """`cifar-10-python.tar.gz` in `folder`, with `per_class` training images a class; returns its path."""
    return write_tar(
        folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_members(per_class)
    )


def write_stl10(folder, per_class):
    """`stl10_binary.tar.gz` in `folder`, with `per_class` images a class in train and in test; returns its path."""
    return write_tar(folder / "stl10_binary.tar.gz", "stl10_binary", stl10_members(per_class))
