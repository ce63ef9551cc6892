"""Store and load sample sets: images with the condition and the seed of each."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sa_bench.contracts import SampleSet
from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.store import write_atomic
from sa_bench.core.untrusted_arrays import read_header


def hash_array(array: np.ndarray) -> str:
    """Hash an array's bytes and shape."""
    return hashlib.sha256(
        np.ascontiguousarray(array).tobytes() + str(array.shape).encode()
    ).hexdigest()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load the arrays of a sample set's file.

    Raises:
        SaBenchError: it is cut short or something else.
    """
    try:
        read_header(path)
        arrays = load_file(path)
        if not {"images", "labels"} <= set(arrays):
            raise ValueError(f"it holds {', '.join(arrays)}")
    except (SafetensorError, OSError, ValueError) as error:
        raise SaBenchError(
            f"{path} holds no sample set ({first_line(error)}). Delete its folder and run the command again."
        ) from error
    return arrays


def save_samples(samples: SampleSet, path: Path) -> None:
    """Write a sample set as safetensors, atomically."""
    write_atomic(path, save(samples.arrays()))


def load_samples(path: Path) -> SampleSet:
    """Load the sample set that `save_samples` wrote.

    Raises:
        SaBenchError: for the reasons that `load_arrays` gives, or it holds other arrays than a
            sample set.
    """
    arrays = load_arrays(path)
    finite = arrays.get("finite", np.ones(len(arrays["images"]), bool))
    column_names = {column.name for column in fields(SampleSet)}
    if (
        "seeds" not in arrays
        or not set(arrays) <= column_names
        or finite.dtype != bool
        or finite.ndim != 1
    ):
        raise SaBenchError(f"{path} holds no sample set (it holds {', '.join(arrays)}).")
    if len({len(column) for column in arrays.values()}) > 1:
        raise SaBenchError(f"{path} holds no sample set: its arrays differ in length.")
    return SampleSet(**arrays)
