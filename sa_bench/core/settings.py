"""Read the settings that come from environment variables: folders, and how images are computed."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from sa_bench.core.errors import MissingAsset, SaBenchError


def expand_home(path: str | Path, name: str = "") -> Path:
    """Replace a leading `~` of `path` by the user's home; `name` says where the path was given.

    Raises:
        SaBenchError: the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SaBenchError(
            f"{name}{path}: this user's home folder is unknown; write the whole path."
        ) from error


def _read_folder(variable: str) -> Path | None:
    """Read a folder from an environment variable; None if it is not set."""
    value = os.environ.get(variable)
    return expand_home(value, f"{variable}=") if value else None


def store_folder() -> Path:
    """Return SA_BENCH_STORE, or the platform's cache folder.

    Raises:
        SaBenchError: the user has no home folder, and SA_BENCH_STORE is not set.
    """
    if (folder := _read_folder("SA_BENCH_STORE")) is not None:
        return folder
    try:
        return platformdirs.user_cache_path("sa_bench")
    except RuntimeError as error:
        raise SaBenchError(
            "This user has no home folder, so there is no place for the store: set SA_BENCH_STORE to a folder."
        ) from error


def data_folder() -> Path | None:
    """Return SA_BENCH_DATA, a local folder with data sets that is used before any download."""
    return _read_folder("SA_BENCH_DATA")


def weights_folder() -> Path | None:
    """Return SA_BENCH_WEIGHTS, a local folder with weight files that are not shipped."""
    return _read_folder("SA_BENCH_WEIGHTS")


def require_folders() -> None:
    """Require that every folder that the environment names exists, before any work starts.

    Raises:
        MissingAsset: one does not.
    """
    for variable in ("SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR"):
        folder = _read_folder(variable)
        if folder is not None and not folder.is_dir():
            state = "is a file" if folder.exists() else "does not exist"
            raise MissingAsset(
                f"{variable}={folder} {state}: name an existing folder, or unset it."
            )


def mirror_folder() -> Path | None:
    """Return SA_BENCH_MIRROR, a folder from which `fetch` copies files instead of downloading."""
    return _read_folder("SA_BENCH_MIRROR")


def images_at_once() -> int | None:
    """Return SA_BENCH_IMAGES_AT_ONCE: how many images a diffusion model samples in one pass.

    Fewer take less memory. Kernels round differently with another number, by at most one grey
    level; the setting enters no key.

    Returns:
        The number; None leaves it to the model family.

    Raises:
        SaBenchError: it is not a whole number from 1 on.
    """
    value = os.environ.get("SA_BENCH_IMAGES_AT_ONCE", "").strip()
    if value and (not value.isascii() or not value.isdecimal() or int(value) < 1):
        raise SaBenchError(
            f"SA_BENCH_IMAGES_AT_ONCE={value}: give a whole number from 1 on, or unset it."
        )
    return int(value) if value else None


def gradient_checkpointing() -> bool:
    """Return whether diffusion networks recompute activations (SA_BENCH_GRADIENT_CHECKPOINTING=1).

    Training is then slower and takes far less memory; gradients are the same up to rounding, so the
    setting enters no key.
    """
    return os.environ.get("SA_BENCH_GRADIENT_CHECKPOINTING", "") not in ("", "0")


def compile_networks() -> bool:
    """Return whether SA_BENCH_COMPILE=1 passes a DDPM's network through torch.compile.

    Compilation takes minutes once; afterwards the network is a tenth to a quarter faster on a CPU.
    """
    return os.environ.get("SA_BENCH_COMPILE", "") not in ("", "0")
