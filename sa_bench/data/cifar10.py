"""CIFAR10: 60,000 colour images of 32 x 32 pixels in ten classes, 6,000 each.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Its page states no licence
and asks to cite that report.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sa_bench.core.errors import SaBenchError
from sa_bench.data.archives import Archive, Arrays, ArraysOnly, Contents, describe_error

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels


def archive() -> Archive:
    """The Python version, with address and checksums as torchvision declares them."""
    from torchvision.datasets import CIFAR10

    members = {name: md5 for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list]}
    members[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
    return Archive(
        "CIFAR10", "163 MB", CIFAR10.url, CIFAR10.tgz_md5, CIFAR10.base_folder, members, "NHWC 1"
    )


def load(cache: Path, local: Path | None = None) -> Contents:
    """`train_images` uint8 (50000, 32, 32, 3), `train_labels` uint8 (50000,), `test_*` likewise (10000).

    Args:
        cache: folder where the archive is kept.
        local: a folder with the archive or `cifar-10-batches-py`; it wins, and may be another or smaller.

    Raises:
        MissingAsset: it is nowhere and cannot be fetched.
        SaBenchError: the local one is damaged.
    """
    return archive().load(cache, local, parse)


def parse(members: Mapping[str, bytes]) -> Arrays:
    """Both splits, each batch checked.

    Raises:
        SaBenchError: a member is no batch of CIFAR10's; names it.
    """
    names = _unpickled("batches.meta", members["batches.meta"]).get("label_names")
    if not isinstance(names, list) or tuple(map(_text, names)) != CLASSES:
        raise SaBenchError(f"batches.meta names other classes than {', '.join(CLASSES)}.")
    train = [
        _batch(name, members[name]) for name in sorted(members) if name.startswith("data_batch")
    ]
    test = _batch("test_batch", members["test_batch"])
    return {
        "train_images": np.concatenate([images for images, _ in train]),
        "train_labels": np.concatenate([labels for _, labels in train]),
        "test_images": test[0],
        "test_labels": test[1],
    }


def _batch(name: str, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) from rows of 1,024 red, green and blue values; labels uint8 (N,)."""
    batch = _unpickled(name, raw)
    rows, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.shape[1:] != (3 * SIDE * SIDE,)
    ):
        got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise SaBenchError(f"{name}: data is {got}, must be uint8 (N, {3 * SIDE * SIDE}).")
    if not isinstance(labels, list) or len(labels) != len(rows):
        got = f"{len(labels)} labels" if isinstance(labels, list) else "no list of labels"
        raise SaBenchError(f"{name}: {len(rows)} images but {got}.")
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            raise SaBenchError(f"{name}: the label of image {i}, {label!r:.20}, is outside 0..9.")
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


def _unpickled(name: str, raw: bytes) -> dict[str, object]:
    """The dictionary in a batch; Python 2 wrote them, so keys are text or bytes by who reads."""
    try:
        found = ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise SaBenchError(f"{name} cannot be read ({describe_error(error)}).") from error
    if not isinstance(found, dict):
        raise SaBenchError(f"{name} holds a {type(found).__name__}, not a dictionary.")
    return {_text(key): value for key, value in found.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
