"""Read what Pillow does not report about a PNG: its sample depth, and whether it has all rows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel, by colour type
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Adam7's passes: first column, first row, step across, step down."""


class Header(NamedTuple):
    """The header of a PNG."""

    width: int
    height: int
    bits: int  # per sample
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    interlaced: bool

    @property
    def size(self) -> int:
        """Bytes of all unpacked rows, each with the byte that names its filter."""
        if not self.interlaced:
            return self._count_bytes(self.width, self.height)
        pass_sizes = (
            (-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in PASSES
        )
        return sum(
            self._count_bytes(width, height)
            for width, height in pass_sizes
            if width > 0 and height > 0
        )

    def _count_bytes(self, width: int, height: int) -> int:
        """Count the bytes of `height` rows of `width` pixels."""
        return height * (1 + (width * self.bits * SAMPLES.get(self.colour, 1) + 7) // 8)


def header(path: Path) -> Header | None:
    """Read a file's header; None if it is not a PNG."""
    with path.open("rb") as file:
        start = file.read(33)
    if len(start) < 33 or not start.startswith(SIGNATURE):
        return None
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
    return Header(width, height, bits, colour, bool(interlaced))


def rows_missing(path: Path, png_header: Header) -> bool:
    """Return whether a PNG lacks some of its rows, which Pillow would make black.

    Nothing is unpacked beyond the size that the header states.
    """
    decompressor, unpacked_bytes = zlib.decompressobj(), 0
    try:
        for data in _read_pixel_data(path):
            while data and unpacked_bytes < png_header.size:
                unpacked_bytes += len(
                    decompressor.decompress(data, min(2**20, png_header.size - unpacked_bytes))
                )
                data = decompressor.unconsumed_tail
    except zlib.error:
        return True
    return unpacked_bytes < png_header.size


def _read_pixel_data(path: Path) -> Iterator[bytes]:
    """Yield the contents of the IDAT chunks."""
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"IDAT":
                while length > 0 and (data := file.read(min(length, 2**20))):
                    length -= len(data)
                    yield data
                file.seek(4, 1)
            else:
                file.seek(length + 4, 1)
