"""Arrays of strangers: ZIP archives, NPZ, safetensors, torch's files and tables of scores, looked at before use.

What a file claims of itself (sizes, shapes, counts) is compared with what it holds before memory is taken.
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

from sa_bench.core.untrusted_text import DEEPEST, MIB, Unfit, parse_json

if TYPE_CHECKING:
    import pandas as pd


ROOM, GROWTH = (2**30, 4)
"""A file may come to so many bytes in memory, or to so many times its own size."""
HEADER = 64 * MIB  # bytes of a safetensors header
SCORES = 20_000_000  # numbers in a table of scores
COLUMNS = 64
MEMBERS, DIRECTORY = 200_000, 64 * MIB  # of a ZIP archive: entries, and bytes of its table of them
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others unpack without a bound while they are read."""
NUMBERS = {"BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE"}  # what Parquet calls them
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "C128": 128,
}  # fmt: skip
"""What safetensors calls a number, and how long it is."""


def allowed(path: Path) -> int:
    """The bytes that the contents of `path` may take in memory."""
    return max(ROOM, GROWTH * path.stat().st_size)


def require_room(wanted: int, path: Path) -> None:
    """Refuse to unpack more than `allowed`.

    Raises:
        Unfit: `wanted` bytes are more.
    """
    if wanted > allowed(path):
        raise Unfit(
            f"it would take {wanted / 1e9:,.1f} GB of memory, and is {path.stat().st_size:,} bytes long: "
            "that cannot be right"
        )


def is_zip(path: Path) -> bool:
    """Whether a file ends as a ZIP archive does; zipfile's own question raises where the end is damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def open_zip(path: Path) -> zipfile.ZipFile:
    """A ZIP archive, once its table of entries was looked at: how many, of which kind, each of one name.

    Raises:
        Unfit: it has too many, one that is enciphered or packed otherwise than stored or deflated, or two of one name.
        OSError, zipfile.BadZipFile: it is no archive.
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
                    f"it holds {info.filename[:80]!r}, which is enciphered or packed in another way than deflated"
                )
    except BaseException:
        archive.close()
        raise
    return archive


def _require_short_directory(path: Path) -> None:
    """The end of an archive says how long its table is, which zipfile reads whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 22 - 65535 - 20))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise zipfile.BadZipFile("File is not a zip file")
        members, length = struct.unpack_from("<HL", tail, at + 10)
        if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
            file.seek(min(size, struct.unpack_from("<Q", tail, at - 12)[0]))
            record = file.read(56)
            if len(record) == 56 and record[:4] == b"PK\x06\x06":
                members, length = struct.unpack_from("<QQ", record, 32)
    if members > MEMBERS or length > DIRECTORY:
        raise Unfit(f"it has {members:,} members, more than {MEMBERS:,}")


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The bytes of an archive's member, counted while they are read.

    Raises:
        Unfit: more than `limit`.
        zipfile.BadZipFile and others of its kind: it is damaged.
    """
    with archive.open(name) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Unfit(f"{name} has more than {limit:,} bytes, which cannot be right")
    return raw


