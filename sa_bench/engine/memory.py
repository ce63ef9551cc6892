"""Compute the memory that a cell's models and training need, before anything is loaded."""

from __future__ import annotations

from sa_bench.contracts import ignore_event
from sa_bench.core.errors import MissingAsset, MissingExtra
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.core.untrusted_text import read_json
from sa_bench.engine.cells import Cell

PER_PARAMETER = 7 * 4  # bytes in training: weight, gradient, two moments, θ*, F, replay copy
LIBRARIES = 600  # MiB that torch and other libraries take before any model


def count_parameters(cell: Cell) -> int:
    """Count the parameters of the trained network; for a pretrained one not here, of Stable Diffusion 1.x."""
    from sa_bench.engine.stages import Chain

    chain = Chain(Store(store_folder()), cell, ignore_event)
    if not cell.task.model:
        return sum(p.numel() for p in chain.architecture().net.parameters())
    from sa_bench.models.scopes import SD_1, memory

    config_file = chain.base.file / "unet" / "config.json" if has_base(cell) else None
    network_config = (
        read_json(config_file) if config_file is not None and config_file.is_file() else SD_1
    )
    return memory(network_config)["weights"] // 4


def has_base(cell: Cell) -> bool:
    """Tell whether the pretrained base model is on this machine."""
    from sa_bench.engine.stages import Chain

    try:
        return bool(Chain(Store(store_folder()), cell, ignore_event).base.content)
    except MissingExtra:
        raise
    except MissingAsset:
        return False


def needed_mib(cell: Cell) -> int:
    """Compute the memory of one worker in MiB: libraries, and every copy that training holds.

    Activations are not counted.
    """
    return round(LIBRARIES + count_parameters(cell) * PER_PARAMETER / 2**20)
