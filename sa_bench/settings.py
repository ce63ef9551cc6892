"""The few places outside the command line that a user can set: folders, by environment variable."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

SMOKE_MODEL = "smoke"  # in place of a pretrained model: the tiny random one that trials of the code use


def store_folder() -> Path:
    """SA_BENCH_STORE, or the platform's cache folder."""
    return Path(os.environ.get("SA_BENCH_STORE") or platformdirs.user_cache_path("sa_bench"))


def data_folder() -> Path | None:
    """SA_BENCH_DATA: a local folder with data sets, which wins over every download."""
    value = os.environ.get("SA_BENCH_DATA")
    return Path(value) if value else None


def weights_folder() -> Path | None:
    """SA_BENCH_WEIGHTS: a local folder with weight files that are not shipped."""
    value = os.environ.get("SA_BENCH_WEIGHTS")
    return Path(value) if value else None


def mirror_folder() -> Path | None:
    """SA_BENCH_MIRROR: a folder from which `fetch` copies files by name, instead of the network."""
    value = os.environ.get("SA_BENCH_MIRROR")
    return Path(value) if value else None


def gradient_checkpointing() -> bool:
    """SA_BENCH_GRADIENT_CHECKPOINTING=1: diffusion networks keep few activations and make the others again.

    Training is then slower and takes far less memory; gradients are the same to rounding, so it is part of no key.
    """
    return os.environ.get("SA_BENCH_GRADIENT_CHECKPOINTING", "") not in ("", "0")


def compile_networks() -> bool:
    """SA_BENCH_COMPILE=1: diffusion networks go through torch.compile (minutes once, a fifth to a half faster after)."""
    return os.environ.get("SA_BENCH_COMPILE", "") not in ("", "0")
