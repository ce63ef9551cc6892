"""Reading strangers' images safely: folders and NPZ files, one size, uint8, clear errors.

One rule: a file means what an image viewer shows on white paper. So alpha is composited on white; the
orientation that a camera wrote (EXIF) is applied; palette, 1-bit, CMYK and grey images are converted by
Pillow; of 16 bits the upper 8 are kept. What a viewer would not show as one still picture is refused, as
is whatever is unreadable, by name. Nothing is resized. Order is natural (2 before 10).
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
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
)  # by content: Pillow would run Ghostscript on an EPS called x.png
MAX_PIXELS = 50_000_000  # a decompression bomb is refused, not decoded
HOW_TO_SAVE = (
    "Write it with np.savez(path, images, labels=labels), uint8 (N, H, W, C) and integers (N,)."
)


def natural_order(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """A sort key under which 2.png comes before 10.png; no two names are equal (1.png, 01.png)."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts], path.name


def list_image_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, in natural order; hidden ones (.x, ._x) are left out.

    Raises:
        SaBenchError: the folder cannot be listed, or a name among them is no readable file.
    """
    try:
        found = [
            p
            for p in folder.iterdir()
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        ]
    except OSError as error:
        raise SaBenchError(f"{folder} cannot be read as a folder ({error.strerror}).") from error
    for path in found:
        if not path.is_file() or not os.access(path, os.R_OK):
            kind = (
                "a folder"
                if path.is_dir()
                else "a link to nothing"
                if path.is_symlink()
                else "unreadable"
            )
            raise SaBenchError(f"{path} is called an image but is {kind}. Remove or replace it.")
    return sorted(found, key=natural_order)


def is_lossy(path: Path) -> bool:
    """Whether the file is JPEG or WebP, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(b"\xff\xd8") or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def read_image(path: Path, channels: int) -> np.ndarray:
    """uint8 (H, W, channels); channels 1 (grey) or 3 (RGB).

    Raises:
        SaBenchError: unreadable, truncated, animated or absurdly large; names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's remarks on size and metadata: judged here or harmless
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise SaBenchError(
                        f"{path}: {image.width}x{image.height} pixels; refusing to decode it."
                    )
                frames = getattr(image, "n_frames", 1)
                if (
                    frames > 1 and image.format != "MPO"
                ):  # a camera's MPO is a JPEG with a preview behind it
                    raise SaBenchError(
                        f"{path} holds {frames} frames; save the one that counts as an image."
                    )
                with _truncated_refused():
                    image.load()
                if image.format == "PNG":
                    _require_whole_png(path, image)
                array = np.asarray(_on_white(image).convert("L" if channels == 1 else "RGB"))
    except SaBenchError:
        raise
    except Image.DecompressionBombError as error:
        raise SaBenchError(f"{path}: refusing to decode it ({error}).") from error
    except UnidentifiedImageError as error:
        what = "it is empty" if path.stat().st_size == 0 else f"it is none of {', '.join(FORMATS)}"
        raise SaBenchError(
            f"{path} cannot be read as an image: {what}. Remove or replace it."
        ) from error
    except Exception as error:
        raise SaBenchError(
            f"{path} cannot be read as an image ({error}). Remove or replace it."
        ) from error
    return array.reshape(*array.shape[:2], channels).copy()


@contextmanager
def _truncated_refused() -> Iterator[None]:
    """Pillow's switch for files that are cut short is the whole process's, and anybody's: off while one is read."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _require_whole_png(path: Path, image: Image.Image) -> None:
    """Refuse a PNG without all of its rows, or with a transparent colour of 16 bits, which Pillow cannot find again.

    The transparent grey of 2 or 4 bits, which Pillow leaves as deep as the file has it, is scaled like its pixels.

    Raises:
        SaBenchError: it is one.
    """
    facts = png.header(path)
    if facts is None:
        return
    if png.rows_missing(path, facts):
        raise SaBenchError(f"{path} is cut short: it lacks rows of pixels. Remove or replace it.")
    transparent = image.info.get("transparency")
    if transparent is not None and facts.bits == 16 and facts.colour == 2:
        raise SaBenchError(
            f"{path} has a transparent colour in 16 bits a channel; save it with an alpha channel."
        )
    if isinstance(transparent, int) and facts.colour == 0 and facts.bits in (2, 4):
        image.info["transparency"] = transparent * (255 // (2**facts.bits - 1))


def _on_white(image: Image.Image) -> Image.Image:
    """The picture upright, opaque and 8 bits deep."""
    image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)  # as Pillow does with 16-bit colour
        if transparent is not None:
            grey[deep == transparent] = 255
        return Image.fromarray(grey)
    if transparent is not None or image.mode in ("RGBA", "LA", "PA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


def read_folder(
    folder: Path, channels: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[Path]]:
    """uint8 (N, H, W, channels) of every image in `folder`, and the files in that order.

    Args:
        folder: where the images lie.
        channels: 1 or 3.
        size: the (H, W) in pixels that all must have.

    Raises:
        SaBenchError: no images, or one of another size (nothing is resized silently).
    """
    files = list_image_files(folder)
    if not files:
        raise SaBenchError(
            f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}) directly in it."
        )
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
            f"{path}: {key}[{labels.argmax()}] is {labels.max()}, which is no class."
        )
    return images, labels.astype(np.int64)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """`arr_0` and, where there is one, the array of labels (`labels`, else `arr_1`); no other is touched."""
    try:
        return untrusted_arrays.read_npz(path, "arr_0", ("labels", "arr_1"))
    except (
        Exception
    ) as error:  # zip, zlib, numpy's header parser and the allocator all have their own
        raise SaBenchError(
            f"{path} cannot be read as NPZ: {first_line(error)}. {HOW_TO_SAVE}"
        ) from error
