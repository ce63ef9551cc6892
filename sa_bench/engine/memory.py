"""Compute the memory that a cell's models and training need, before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path

from sa_bench.contracts import ignore_event
from sa_bench.core.errors import MissingAsset, MissingExtra
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.core.untrusted_arrays import read_header
from sa_bench.core.untrusted_text import read_json
from sa_bench.engine.cells import Cell
from sa_bench.models import base_models

PER_PARAMETER = 7 * 4  # bytes in training: weight, gradient, two moments, θ*, F, replay copy
LIBRARIES = 600  # MiB that torch and other libraries take before any model


def count_parameters(cell: Cell) -> int:
    """Count the parameters of the trained network; for a pretrained one not here, of Stable Diffusion 1.x."""
    from sa_bench.engine.stages import Chain

    chain = Chain(Store(store_folder()), cell, ignore_event)
    if not cell.task.model:
        stage = chain.base_source.stage()
        if stage is None or chain.store.has(stage.kind, stage.key):
            return _count_in_file(chain.base.file)
        return base_models.count_parameters(cell.task)
    from sa_bench.models.scopes import SD_1_PARAMETERS, memory

    config_file = chain.base.file / "unet" / "config.json" if has_base(cell) else None
    if config_file is None or not config_file.is_file():
        return SD_1_PARAMETERS
    return memory(read_json(config_file))["weights"] // 4


def _count_in_file(file: Path) -> int:
    """Count the parameters of the network in a base model's weight file, without loading it.

    Of a text-to-image model's parts only the U-Net is trained to forget.
    """
    shapes = {k: v["shape"] for k, v in read_header(file).items() if k != "__metadata__"}
    trained = [name for name in shapes if name.startswith("unet.")] or list(shapes)
    return sum(math.prod(shapes[name]) for name in trained)


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
