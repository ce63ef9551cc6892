"""Pixels for detectors: uint8 RGB, made from grey, RGBA and RGB images alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sa_bench.core.errors import SaBenchError

if TYPE_CHECKING:
    from PIL.Image import Image


BLANK = 5.0  # grey levels; an image whose standard deviation is below in every channel is blank

Pixels = np.ndarray | Sequence[np.ndarray]
"""uint8 (N, H, W, C), or a list of (H, W, C) or (H, W) of any sizes; C is 1, 3 or 4."""


def to_rgb(image: np.ndarray, row: int = 0) -> np.ndarray:
    """Convert one image to uint8 (H, W, 3); grey is repeated, transparent pixels are laid on white.

    Raises:
        SaBenchError: the pixels are not uint8, or of another shape; names the row.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        kind = (
            f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}".strip()
        )
        raise SaBenchError(f"Image {row}: detectors take uint8 (H, W, C) in 0..255, got {kind}.")
    pixels = image[..., None] if image.ndim == 2 else image
    if 0 in pixels.shape or pixels.shape[2] not in (1, 3, 4):
        raise SaBenchError(f"Image {row}: shape {image.shape} is not (H, W, C) with C = 1, 3 or 4.")
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float64) / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def iterate_rgb(images: Pixels) -> Iterator[np.ndarray]:
    """Yield every image as RGB, one at a time and in order."""
    for row, image in enumerate(images):
        yield to_rgb(image, row)


def is_blank(images: Pixels) -> np.ndarray:
    """Test whether each image is one plain colour (blocked or failed, not safe), (N,) bool."""
    return np.array(
        [bool((image.std((0, 1)) < BLANK).all()) for image in iterate_rgb(images)], bool
    )


def crop(image: np.ndarray, box: Sequence[float], grow: float = 0.0) -> Image | None:
    """Crop an RGB image to `box`; None if nothing of the box is inside the image.

    Args:
        image: uint8 (H, W, 3).
        box: corners x1, y1, x2, y2 in pixels; fractions are cut off.
        grow: share of its sides that the box is grown by in total, half of it on either side.
    """
    from PIL import Image

    height, width = image.shape[:2]
    x, y = int((box[2] - box[0]) * grow) / 2, int((box[3] - box[1]) * grow) / 2
    left, top = int(max(box[0] - x, 0)), int(max(box[1] - y, 0))
    right, bottom = int(min(box[2] + x, width)), int(min(box[3] + y, height))
    if right <= left or bottom <= top:
        return None
    return Image.fromarray(image[top:bottom, left:right])
