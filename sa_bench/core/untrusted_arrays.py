"""Read arrays of unknown origin: ZIP, NPZ, safetensors, torch's files and tables of scores.

What a file claims about itself (sizes, shapes, counts) is compared with what it holds before memory
is taken.
"""

from __future__ import annotations

import math
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.core.errors import first_line
from sa_bench.core.untrusted_text import DEEPEST, MIB, Unfit, parse_json

if TYPE_CHECKING:
    import pandas as pd


ROOM, GROWTH = (2**30, 4)
"""Memory that a file may take: this many bytes, or this many times its own size, if more."""
HEADER = 64 * MIB  # most bytes of a safetensors header
SCORES = 20_000_000  # most numbers in a table of scores
COLUMNS = 64
MEMBERS, DIRECTORY = (200_000, 64 * MIB)
"""Most entries of a ZIP archive, and bytes of its central directory."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods whose output is bounded while it is read."""
NUMBERS = {"BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE"}  # names of Parquet's numeric types
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "C128": 128,
}  # fmt: skip
"""Bits of each number format of safetensors, by its name there."""


def compute_memory_limit(path: Path) -> int:
    """Compute how many bytes the contents of `path` may take in memory, from the size of the file."""
    return max(ROOM, GROWTH * path.stat().st_size)


def require_room(needed: int, path: Path) -> None:
    """Refuse to unpack more bytes than `compute_memory_limit` permits.

    Raises:
        Unfit: `needed` bytes are more.
    """
    if needed > compute_memory_limit(path):
        raise Unfit(
            f"it would take {needed / 1e9:,.1f} GB of memory, and is {path.stat().st_size:,} bytes long: "
            "that cannot be right"
        )


def is_zip(path: Path) -> bool:
    """Return whether a file ends as a ZIP archive does; False where zipfile raises on a bad end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a ZIP archive after checking its table of entries.

    Raises:
        Unfit: it has too many entries, two of one name, or one that is encrypted or compressed by
            another method than deflate.
        OSError, zipfile.BadZipFile: it is not an archive.
    """
    _require_short_directory(path)
    archive = zipfile.ZipFile(path)
    try:
        infos = archive.infolist()
        if len(infos) > MEMBERS:
            raise Unfit(f"it has {len(infos):,} members, more than {MEMBERS:,}")
        if len({info.filename for info in infos}) != len(infos):
            raise Unfit("it has two members of one name")
        for info in infos:
            if info.compress_type not in METHODS or info.flag_bits & 1:
                raise Unfit(
                    f"it holds {info.filename[:80]!r}, which is encrypted or compressed by another method than deflate"
                )
    except BaseException:
        archive.close()
        raise
    return archive


def _require_short_directory(path: Path) -> None:
    """Reject an archive that announces a table of entries too long for zipfile to read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 22 - 65535 - 20))
        tail = file.read()
        end_record = tail.rfind(b"PK\x05\x06")
        if end_record < 0 or len(tail) < end_record + 22:
            raise zipfile.BadZipFile("File is not a zip file")
        members, length = struct.unpack_from("<HL", tail, end_record + 10)
        if end_record >= 20 and tail[end_record - 20 : end_record - 16] == b"PK\x06\x07":
            file.seek(min(size, struct.unpack_from("<Q", tail, end_record - 12)[0]))
            record = file.read(56)
            if len(record) == 56 and record[:4] == b"PK\x06\x06":
                members, length = struct.unpack_from("<QQ", record, 32)
    if members > MEMBERS or length > DIRECTORY:
        raise Unfit(f"it has {members:,} members, more than {MEMBERS:,}")


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read the bytes of an archive's member, up to a limit.

    Raises:
        Unfit: there are more than `limit` bytes.
        zipfile.BadZipFile and similar errors: it is damaged.
    """
    with archive.open(name) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Unfit(f"{name} has more than {limit:,} bytes, which cannot be right")
    return raw


