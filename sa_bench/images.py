"""Reading strangers' images safely: folders and NPZ files, one size, uint8, clear errors.

Rules: natural order (2 before 10); alpha is composited on white; palette, 1-bit, CMYK and grey images
are converted by Pillow; nothing is resized; an unreadable file is an error that names it.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from sa_bench.errors import SaBenchError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
LOSSY = {".jpg", ".jpeg", ".webp"}
MAX_PIXELS = 100_000_000  # a decompression bomb is refused, not decoded


def natural(path: Path) -> list[tuple[int, int | str]]:
    """A sort key under which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts]


def image_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, in natural order."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
        key=natural,
    )


def read_image(path: Path, channels: int) -> np.ndarray:
    """uint8 (H, W, channels); channels 1 (grey) or 3 (RGB).

    Raises:
        SaBenchError: unreadable, truncated or absurdly large; names the file.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SaBenchError(f"{path}: {image.width}x{image.height} pixels; refusing to decode it.")
            image.load()
            if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except SaBenchError:
        raise
    except Exception as error:
        raise SaBenchError(f"{path} cannot be read as an image ({error}). Remove or replace it.") from error
    return array.reshape(*array.shape[:2], channels).copy()


def read_folder(folder: Path, channels: int, size: tuple[int, int]) -> tuple[np.ndarray, list[Path]]:
    """uint8 (N, H, W, channels) of every image in `folder`, and the files in that order.

    Args:
        folder: where the images lie.
        channels: 1 or 3.
        size: the (H, W) in pixels that all must have.

    Raises:
        SaBenchError: no images, or one of another size (nothing is resized silently).
    """
    files = image_files(folder)
    if not files:
        raise SaBenchError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    out = np.empty((len(files), *size, channels), np.uint8)
    for i, file in enumerate(files):
        image = read_image(file, channels)
        if image.shape[:2] != size:
            h, w = image.shape[:2]
            raise SaBenchError(
                f"{file} is {w}x{h}, but {size[1]}x{size[0]} is needed. Resize the images yourself: how is "
                "part of the result."
            )
        out[i] = image
    return out, files


def read_npz(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """(images uint8 (N, *shape), labels int64 (N,) or None) from an evaluator NPZ: arr_0 uint8 NHWC.

    Raises:
        SaBenchError: another key, type or layout, no rows, labels that do not fit; never unpickles.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.keys())
            if "arr_0" not in keys:
                raise SaBenchError(f"{path} has no array arr_0 (found: {', '.join(keys) or 'nothing'}).")
            images = archive["arr_0"]
            key = next((k for k in ("labels", "arr_1") if k in keys), None)
            labels = archive[key] if key else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise SaBenchError(f"{path} cannot be read as NPZ ({error}).") from error
    if images.dtype != np.uint8:
        raise SaBenchError(f"{path}: arr_0 is {images.dtype}, must be uint8 in 0..255.")
    if images.ndim == 3 and shape[2] == 1:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != shape:
        layout = " It looks like NCHW; transpose it." if images.shape[1:] == (shape[2], *shape[:2]) else ""
        raise SaBenchError(f"{path}: arr_0 has shape {images.shape}, must be (N, {shape[0]}, {shape[1]}, "
                           f"{shape[2]}).{layout}")  # fmt: skip
    if len(images) == 0:
        raise SaBenchError(f"{path}: arr_0 has 0 images.")
    if labels is not None:
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise SaBenchError(
                f"{path}: {key} must be {len(images)} integers, got {labels.dtype} {labels.shape}."
            )
        labels = labels.astype(np.int64)
    return images, labels
