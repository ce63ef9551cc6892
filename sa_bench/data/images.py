"""Read images of unknown origin safely: folders and NPZ files, one size, uint8, clear errors.

A file means what an image viewer shows on white paper. So alpha is composited on white; the
orientation that a camera recorded (EXIF) is applied; palette, 1-bit, CMYK and grey images are
converted by Pillow; of 16 bits the upper 8 are used. What a viewer would not show as one still
picture is refused by name, as is whatever is unreadable. Nothing is resized. The order is natural
(2 before 10).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sa_bench.core import untrusted_arrays
from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.data import png

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# Recognised by content: Pillow would run Ghostscript on an EPS called x.png.
ALPHA = ("RGBA", "LA", "PA")  # Pillow's modes with an alpha channel
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 50_000_000  # a decompression bomb is refused, not decoded
HOW_TO_SAVE = (
    "Write it with np.savez(path, images, labels=labels), uint8 (N, H, W, C) and integers (N,)."
)


def natural_order(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Return a sort key that puts 2.png before 10.png.

    No two names have the same key (1.png, 01.png).
    """
    pieces = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in pieces], path.name


def list_image_files(folder: Path) -> list[Path]:
    """List the image files directly in `folder`, in natural order, without hidden ones (.x, ._x).

    Raises:
        SaBenchError: the folder cannot be listed, or a name among them is not a readable file.
    """
    try:
        files = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        ]
    except OSError as error:
        raise SaBenchError(f"{folder} cannot be read as a folder ({error.strerror}).") from error
    for path in files:
        if not path.is_file() or not os.access(path, os.R_OK):
            kind = "a folder" if path.is_dir() else "unreadable"
            if path.is_symlink() and not path.exists():
                kind = "a broken link"
            raise SaBenchError(f"{path} is called an image but is {kind}. Remove or replace it.")
    return sorted(files, key=natural_order)


def is_lossy(path: Path) -> bool:
    """Return whether the file is JPEG or WebP, whatever its name."""
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(b"\xff\xd8") or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def is_transparent(path: Path) -> bool:
    """Tell whether an image has an alpha channel or a transparent colour, in which something may be drawn."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode in ALPHA or "transparency" in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # a table, an array, or what was refused before


def read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image as uint8 (H, W, channels); channels is 1 (grey) or 3 (RGB).

    Raises:
        SaBenchError: it is unreadable, truncated, animated or absurdly large; the message names the
            file.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about size, which is checked here, and about harmless metadata.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise SaBenchError(
                        f"{path}: {image.width}x{image.height} pixels; refusing to decode it."
                    )
                frames = getattr(image, "n_frames", 1)
                # A camera's MPO is a JPEG followed by a preview.
                if frames > 1 and image.format != "MPO":
                    raise SaBenchError(
                        f"{path} holds {frames} frames; save the one that counts as an image."
                    )
                with _refuse_truncated():
                    image.load()
                if image.format == "PNG":
                    _require_whole_png(path, image)
                array = np.asarray(
                    _flatten_on_white(image).convert("L" if channels == 1 else "RGB")
                )
    except SaBenchError:
        raise
    except Image.DecompressionBombError as error:
        raise SaBenchError(f"{path}: refusing to decode it ({error}).") from error
    except UnidentifiedImageError as error:
        problem = (
            "it is empty" if path.stat().st_size == 0 else f"it is none of {', '.join(FORMATS)}"
        )
        raise SaBenchError(
            f"{path} cannot be read as an image: {problem}. Remove or replace it."
        ) from error
    except Exception as error:
        raise SaBenchError(
            f"{path} cannot be read as an image ({error}). Remove or replace it."
        ) from error
    return array.reshape(*array.shape[:2], channels).copy()


@contextmanager
def _refuse_truncated() -> Iterator[None]:
    """Make Pillow refuse truncated files within the block.

    Pillow's switch for them belongs to the whole process, and other code may have set it.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _require_whole_png(path: Path, image: Image.Image) -> None:
    """Refuse a PNG that lacks rows, or has a transparent 16-bit colour, which Pillow cannot match.

    The transparent grey of 2 or 4 bits, which Pillow leaves at the depth of the file, is scaled as
    its pixels are.

    Raises:
        SaBenchError: it is such a PNG.
    """
    png_header = png.header(path)
    if png_header is None:
        return
    if png.rows_missing(path, png_header):
        raise SaBenchError(f"{path} is cut short: it lacks rows of pixels. Remove or replace it.")
    transparent = image.info.get("transparency")
    if transparent is not None and png_header.bits == 16 and png_header.colour == 2:
        raise SaBenchError(
            f"{path} has a transparent colour in 16 bits a channel; save it with an alpha channel."
        )
    if isinstance(transparent, int) and png_header.colour == 0 and png_header.bits in (2, 4):
        image.info["transparency"] = transparent * (255 // (2**png_header.bits - 1))


def _flatten_on_white(image: Image.Image) -> Image.Image:
    """Make the picture upright, opaque and 8 bits deep, on white."""
    image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)  # as Pillow does with 16-bit colour
        if transparent is not None:
            grey[deep == transparent] = 255
        return Image.fromarray(grey)
    if transparent is not None or image.mode in ALPHA:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


