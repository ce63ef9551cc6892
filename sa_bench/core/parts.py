"""Save what a running stage needs to go on after a kill: one folder, each file with its own hash.

A finished stage's folder holds none of it (`Store.make` removes it), so it never counts towards an
artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sa_bench.core.errors import print_notice
from sa_bench.core.store import ATTEMPT, PARTS, digest, write_atomic

if TYPE_CHECKING:  # torch takes seconds to load, and what plans sample sets imports this file
    from torch import Tensor


_listeners: list[Callable[[], object]] = []


@contextmanager
def on_kept(listen: Callable[[], object]) -> Iterator[None]:
    """Call `listen` within the block after each part that is kept, in place of whom an outer block names."""
    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.pop()


def _tell_kept() -> None:
    """Tell the innermost listener that a part was kept."""
    if _listeners:
        _listeners[-1]()


def parts_of(folder: Path) -> Path:
    """Return where the stage that is made in `folder` keeps its parts: all attempts share them."""
    return (folder.parent if folder.name.startswith(ATTEMPT) else folder) / PARTS


def save_part(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` with their hash, atomically."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(plain, {"sha256": _hash_tensors(plain)}))
    _tell_kept()


def load_part(path: Path) -> dict[str, Tensor] | None:
    """Read the tensors that `save_part` wrote, on the CPU.

    Returns:
        The tensors; None if the file is missing or damaged. A damaged file is deleted, with a
            one-line notice.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            expected = (file.metadata() or {}).get("sha256")
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        return _drop_part(path, str(error))
    if _hash_tensors(tensors) == expected:
        return tensors
    return _drop_part(path, "it is not what was written")


def save_record(path: Path, value: Any) -> None:
    """Write a JSON value with its hash, atomically."""
    document = json.dumps(value, allow_nan=False)
    write_atomic(path, json.dumps({"digest": digest(document), "text": document}).encode())
    _tell_kept()


def load_record(path: Path) -> Any:
    """Read the value that `save_record` wrote.

    Returns:
        The value; None if the file is missing or damaged. A damaged file is deleted, with a
            one-line notice.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        if digest(record["text"]) != record["digest"]:
            raise ValueError("it is not what was written")
        return json.loads(record["text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _drop_part(path, str(error))


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, number formats, shapes and bytes with sha256."""
    import torch

    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _drop_part(path: Path, reason: str) -> None:
    """Delete a damaged file, with a notice that gives the reason."""
    print_notice(f"{path} is damaged ({' '.join(reason.split())}); deleted and made again")
    path.unlink(missing_ok=True)
