"""Load CIFAR10: 60,000 colour images of 32 × 32 pixels in ten classes, 6,000 each.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Its page states no
licence and asks to cite that report.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.data.archives import Archive, Arrays, ArraysOnly, Contents

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels


def archive() -> Archive:
    """Describe the archive of the Python version, with torchvision's address and checksums."""
    return Archive(
        "CIFAR10",
        "163 MB",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        "NHWC 1",
    )


def load(cache: Path, local: Path | None = None) -> Contents:
    """Load CIFAR10's arrays.

    Args:
        cache: folder where the archive is stored.
        local: a folder with the archive or `cifar-10-batches-py`; it is used first, and may hold
            another or smaller version.

    Returns:
        `train_images` uint8 (50000, 32, 32, 3), `train_labels` uint8 (50000,), and 10,000 `test_*`
            likewise.

    Raises:
        MissingAsset: it is nowhere and cannot be downloaded.
        SaBenchError: the local one is damaged.
    """
    return archive().load(cache, local, parse)


def parse(members: Mapping[str, bytes]) -> Arrays:
    """Parse and check the batches of both splits.

    Raises:
        SaBenchError: a member is not a batch of CIFAR10's; the message names it.
    """
    names = _unpickle("batches.meta", members["batches.meta"]).get("label_names")
    if not isinstance(names, list) or tuple(map(_decode, names)) != CLASSES:
        raise SaBenchError(f"batches.meta names other classes than {', '.join(CLASSES)}.")
    train = [
        _parse_batch(name, members[name])
        for name in sorted(members)
        if name.startswith("data_batch")
    ]
    test = _parse_batch("test_batch", members["test_batch"])
    return {
        "train_images": np.concatenate([images for images, _ in train]),
        "train_labels": np.concatenate([labels for _, labels in train]),
        "test_images": test[0],
        "test_labels": test[1],
    }


def _parse_batch(name: str, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Parse a batch: rows of 1,024 red, 1,024 green and 1,024 blue values.

    Returns:
        Images uint8 (N, 32, 32, 3) and labels uint8 (N,).
    """
    batch = _unpickle(name, raw)
    rows, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.shape[1:] != (3 * SIDE * SIDE,)
    ):
        description = (
            f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        )
        raise SaBenchError(f"{name}: data is {description}, must be uint8 (N, {3 * SIDE * SIDE}).")
    if not isinstance(labels, list) or len(labels) != len(rows):
        description = f"{len(labels)} labels" if isinstance(labels, list) else "no list of labels"
        raise SaBenchError(f"{name}: {len(rows)} images but {description}.")
    for i, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASSES):
            raise SaBenchError(f"{name}: the label of image {i}, {label!r:.20}, is outside 0..9.")
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


def _unpickle(name: str, raw: bytes) -> dict[str, object]:
    """Unpickle the dictionary in a batch; Python 2 wrote it, so its keys may be text or bytes."""
    try:
        content = ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise any error
        raise SaBenchError(f"{name} cannot be read ({first_line(error)}).") from error
    if not isinstance(content, dict):
        raise SaBenchError(f"{name} holds a {type(content).__name__}, not a dictionary.")
    return {_decode(key): value for key, value in content.items()}


def _decode(value: object) -> str:
    """Convert bytes or another value to text."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
