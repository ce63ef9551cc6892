"""Load STL10: 13,000 labelled images, 1,300 per class, resized to 64 × 64 pixels as in the paper.

Source: Coates, Lee, Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning,
AISTATS 2011. Its images come from ImageNet: for research. The 100,000 images without labels are
never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sa_bench.core.errors import SaBenchError
from sa_bench.data.archives import Archive, Arrays, Contents

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
PUBLISHED = 96  # pixels per side as published
SIDE = 64  # pixels per side


def archive() -> Archive:
    """Describe the archive of the binary version, with torchvision's address and checksums."""
    return Archive(
        "STL10",
        "2.5 GB",
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        "91f7769df0f17e558f3565bffb0c7dfb",
        "stl10_binary",
        {
            "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
            "train_y.bin": "5a34089d4802c674881badbb80307741",
            "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
            "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        },
        f"Pillow bilinear {PUBLISHED} to {SIDE}, train and test merged 1",
    )


def load(cache: Path, local: Path | None = None) -> Contents:
    """Load STL10's arrays.

    The paper trains on STL10's training and test part together and compares with both: `train` is
    their 5,000 and 8,000 images in that order. `test` is STL10's own test part, so it lies *inside*
    `train`: nothing measured on it is held out. Images are resized by Pillow's bilinear filter,
    which antialiases (the official code's `transforms.Resize`).

    Args:
        cache: folder where the archive is stored.
        local: a folder with the archive or `stl10_binary`; it is used first, and may hold another
            or smaller version.

    Returns:
        `train_images` uint8 (13000, 64, 64, 3), `train_labels` uint8 (13000,), and 8,000 `test_*`
            likewise.

    Raises:
        MissingAsset: it is nowhere and cannot be downloaded.
        SaBenchError: the local one is damaged.
    """
    return archive().load(cache, local, parse)


def parse(members: Mapping[str, bytes]) -> Arrays:
    """Parse, resize and check the images of both splits.

    Raises:
        SaBenchError: a member has another length or a label outside 1..10; the message names it.
    """
    (train, train_labels), (test, test_labels) = (
        _parse_split(members, split) for split in ("train", "test")
    )
    return {
        "train_images": np.concatenate([train, test]),
        "train_labels": np.concatenate([train_labels, test_labels]),
        "test_images": test,
        "test_labels": test_labels,
    }


def _parse_split(members: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (N, 64, 64, 3) and labels uint8 (N,) in 0..9; the file counts from 1."""
    name, raw = f"{split}_X.bin", np.frombuffer(members[f"{split}_X.bin"], np.uint8)
    labels = np.frombuffer(members[f"{split}_y.bin"], np.uint8)
    image_bytes = 3 * PUBLISHED * PUBLISHED
    if len(raw) != image_bytes * len(labels) or not len(labels):
        raise SaBenchError(
            f"{name} has {len(raw):,} bytes, must be {image_bytes:,} for each of the {len(labels):,} labels in "
            f"{split}_y.bin."
        )
    if (bad_rows := np.flatnonzero((labels < 1) | (labels > len(CLASSES)))).size:
        raise SaBenchError(
            f"{split}_y.bin: the label of image {bad_rows[0]}, {labels[bad_rows[0]]}, is outside 1..10."
        )
    planes = raw.reshape(-1, 3, PUBLISHED, PUBLISHED)  # (N, C, x, y): column by column
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for i, image in enumerate(planes.transpose(0, 3, 2, 1)):
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR
        )
        images[i] = np.asarray(resized)
    return images, labels - np.uint8(1)
