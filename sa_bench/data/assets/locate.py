"""Find the detectors' libraries and weight files on this machine; nothing is downloaded."""

from __future__ import annotations

import base64
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sa_bench.core.errors import SaBenchError
from sa_bench.core.file_state import cached_digest
from sa_bench.core.settings import store_folder, weights_folder
from sa_bench.core.untrusted_arrays import load_torch


def list_places(name: str, hub: str = "") -> list[Path]:
    """List the places where a weight file or folder may lie, in the order of the search.

    Args:
        name: of the file or folder.
        hub: the Hugging Face repository that is the same folder; "" if there is none.
    """
    user_folder, torch_hub = weights_folder(), _find_torch_hub()
    folders = [
        store_folder() / "weights",
        torch_hub / "checkpoints",
        torch_hub.parent / "checkpoints",
    ]
    places = [folder / name for folder in ([user_folder] if user_folder else []) + folders]
    path_in_folder = name.partition("/")[2]
    cached = hub_file(hub, path_in_folder or "model.safetensors") if hub else None
    return [*places, *([cached if path_in_folder else cached.parent] if cached else [])]


def _find_torch_hub() -> Path:
    """Find the folder `torch.hub.get_dir()`; torch is asked only if it is loaded, which takes seconds."""
    if "torch" in sys.modules:
        from torch.hub import get_dir

        return Path(get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"


def hub_file(repository: str, file: str, kind: str = "model") -> Path | None:
    """Find a file of a hub repository in the local Hugging Face cache, at its branch `main`.

    Args:
        repository: `owner/name`.
        file: its path inside.
        kind: `model` or `dataset`.

    Returns:
        Its path; None if it is not cached.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        cached_file = try_to_load_from_cache(repository, file, repo_type=kind)
    except ValueError:  # not a valid name on the hub
        return None
    return Path(cached_file) if isinstance(cached_file, str) else None


def longest_known_sha256(published: str, noted: str) -> str:
    """Return what a file's sha256 must begin with.

    Args:
        published: the published digest, or its beginning.
        noted: the complete digest that was recorded when the file was fetched; "" if none was.
    """
    return noted if len(noted) > len(published) and noted.startswith(published) else published


def recorded_sha256(path: Path) -> str:
    """Read the sha256 that `fetch` recorded in `<file>.sha256`; "" if there is no such record."""
    note = path.with_name(f"{path.name}.sha256")
    try:
        return next(iter(note.read_text(encoding="utf-8").split()), "")
    except (OSError, UnicodeDecodeError):
        return ""


def missing_package(package: str, distribution: str, extra: str) -> str | None:
    """Say what to install if the module `package` cannot be imported; None if it can."""
    if importlib.util.find_spec(package) is not None:
        return None
    return f"needs the package {distribution}: python -m pip install 'sa_bench[{extra}]'"


def find_damaged_package(distribution: str, *endings: str) -> str | None:
    """Find a weight file in an installed library that is not the one that was installed.

    Installed packages record the sha256 of each of their files (PEP 376); a file without one is not
    checked.

    Returns:
        What is wrong and what to do; None if all files are as installed.
    """
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.suffix not in endings or file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(file.locate()))
        installed_sha256 = base64.urlsafe_b64decode(
            file.hash.value + "=" * (-len(file.hash.value) % 4)
        ).hex()
        if not path.is_file() or cached_digest(path) != installed_sha256:
            state = "damaged" if path.is_file() else "missing"
            return (
                f"{path} is {state}: it is not the file that {distribution} {package_version(distribution)} brought. "
                f"python -m pip install --force-reinstall --no-deps {distribution}=={package_version(distribution)}"
            )
    return None


def package_version(distribution: str) -> str:
    """Return the installed version of a library; `absent` if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def load_tensors(path: Path) -> Mapping[str, Any]:
    """Load what torch saved at `path`, with the loader that admits only tensors and plain values.

    Raises:
        SaBenchError: it is unreadable, or holds more than that.
    """
    try:
        tensors = load_torch(path)
    except Exception as error:
        raise SaBenchError(
            f"{path} holds more than tensors or is damaged, and is not loaded."
        ) from error
    if not isinstance(tensors, Mapping):
        raise SaBenchError(
            f"{path} holds a {type(tensors).__name__}, not named tensors. Get the file again."
        )
    return tensors
