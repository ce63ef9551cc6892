"""Read JSON, TOML and packed results of unknown origin within limits.

Each limit is checked before the memory is taken. `untrusted_arrays` does the same for numbers. All
raise `Unfit`, which is a ValueError too, so that a reader can put the name of the file before the
message.
"""

from __future__ import annotations

import json
import lzma
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa_bench.core.errors import SaBenchError

MIB = 2**20
TEXT = 64 * MIB  # most bytes of a JSON document, a table of prompts or a line of packed results
PACKED = 512 * MIB
"""Most bytes of packed results once unpacked; the largest shipped board has 26 MB."""
PARTS = 4_000_000  # most values of a JSON document; each may take some 100 bytes of memory
DEEPEST = 64  # most levels of nested brackets
LONGEST_NUMBER = 64  # most digits of a number
SUITE = MIB  # most bytes of a TOML file


class Unfit(SaBenchError, ValueError):
    """A file that is too large, or not in the format it should have."""


def read_bytes(path: Path, limit: int = TEXT) -> bytes:
    """Read the bytes of a file.

    Raises:
        Unfit: there are more than `limit`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Unfit(f"it is longer than {limit / MIB:,.0f} MiB, which cannot be right")
    return raw


def read_json(path: Path, limit: int = TEXT) -> Any:
    """Read the value in a JSON file, as `parse_json` does.

    Raises:
        Unfit: it is too large, or not JSON.
        OSError: it cannot be read.
    """
    return parse_json(read_bytes(path, limit))


def parse_json(raw: bytes | str, strict: bool = False) -> Any:
    """Parse a JSON document in UTF-8; `strict` refuses NaN and infinity, which JSON does not have.

    Raises:
        Unfit: it is not JSON, is nested too deep, has too many values, or a number that is too
            long.
    """
    value_marks = (b"[", b"{", b",") if isinstance(raw, bytes) else ("[", "{", ",")
    if len(raw) > TEXT or sum(map(raw.count, value_marks)) > PARTS:
        raise Unfit("it holds more values than can be right")
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        value = json.loads(
            text, parse_int=_parse_int, parse_constant=_reject_constant if strict else None
        )
    except RecursionError as error:
        raise Unfit(f"it is nested deeper than {DEEPEST} levels") from error
    except UnicodeDecodeError as error:
        raise Unfit(f"it is not UTF-8 at byte {error.start:,}") from error
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"it is not JSON: {error}") from error
    _require_shallow(value)
    return value


def _parse_int(digits: str) -> int:
    """Parse a whole number of JSON with at most `LONGEST_NUMBER` digits."""
    if len(digits) > LONGEST_NUMBER:
        raise Unfit(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _reject_constant(constant: str) -> float:
    """Reject NaN and infinity."""
    raise Unfit(f"{constant} is not a number in JSON")


def _require_shallow(value: Any) -> None:
    """Reject a value that is nested deeper than `DEEPEST` levels."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        children = (element.values() if isinstance(element, dict) else element for element in level)
        level = [
            child
            for values in children
            if not {dict, list}.isdisjoint(map(type, values))  # most are long lists of numbers
            for child in values
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise Unfit(f"it is nested deeper than {DEEPEST} levels")


def read_object(path: Path, limit: int = TEXT) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        Unfit: for the reasons that `read_json` gives, or it holds a list, a text or a number.
        OSError: it cannot be read.
    """
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise Unfit(f"it holds a {type(value).__name__}, not an object")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        Unfit: it is too large, nested too deep, or not TOML.
        OSError: it cannot be read.
    """
    try:
        table = tomllib.loads(read_bytes(path, SUITE).decode("utf-8-sig"))
    except Unfit:
        raise
    except RecursionError as error:
        raise Unfit("it is nested too deep") from error
    except (ValueError, TypeError) as error:
        # UnicodeDecodeError and TOMLDecodeError are ValueErrors.
        raise Unfit(str(error)) from error
    _require_shallow(table)
    return table


def read_packed(path: Path) -> Iterator[Any]:
    """Yield the values of a file of JSON lines compressed by xz.

    Raises:
        Unfit: it is not such a file, is cut short, or unpacks to more than `PACKED` bytes.
        OSError: it cannot be read.
    """
    decompressor, pieces, size, values = lzma.LZMADecompressor(memlimit=192 * MIB), [], 0, 0
    try:
        with path.open("rb") as file:
            while not decompressor.eof:
                raw = file.read(MIB) if decompressor.needs_input else b""
                if decompressor.needs_input and not raw:
                    raise Unfit("it is cut short")
                block = decompressor.decompress(raw, MIB)
                size, values = size + len(block), values + sum(map(block.count, (b"[", b"{", b",")))
                if size > PACKED or sum(map(len, pieces)) > TEXT or values > 4 * PARTS:
                    raise Unfit(
                        f"it unpacks to more than {size / MIB:,.0f} MiB, which cannot be right"
                    )
                *lines, unfinished_line = block.split(b"\n")
                for line in lines:
                    yield parse_json(b"".join([*pieces, line]))
                    pieces = []
                pieces.append(unfinished_line)
    except lzma.LZMAError as error:
        raise Unfit(str(error)) from error
    if last := b"".join(pieces).strip():
        yield parse_json(last)