def read_folder(
    folder: Path, channels: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[Path]]:
    """Read every image in `folder`, in natural order.

    Args:
        folder: where the images lie.
        channels: 1 or 3.
        size: the (H, W) in pixels that all must have.

    Returns:
        uint8 (N, H, W, channels), and the files in the same order.

    Raises:
        SaBenchError: there are no images, or one has another size (nothing is resized silently).
    """
    files = list_image_files(folder)
    if not files:
        raise SaBenchError(
            f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}) directly in it."
        )
    images = np.empty((len(files), *size, channels), np.uint8)
    for i, file in enumerate(files):
        image = read_image(file, channels)
        if image.shape[:2] != size:
            height, width = image.shape[:2]
            raise SaBenchError(
                f"{file} is {width}x{height}, but {size[1]}x{size[0]} is needed. Resize the images yourself: the "
                "method of resizing is part of the result."
            )
        images[i] = image
    return images, files


def read_npz(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the images and labels of an evaluator's NPZ file: arr_0 uint8 NHWC.

    Returns:
        Images uint8 (N, *shape); labels int64 (N,), or None if there are none.

    Raises:
        SaBenchError: another key, type or layout, no rows, or labels that do not fit. Nothing is
            unpickled.
    """
    arrays = _read_arrays(path)
    images = arrays.pop("arr_0")
    if images.dtype != np.uint8:
        raise SaBenchError(
            f"{path}: arr_0 is {images.dtype}, must be uint8 in 0..255. Convert it first."
        )
    if images.ndim == 3 and shape[2] == 1:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != shape:
        layout = (
            " It looks like NCHW; transpose it."
            if images.shape[1:] == (shape[2], *shape[:2])
            else ""
        )
        raise SaBenchError(
            f"{path}: arr_0 has shape {images.shape}, must be (N, {shape[0]}, {shape[1]}, "
            f"{shape[2]}).{layout}"
        )
    if len(images) == 0:
        raise SaBenchError(f"{path}: arr_0 has 0 images.")
    if not arrays:
        return images, None
    ((key, labels),) = arrays.items()
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise SaBenchError(
            f"{path}: {key} must be {len(images)} integers, got {labels.dtype} {labels.shape}."
        )
    if labels.max() > np.iinfo(np.int64).max:
        raise SaBenchError(
            f"{path}: {key}[{labels.argmax()}] is {labels.max()}, which is not a class number."
        )
    return images, labels.astype(np.int64)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read `arr_0` and, if there are any, the labels (`labels`, else `arr_1`); no other array."""
    try:
        return untrusted_arrays.read_npz(path, "arr_0", ("labels", "arr_1"))
    except Exception as error:  # zip, zlib, numpy and the allocator raise errors of their own
        raise SaBenchError(
            f"{path} cannot be read as NPZ: {first_line(error)}. {HOW_TO_SAVE}"
        ) from error
