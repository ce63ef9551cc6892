"""Seals: hashes of a result and its files, which show that it was edited, not who wrote it.

Old results have no seal and are read as they are.
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
PLACED = (SEAL, "folder")  # entries that the hash leaves out: itself, and where the result lies


def seal(row: Mapping[str, Any]) -> str:
    """Hash a result's values as JSON, whatever their order and spacing."""
    text = json.dumps(
        {k: v for k, v in row.items() if k not in PLACED}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def add_seal(row: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Add its own hash to `row` (plain JSON values) and, if a `folder` is given, its files'."""
    sealed = dict(json.loads(json.dumps(row)))
    if folder is not None:
        paths = sorted([*folder.glob("*.safetensors"), *(folder / "scores").glob("*.parquet")])
        sealed[FILES] = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    return sealed | {SEAL: seal(sealed)}


def find_edited(row: Mapping[str, Any], folder: Path | None = None) -> str:
    """Find a part of a result that was edited since it was written.

    Returns:
        `result.json`, or the name of a table of scores in `folder`; "" if nothing was edited.
    """
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