def read_npz(path: Path, needed: str, beside: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an NPZ file, once the shape of each was held against the bytes of its member and of the file.

    Args:
        path: the file.
        needed: an array that must be there.
        beside: names of another, of which the first that is there is read.

    Raises:
        Unfit: one is missing, holds objects, or is larger than what holds it; the file would take too much memory.
    """
    with open_zip(path) as archive:
        held = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        if needed not in held:
            raise Unfit(
                f"it has no array {needed} (found: {', '.join(sorted(held)[:9]) or 'nothing'})"
            )
        wanted = [needed, *[name for name in beside if name in held][:1]]
        require_room(sum(held[name].file_size for name in wanted), path)
        return {name: _array(archive, held[name]) for name in wanted}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise Unfit(
                f"{info.filename} is of numpy's format {version}, which no array of numbers needs"
            )
        shape, by_columns, kind = reader(file)
        if kind.hasobject:
            raise Unfit(f"{info.filename} holds objects, not numbers")
        size = math.prod(shape) * kind.itemsize
        if min(shape, default=0) < 0 or size != info.file_size - file.tell():
            raise Unfit(
                f"{info.filename} says {shape} of {kind}, and holds {info.file_size:,} bytes"
            )
        raw = bytearray(size)
        filled, view = 0, memoryview(raw)
        while filled < size and (block := file.read(min(MIB, size - filled))):
            view[filled : filled + len(block)] = block
            filled += len(block)
        if filled < size:
            raise Unfit(f"{info.filename} is cut short")
    return np.frombuffer(raw, kind).reshape(shape, order="F" if by_columns else "C")


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's own table of its tensors (and `__metadata__`), held against the bytes that it has.

    Raises:
        Unfit: it is damaged or cut short.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        n = int.from_bytes(file.read(8), "little")
        if size < 8 or n > min(size - 8, HEADER):
            raise Unfit(f"it is cut short at {size:,} bytes, within its header")
        raw = file.read(n)
    table = parse_json(raw)
    if not isinstance(table, dict):
        raise Unfit("its header is no table of tensors")
    end = 0
    for name, start, stop in sorted(_placed(table), key=lambda part: part[1:]):
        if start != end:
            raise Unfit(
                f"its tensor {name[:80]!r} begins at {start:,}, where the one before it ends at {end:,}"
            )
        end = stop
    if size != 8 + n + end:
        what = "is cut short" if size < 8 + n + end else "is damaged"
        raise Unfit(f"it {what}: {size:,} bytes where its header says {8 + n + end:,}")
    return table


def _placed(table: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(name, begin, end) of every tensor, once its shape and kind need just that many bytes."""
    for name, said in table.items():
        if name == "__metadata__":
            continue
        said = said if isinstance(said, dict) else {}
        shape, place, bits = (
            said.get("shape"),
            said.get("data_offsets"),
            BITS.get(str(said.get("dtype"))),
        )
        if (
            not isinstance(shape, list)
            or not isinstance(place, list)
            or len(place) != 2
            or bits is None
        ):
            raise Unfit(f"its header is unreadable at the tensor {name[:80]!r}")
        if not all(type(v) is int and 0 <= v < 2**48 for v in (*shape, *place)):
            raise Unfit(f"its header is unreadable at the tensor {name[:80]!r}")
        if len(shape) > COLUMNS or math.prod(shape) * bits != 8 * (place[1] - place[0]):
            raise Unfit(
                f"its tensor {name[:80]!r} says the shape {shape[:8]} and takes {place[1] - place[0]:,} bytes"
            )
        yield name, place[0], place[1]


def require_tensors_fit(path: Path) -> None:
    """Look at a zipped file of torch's before torch reads it: its parts are stored, and lie side by side.

    Raises:
        Unfit: they are packed, or come to more than the file.
        OSError, zipfile.BadZipFile: it is no archive.
    """
    with open_zip(path) as archive:
        infos = archive.infolist()
        if packed := [info for info in infos if info.compress_type != zipfile.ZIP_STORED]:
            raise Unfit(
                f"its part {packed[0].filename[:80]!r} is compressed, which torch.save never does"
            )
        if sum(max(info.file_size, info.compress_size) for info in infos) > path.stat().st_size:
            raise Unfit("its parts come to more than the file")


def load_torch(path: Path, lazily: bool = False) -> Any:
    """What torch saved, read by the loader that admits tensors and plain values alone, on the CPU.

    Args:
        path: the file.
        lazily: tensors are read when they are used, where the file is of the kind that can.

    Raises:
        Unfit: it would take too much memory.
        Exception: of torch's and zipfile's kinds, where it is damaged or holds more than tensors.
    """
    import torch

    zipped = is_zip(path)
    if zipped:
        require_tensors_fit(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and zipped)
    level, size = [found], 0
    for _ in range(DEEPEST):  # a view of a few numbers may say that it is any number of them
        size += sum(v.numel() * v.element_size() for v in level if isinstance(v, torch.Tensor))
        inner = (
            v.values() if isinstance(v, Mapping) else v
            for v in level
            if isinstance(v, (Mapping, list, tuple))
        )
        level = [part for parts in inner for part in parts]
        require_room(size, path)
        if not level or len(level) > MEMBERS:
            break
    return found


def require_scores(path: Path) -> None:
    """Look at a table of scores: columns of numbers alone, no more of them than can be right.

    Raises:
        Unfit: another thing.
        OSError, ValueError: it is no Parquet file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        facts = file.metadata
        columns = [facts.schema.column(i) for i in range(min(facts.num_columns, COLUMNS + 1))]
    if facts.num_columns > COLUMNS or not 0 <= facts.num_rows <= SCORES // max(
        1, facts.num_columns
    ):
        raise Unfit(f"{facts.num_rows:,} x {facts.num_columns:,} numbers cannot be right")
    if other := sorted({c.physical_type for c in columns} - NUMBERS):
        raise Unfit(f"a table of scores has a column of {other[0]}, not of numbers")
    if nested := [c.path for c in columns if c.max_repetition_level or "." in c.path]:
        raise Unfit(f"a table of scores has a column {nested[0][:80]!r} of lists, not of numbers")


def read_scores(path: Path) -> pd.DataFrame:
    """A table of scores, columns by name.

    Raises:
        Unfit: as `require_scores`, or it is damaged.
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
        raise Unfit(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
