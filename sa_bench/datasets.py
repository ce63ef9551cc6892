"""Real images by data set name, split the way metrics ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sa_bench.contracts import Task
from sa_bench.data import mnist
from sa_bench.errors import unknown
from sa_bench.sample_sets import SampleSet
from sa_bench.settings import data_folder, store_folder
from sa_bench.store import digest

SHAPES = {"mnist": (28, 28, 1)}
HASHES = {"mnist": digest(mnist.CONTENT)}


@dataclass(frozen=True)
class Dataset:
    """Training and test images with labels."""

    train: SampleSet
    test: SampleSet
    content: str


@lru_cache(maxsize=4)
def load(name: str) -> Dataset:
    """The data set `name`, fetched once and kept in the store.

    Raises:
        MissingAsset: it is not here and cannot be fetched.
    """
    if name not in SHAPES:
        raise unknown("data set", name, SHAPES)
    arrays = mnist.load(store_folder() / "data", data_folder())

    def part(split: str) -> SampleSet:
        labels = arrays[f"{split}_labels"].astype(np.int64)
        images = arrays[f"{split}_images"][..., None]
        return SampleSet(images, labels, np.full(len(labels), -1))

    return Dataset(part("train"), part("test"), HASHES[name])


def real(task: Task, name: str) -> SampleSet:
    """`forget_train`, `forget_test`, `retain_train` or `retain_test` of the task's data set."""
    data = load(task.dataset)
    if name == "forget_train":
        return data.train.of(task.concept)
    if name == "forget_test":
        return data.test.of(task.concept)
    if name == "retain_train":
        return data.train.take(np.isin(data.train.labels, task.scored))
    if name == "retain_test":
        return data.test.take(np.isin(data.test.labels, task.scored))
    raise unknown("real set", name, ["forget_train", "forget_test", "retain_train", "retain_test"])
