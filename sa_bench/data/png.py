"""What Pillow does not say of a PNG: how deep its samples are, and whether all rows are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Adam7's passes: first column and row, step across and down."""


class Header(NamedTuple):
    """The header of a PNG."""

    width: int
    height: int
    bits: int  # a sample
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    interlaced: bool

    @property
    def size(self) -> int:
        """Bytes of all rows, unpacked, each with the byte that names its filter."""
        if not self.interlaced:
            return self._rows(self.width, self.height)
        parts = (
            (-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in PASSES
        )
        return sum(self._rows(w, h) for w, h in parts if w > 0 and h > 0)

    def _rows(self, width: int, height: int) -> int:
        return height * (1 + (width * self.bits * SAMPLES.get(self.colour, 1) + 7) // 8)


def header(path: Path) -> Header | None:
    """A file's header; None: it is no PNG."""
    with path.open("rb") as file:
        start = file.read(33)
    if len(start) < 33 or not start.startswith(SIGNATURE):
        return None
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
    return Header(width, height, bits, colour, bool(interlaced))


def rows_missing(path: Path, facts: Header) -> bool:
    """Whether a PNG holds less than all of its rows: Pillow would make the others black.

    Nothing is unpacked beyond what the header asks for.
    """
    unpack, n = zlib.decompressobj(), 0
    try:
        for data in _pixels(path):
            while data and n < facts.size:
                n += len(unpack.decompress(data, min(2**20, facts.size - n)))
                data = unpack.unconsumed_tail
    except zlib.error:
        return True
    return n < facts.size


def _pixels(path: Path) -> Iterator[bytes]:
    """The contents of the IDAT chunks."""
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
