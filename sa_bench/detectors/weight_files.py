"""Where libraries and weight files of the detectors come from. Nothing is fetched: absent is said, in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sa_bench.errors import MissingAsset, SaBenchError
from sa_bench.settings import store_folder, weights_folder
from sa_bench.store import file_digest


def places(name: str) -> list[Path]:
    """Where a weight file or folder may lie, in the order in which it is looked for."""
    from torch.hub import get_dir

    own, hub = weights_folder(), Path(get_dir())
    folders = [store_folder() / "weights", hub / "checkpoints", hub.parent / "checkpoints"]
    return [folder / name for folder in ([own] if own else []) + folders]


def find(name: str, what: str, sha256: str = "") -> Path:
    """The weight file or folder `name`.

    Args:
        name: of the file or folder.
        what: its size and where it comes from, for the message.
        sha256: how its digest must begin; empty: any.

    Raises:
        MissingAsset: it is nowhere, or damaged.
    """
    for path in places(name):
        if path.exists():
            if sha256 and not digest(path).startswith(sha256):
                raise MissingAsset(f"{path} is damaged: its sha256 does not begin with {sha256}. Get {what}.")
            return path
    first = weights_folder() or store_folder() / "weights"
    raise MissingAsset(f"needs {name} in {first} (SA_BENCH_WEIGHTS names another folder): {what}")


def absent(package: str, distribution: str, extra: str) -> str | None:
    """What to install if the module `package` cannot be imported here; None if it can."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"needs the package {distribution}: python -m pip install 'sa_bench[{extra}]'"


def version(distribution: str) -> str:
    """The installed version of a library; `absent` if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def digest(path: Path) -> str:
    """sha256 of a file, read once as long as it does not change."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


def known(*names: str) -> str:
    """16 hex digits of the weight files of these names, `absent` if one is missing; for fingerprints."""
    from sa_bench.store import digest as of

    try:
        paths = [find(name, "") for name in names]
    except MissingAsset:
        return "absent"
    return digest(paths[0])[:16] if len(paths) == 1 else of([digest(path) for path in paths])


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def tensors(path: Path) -> Mapping[str, Any]:
    """What torch saved at `path`, read by the loader that admits tensors and plain values alone.

    Raises:
        SaBenchError: unreadable, or it holds more than that.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SaBenchError(f"{path} holds more than tensors or is damaged, and is not loaded.") from error
    if not isinstance(found, Mapping):
        raise SaBenchError(f"{path} holds no named tensors but a {type(found).__name__}. Get the file again.")
    return found
