"""Where libraries and weight files of the detectors come from. Nothing is fetched: absent is said, in one line."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sa_bench.core.errors import SaBenchError
from sa_bench.core.file_state import cached_digest
from sa_bench.core.settings import store_folder, weights_folder
from sa_bench.core.untrusted_arrays import load_torch


def list_places(name: str, hub: str = "") -> list[Path]:
    """Where a weight file or folder may lie, in the order in which it is looked for.

    Args:
        name: of the file or folder.
        hub: the repository on the Hugging Face hub that is the same folder; empty: there is none.
    """
    from torch.hub import get_dir

    own, torch_hub = weights_folder(), Path(get_dir())
    folders = [
        store_folder() / "weights",
        torch_hub / "checkpoints",
        torch_hub.parent / "checkpoints",
    ]
    found = [folder / name for folder in ([own] if own else []) + folders]
    inside = name.partition("/")[2]
    cached = hub_file(hub, inside or "model.safetensors") if hub else None
    return [*found, *([cached if inside else cached.parent] if cached else [])]


def hub_file(repository: str, file: str, kind: str = "model") -> Path | None:
    """A file of a hub repository as the local Hugging Face cache holds it, at its branch `main`; None: not there.

    Args:
        repository: `owner/name`.
        file: its path inside.
        kind: `model` or `dataset`.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, file, repo_type=kind)
    except ValueError:  # no name that the hub admits
        return None
    return Path(found) if isinstance(found, str) else None


def longest_known_sha256(published: str, noted: str) -> str:
    """What a file's sha256 must begin with: what is published and, where that is a part, what was noted with it."""
    return noted if len(noted) > len(published) and noted.startswith(published) else published


def recorded_sha256(path: Path) -> str:
    """The sha256 that `fetch` noted in `<file>.sha256` where nobody published one; empty: no such note."""
    note = path.with_name(f"{path.name}.sha256")
    try:
        return next(iter(note.read_text(encoding="utf-8").split()), "")
    except (OSError, UnicodeDecodeError):
        return ""


def missing_package(package: str, distribution: str, extra: str) -> str | None:
    """What to install if the module `package` cannot be imported here; None if it can."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"needs the package {distribution}: python -m pip install 'sa_bench[{extra}]'"


def find_damaged_package(distribution: str, *endings: str) -> str | None:
    """Which of a library's own weight files is not the one that was installed, and what to do; None: all are.

    Installed packages carry the sha256 of each of their files (PEP 376); where one does not, nothing is said.
    """
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.suffix not in endings or file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(file.locate()))
        wanted = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()
        if not path.is_file() or cached_digest(path) != wanted:
            state = "damaged" if path.is_file() else "gone"
            return (
                f"{path} is {state}: it is not the file that {distribution} {package_version(distribution)} brought. "
                f"python -m pip install --force-reinstall --no-deps {distribution}=={package_version(distribution)}"
            )
    return None


def package_version(distribution: str) -> str:
    """The installed version of a library; `absent` if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def load_tensors(path: Path) -> Mapping[str, Any]:
    """What torch saved at `path`, read by the loader that admits tensors and plain values alone.

    Raises:
        SaBenchError: unreadable, or it holds more than that.
    """
    try:
        found = load_torch(path)
    except Exception as error:
        raise SaBenchError(
            f"{path} holds more than tensors or is damaged, and is not loaded."
        ) from error
    if not isinstance(found, Mapping):
        raise SaBenchError(
            f"{path} holds no named tensors but a {type(found).__name__}. Get the file again."
        )
    return found
