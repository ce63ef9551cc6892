"""A sample set: images with the condition and the seed of each, and how it is kept."""

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
    """A hash of an array's bytes and shape."""
    return hashlib.sha256(
        np.ascontiguousarray(array).tobytes() + str(array.shape).encode()
    ).hexdigest()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a sample set's file.

    Raises:
        SaBenchError: it is cut short or something else.
    """
    try:
        read_header(path)
        found = load_file(path)
        if not {"images", "labels"} <= set(found):
            raise ValueError(f"it holds {', '.join(found)}")
    except (SafetensorError, OSError, ValueError) as error:
        raise SaBenchError(
            f"{path} holds no sample set ({first_line(error)}). Delete its folder and run the command again."
        ) from error
    return found


def save_samples(samples: SampleSet, path: Path) -> None:
    """Write a sample set as safetensors, atomically."""
    write_atomic(path, save(samples.arrays()))


def load_samples(path: Path) -> SampleSet:
    """Read what `save_samples` wrote.

    Raises:
        SaBenchError: as `arrays`, or other arrays than those of a set.
    """
    found = load_arrays(path)
    marks = found.get("finite", np.ones(len(found["images"]), bool))
    known = {column.name for column in fields(SampleSet)}
    if "seeds" not in found or not set(found) <= known or marks.dtype != bool or marks.ndim != 1:
        raise SaBenchError(f"{path} holds no sample set (it holds {', '.join(found)}).")
    if len({len(column) for column in found.values()}) > 1:
        raise SaBenchError(f"{path} holds no sample set: its arrays are not of one length.")
    return SampleSet(**found)