def read_npz(path: Path, needed: str, beside: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read arrays of an NPZ file after comparing the shape of each with the bytes of its member.

    Args:
        path: the file.
        needed: name of an array that must be there.
        beside: names of a second array; the first that is there is read.

    Returns:
        The one or two arrays by name.

    Raises:
        Unfit: an array is missing, holds objects, or is larger than its member; the file would take
            too much memory.
    """
    with open_zip(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        if needed not in members:
            raise Unfit(
                f"it has no array {needed} (found: {', '.join(sorted(members)[:9]) or 'nothing'})"
            )
        names = [needed, *[name for name in beside if name in members][:1]]
        require_room(sum(members[name].file_size for name in names), path)
        return {name: _read_array(archive, members[name]) for name in names}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read one array of an NPZ archive."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise Unfit(
                f"{info.filename} is in numpy's format {version}, which an array of numbers never needs"
            )
        shape, is_fortran_order, dtype = reader(file)
        if dtype.hasobject:
            raise Unfit(f"{info.filename} holds objects, not numbers")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != info.file_size - file.tell():
            raise Unfit(
                f"{info.filename} says {shape} of {dtype}, and holds {info.file_size:,} bytes"
            )
        raw = bytearray(size)
        filled, view = 0, memoryview(raw)
        while filled < size and (block := file.read(min(MIB, size - filled))):
            view[filled : filled + len(block)] = block
            filled += len(block)
        if filled < size:
            raise Unfit(f"{info.filename} is cut short")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if is_fortran_order else "C")


def read_header(path: Path) -> dict[str, Any]:
    """Read a safetensors file's table of tensors and `__metadata__`, and check it against the file.

    Raises:
        Unfit: it is damaged or cut short.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        if size < 8 or header_length > min(size - 8, HEADER):
            raise Unfit(f"it is cut short at {size:,} bytes, within its header")
        raw = file.read(header_length)
    table = parse_json(raw)
    if not isinstance(table, dict):
        raise Unfit("its header is not a table of tensors")
    end = 0
    for name, start, stop in sorted(_locate_tensors(table), key=lambda placed: placed[1:]):
        if start != end:
            raise Unfit(
                f"its tensor {name[:80]!r} begins at {start:,}, where the one before it ends at {end:,}"
            )
        end = stop
    if size != 8 + header_length + end:
        problem = "is cut short" if size < 8 + header_length + end else "is damaged"
        raise Unfit(
            f"it {problem}: {size:,} bytes where its header says {8 + header_length + end:,}"
        )
    return table


def _locate_tensors(table: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield (name, begin, end) of every tensor whose shape and format need just that many bytes."""
    for name, value in table.items():
        if name == "__metadata__":
            continue
        entry = value if isinstance(value, dict) else {}
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        bits = BITS.get(str(entry.get("dtype")))
        if (
            not isinstance(shape, list)
            or not isinstance(offsets, list)
            or len(offsets) != 2
            or bits is None
        ):
            raise Unfit(f"its header is unreadable at the tensor {name[:80]!r}")
        if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, *offsets)):
            raise Unfit(f"its header is unreadable at the tensor {name[:80]!r}")
        if len(shape) > COLUMNS or math.prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
            raise Unfit(
                f"its tensor {name[:80]!r} says the shape {shape[:8]} and takes {offsets[1] - offsets[0]:,} bytes"
            )
        yield name, offsets[0], offsets[1]


def require_tensors_fit(path: Path) -> None:
    """Check a zipped torch file before torch reads it: its members lie uncompressed, side by side.

    Raises:
        Unfit: they are compressed, or come to more bytes than the file.
        OSError, zipfile.BadZipFile: it is not an archive.
    """
    with open_zip(path) as archive:
        infos = archive.infolist()
        if compressed := [info for info in infos if info.compress_type != zipfile.ZIP_STORED]:
            raise Unfit(
                f"its part {compressed[0].filename[:80]!r} is compressed, which torch.save never does"
            )
        if sum(max(info.file_size, info.compress_size) for info in infos) > path.stat().st_size:
            raise Unfit("its parts come to more than the file")


def load_torch(path: Path, lazily: bool = False) -> Any:
    """Load what torch saved, with the loader that admits only tensors and plain values, on the CPU.

    Args:
        path: the file.
        lazily: read each tensor when it is used, if the file's format allows it.

    Raises:
        Unfit: it would take too much memory.
        Exception: errors of torch or zipfile if the file is damaged or holds more than tensors.
    """
    import torch

    zipped = is_zip(path)
    if zipped:
        require_tensors_fit(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipped)
    level, size = [loaded], 0
    for _ in range(DEEPEST):  # a view of a few numbers may claim to have any number of elements
        size += sum(
            value.numel() * value.element_size()
            for value in level
            if isinstance(value, torch.Tensor)
        )
        containers = (
            value.values() if isinstance(value, Mapping) else value
            for value in level
            if isinstance(value, (Mapping, list, tuple))
        )
        level = [child for children in containers for child in children]
        require_room(size, path)
        if not level or len(level) > MEMBERS:
            break
    return loaded


def require_scores(path: Path) -> None:
    """Check that a table of scores has only numeric columns, and not too many numbers.

    Raises:
        Unfit: it is something else.
        OSError, ValueError: it is not a Parquet file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        columns = [metadata.schema.column(i) for i in range(min(metadata.num_columns, COLUMNS + 1))]
    if metadata.num_columns > COLUMNS or not 0 <= metadata.num_rows <= SCORES // max(
        1, metadata.num_columns
    ):
        raise Unfit(f"{metadata.num_rows:,} x {metadata.num_columns:,} numbers cannot be right")
    if other_types := sorted({column.physical_type for column in columns} - NUMBERS):
        raise Unfit(f"a table of scores has a column of {other_types[0]}, not of numbers")
    if nested := [
        column.path for column in columns if column.max_repetition_level or "." in column.path
    ]:
        raise Unfit(f"a table of scores has a column {nested[0][:80]!r} of lists, not of numbers")


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores, with its columns by name.

    Raises:
        Unfit: for the reasons that `require_scores` gives, or it is damaged.
        OSError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_scores(path)
        with pq.ParquetFile(path) as file:
            return file.read().to_pandas(ignore_metadata=True)
    except (Unfit, FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise Unfit(first_line(error)) from error
