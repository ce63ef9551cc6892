"""The few places outside the command line that a user can set: folders, by environment variable."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from sa_bench.core.errors import MissingAsset, SaBenchError


def expand_home(path: str | Path, name: str = "") -> Path:
    """`path` with a leading `~` replaced by the user's home; `name` is where it was given.

    Raises:
        SaBenchError: nobody knows that home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SaBenchError(
            f"{name}{path}: no home folder is known here; write the whole path."
        ) from error


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return expand_home(value, f"{variable}=") if value else None


def store_folder() -> Path:
    """SA_BENCH_STORE, or the platform's cache folder.

    Raises:
        SaBenchError: the user has no home folder, and SA_BENCH_STORE is not set.
    """
    if (folder := _folder("SA_BENCH_STORE")) is not None:
        return folder
    try:
        return platformdirs.user_cache_path("sa_bench")
    except RuntimeError as error:
        raise SaBenchError(
            "This user has no home folder, so there is no place for the store: set SA_BENCH_STORE to a folder."
        ) from error


def data_folder() -> Path | None:
    """SA_BENCH_DATA: a local folder with data sets, which wins over every download."""
    return _folder("SA_BENCH_DATA")


def weights_folder() -> Path | None:
    """SA_BENCH_WEIGHTS: a local folder with weight files that are not shipped."""
    return _folder("SA_BENCH_WEIGHTS")


def require_folders() -> None:
    """Check that every folder that the environment names is there, before any work.

    Raises:
        MissingAsset: one is not.
    """
    for variable in ("SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR"):
        folder = _folder(variable)
        if folder is not None and not folder.is_dir():
            state = "is a file" if folder.exists() else "is not there"
            raise MissingAsset(f"{variable}={folder} {state}: name a folder that is, or unset it.")


def mirror_folder() -> Path | None:
    """SA_BENCH_MIRROR: a folder from which `fetch` copies files by name, instead of the network."""
    return _folder("SA_BENCH_MIRROR")


def images_at_once() -> int | None:
    """SA_BENCH_IMAGES_AT_ONCE: how many images a diffusion model samples in one pass; None: as the family has it.

    Fewer take less memory. Kernels round differently at another number, by at most one grey level: part of no key.

    Raises:
        SaBenchError: it is no whole number from 1 on.
    """
    value = os.environ.get("SA_BENCH_IMAGES_AT_ONCE", "").strip()
    if value and (not value.isascii() or not value.isdecimal() or int(value) < 1):
        raise SaBenchError(
            f"SA_BENCH_IMAGES_AT_ONCE={value}: give a whole number from 1 on, or unset it."
        )
    return int(value) if value else None


def gradient_checkpointing() -> bool:
    """SA_BENCH_GRADIENT_CHECKPOINTING=1: diffusion networks keep few activations and make the others again.

    Training is then slower and takes far less memory; gradients are the same to rounding, so it is part of no key.
    """
    return os.environ.get("SA_BENCH_GRADIENT_CHECKPOINTING", "") not in ("", "0")


def compile_networks() -> bool:
    """SA_BENCH_COMPILE=1: diffusion networks go through torch.compile (minutes once, a fifth to a half faster after)."""
    return os.environ.get("SA_BENCH_COMPILE", "") not in ("", "0")
