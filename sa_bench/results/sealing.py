"""A result's hashes: of the files beside it, and of itself. They show that it was edited, not who wrote it.

Results of before have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa_bench.core.store import file_digest

SEAL, FILES = "seal", "files"
EDITED = "edited since it was written"
PLACED = (SEAL, "folder")  # what a result says of where it lies is no part of it


def seal(row: Mapping[str, Any]) -> str:
    """The hash of a result over itself: of its values as JSON, whatever the order and the spaces."""
    text = json.dumps(
        {k: v for k, v in row.items() if k not in PLACED}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def add_seal(row: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`row` (plain JSON values) with its hash and, where its `folder` is given, those of the files in it."""
    found = dict(json.loads(json.dumps(row)))
    if folder is not None:
        paths = sorted([*folder.glob("*.safetensors"), *(folder / "scores").glob("*.parquet")])
        found[FILES] = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    return found | {SEAL: seal(found)}


def find_edited(row: Mapping[str, Any], folder: Path | None = None) -> str:
    """What of a result is not what was written: `result.json`, or a table of scores in `folder`; empty: nothing."""
    if SEAL in row and row[SEAL] != seal(row):
        return "result.json"
    hashes = row.get(FILES)
    if folder is None or not isinstance(hashes, Mapping):
        return ""
    for path in sorted((folder / "scores").glob("*.parquet")):
        name = f"scores/{path.name}"
        if hashes.get(name) != file_digest(path):
            return name
    return ""
