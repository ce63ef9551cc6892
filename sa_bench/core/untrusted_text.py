"""Texts of strangers: JSON, TOML and packed results, each read within a limit that is held before memory is taken.

`untrusted_arrays` has the same for numbers. All raise `Unfit`, which is a ValueError too, so that a reader may put the
name of what it reads before it.
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
TEXT = 64 * MIB  # bytes of a JSON document, a table of prompts or a line of packed results
PACKED = 512 * MIB
"""Bytes that packed results may come to; the largest board that ships comes to 26 MB."""
PARTS = 4_000_000  # values of a JSON document; each may take some 100 bytes of memory
DEEPEST = 64  # brackets within brackets
LONGEST_NUMBER = 64  # digits
SUITE = MIB  # bytes of a TOML file


class Unfit(SaBenchError, ValueError):
    """A file that is too large, or not what it says that it is."""


def read_bytes(path: Path, limit: int = TEXT) -> bytes:
    """The bytes of a file.

    Raises:
        Unfit: more than `limit`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Unfit(f"it is longer than {limit / MIB:,.0f} MiB, which cannot be right")
    return raw


def read_json(path: Path, limit: int = TEXT) -> Any:
    """What a JSON file holds; as `parse_json`.

    Raises:
        Unfit: it is too large, or no JSON.
        OSError: it cannot be read.
    """
    return parse_json(read_bytes(path, limit))


def parse_json(raw: bytes | str, strict: bool = False) -> Any:
    """The value of a JSON document in UTF-8; `strict` refuses NaN and infinity, which are no JSON.

    Raises:
        Unfit: no JSON, nested too deep, of too many values, or with a number too long.
    """
    marks = (b"[", b"{", b",") if isinstance(raw, bytes) else ("[", "{", ",")
    if len(raw) > TEXT or sum(map(raw.count, marks)) > PARTS:  # type: ignore[arg-type]
        raise Unfit("it holds more values than can be right")
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        found = json.loads(text, parse_int=_whole, parse_constant=_no_number if strict else None)
    except RecursionError as error:
        raise Unfit(f"it is nested deeper than {DEEPEST} levels") from error
    except UnicodeDecodeError as error:
        raise Unfit(f"it is not UTF-8 at byte {error.start:,}") from error
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"it is not JSON: {error}") from error
    _require_shallow(found)
    return found


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise Unfit(f"it holds a number of {len(text):,} digits")
    return int(text)


def _no_number(text: str) -> float:
    raise Unfit(f"{text} is no number")


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inner = (
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))
        )
        level = [part for parts in inner for part in parts if isinstance(part, (dict, list))]
        if not level:
            return
    raise Unfit(f"it is nested deeper than {DEEPEST} levels")


def read_object(path: Path, limit: int = TEXT) -> dict[str, Any]:
    """What a JSON file holds, which must be an object.

    Raises:
        Unfit: as `read_json`, or it is a list, a text or a number.
        OSError: it cannot be read.
    """
    found = read_json(path, limit)
    if not isinstance(found, dict):
        raise Unfit(f"it holds a {type(found).__name__}, not an object")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        Unfit: it is too large, nested too deep, or no TOML.
        OSError: it cannot be read.
    """
    try:
        found = tomllib.loads(read_bytes(path, SUITE).decode("utf-8-sig"))
    except Unfit:
        raise
    except RecursionError as error:
        raise Unfit("it is nested too deep") from error
    except (
        ValueError,
        TypeError,
    ) as error:  # UnicodeDecodeError and TOMLDecodeError are of the first kind
        raise Unfit(str(error)) from error
    _require_shallow(found)
    return found


def read_packed(path: Path) -> Iterator[Any]:
    """The values of a file of JSON lines compressed by xz, one by one, counted while it is unpacked.

    Raises:
        Unfit: it is no such file, cut short, or comes to more than `PACKED` bytes.
        OSError: it cannot be read.
    """
    unpacked, pieces, size, values = lzma.LZMADecompressor(memlimit=192 * MIB), [], 0, 0
    try:
        with path.open("rb") as file:
            while not unpacked.eof:
                raw = file.read(MIB) if unpacked.needs_input else b""
                if unpacked.needs_input and not raw:
                    raise Unfit("it is cut short")
                part = unpacked.decompress(raw, MIB)
                size, values = size + len(part), values + sum(map(part.count, (b"[", b"{", b",")))
                if size > PACKED or sum(map(len, pieces)) > TEXT or values > 4 * PARTS:
                    raise Unfit(
                        f"it unpacks to more than {size / MIB:,.0f} MiB, which cannot be right"
                    )
                *lines, rest = part.split(b"\n")
                for line in lines:
                    yield parse_json(b"".join([*pieces, line]))
                    pieces = []
                pieces.append(rest)
    except lzma.LZMAError as error:
        raise Unfit(str(error)) from error
    if last := b"".join(pieces).strip():
        yield parse_json(last)
