"""Load real images by the name of their data set, split as metrics need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sa_bench.contracts import SampleSet, Task
from sa_bench.core.errors import MissingAsset, unknown_name
from sa_bench.core.file_state import State, cached_by, read_states
from sa_bench.core.settings import data_folder, store_folder
from sa_bench.core.store import digest
from sa_bench.data import cifar10, mnist, stl10
from sa_bench.data.archives import Archive, Arrays, Contents

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Entry:
    """What is known about a data set without reading it."""

    title: str
    shape: tuple[int, int, int]  # (H, W, C)
    classes: tuple[str, ...]  # by label
    load: Callable[[Path, Path | None], Contents]  # (store's data folder, SA_BENCH_DATA)
    content: Callable[[], str]  # hash of the published data set
    archive: Callable[[], Archive] | None = None  # its archive, if a local one may replace it


def _load_digits(
    load: Callable[[Path, Path | None], Arrays], cache: Path, content: str
) -> Contents:
    """Load MNIST's digits, with a channel axis."""
    arrays = load(cache, mnist_folder())
    return Contents(
        {name: array[..., None] if array.ndim == 3 else array for name, array in arrays.items()},
        content,
        True,
    )


def _load_canvases(cache: Path) -> Contents:
    """Load MNIST with one digit per canvas, as in the text-to-image model's plainest captions."""
    arrays = _load_digits(mnist.load, cache, "").arrays
    padded = {
        name: np.pad(array, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, 3)
        for name, array in arrays.items()
        if "images" in name
    }
    return Contents({**arrays, **padded}, _hash_mnist() + "-rgb32", True)


def _hash_mnist() -> str:
    """Hash MNIST's published content."""
    return digest(mnist.CONTENT)


ENTRIES = {
    "mnist": Entry(
        "MNIST", (28, 28, 1), DIGITS, lambda cache, _: _load_digits(mnist.load, cache, _hash_mnist()), _hash_mnist
    ),
    "mnist16": Entry(
        "MNIST at 16 px", (16, 16, 1), DIGITS,
        lambda cache, _: _load_digits(mnist.load_small, cache, mnist.hash_small()), mnist.hash_small,
    ),
    "mnist_canvas": Entry(
        "MNIST on RGB canvases", (32, 32, 3), DIGITS,
        lambda cache, _: _load_canvases(cache), lambda: _hash_mnist() + "-rgb32",
    ),
    "cifar10": Entry(
        "CIFAR10", (32, 32, 3), cifar10.CLASSES, cifar10.load, lambda: cifar10.archive().content, cifar10.archive
    ),
    "stl10": Entry(
        "STL10", (64, 64, 3), stl10.CLASSES, stl10.load, lambda: stl10.archive().content, stl10.archive
    ),
}  # fmt: skip
NONE = "none"  # for tasks on pretrained models, which have no data set
SHAPES = {name: entry.shape for name, entry in ENTRIES.items()}


@dataclass(frozen=True)
class Dataset:
    """Training and test images with labels."""

    train: SampleSet
    test: SampleSet  # for STL10 it is part of `train`, as in the paper
    content: str
    published: bool = True


def _list_files(name: str) -> tuple[Path | None, State]:
    """List what a data set's cache depends on.

    Returns:
        The folder SA_BENCH_DATA, and the state of the files that are read from it.
    """
    folder, archive = data_folder(), _find_entry(name).archive
    if folder is None or not folder.is_dir():
        return folder, ()
    if archive is not None:
        local = archive().local(folder)
        return folder, read_states([local] if local is not None else [])
    try:
        return folder, read_states(mnist.idx_files(folder).values())
    except MissingAsset:
        return folder, ()


@cached_by(lambda name: (store_folder(), *_list_files(name)), maxsize=4)
def load(name: str) -> Dataset:
    """Load the data set `name`; it is downloaded once and stored.

    Raises:
        MissingAsset: it is not on this machine and cannot be downloaded.
        SaBenchError: the one in SA_BENCH_DATA is damaged.
    """
    arrays, content, published = _find_entry(name).load(store_folder() / "data", data_folder())

    def make_split(split: str) -> SampleSet:
        labels = arrays[f"{split}_labels"].astype(np.int64)
        return SampleSet(arrays[f"{split}_images"], labels, np.full(len(labels), -1))

    return Dataset(make_split("train"), make_split("test"), content, published)


def image_shape(task: Task) -> tuple[int, int, int]:
    """Return (H, W, C) of the task's images."""
    return (task.size, task.size, 3) if task.dataset == NONE else _find_entry(task.dataset).shape


def data_content(name: str) -> str:
    """Return the data set's content hash.

    The data set is read for it only if SA_BENCH_DATA may hold another version.
    """
    if name == NONE:
        return NONE
    return load(name).content if _is_local(name) else _find_entry(name).content()


def is_published(name: str) -> bool:
    """Return whether the data set is the published one, file by file."""
    return not _is_local(name) or load(name).published


def data_remark(name: str) -> str | None:
    """Return what a result must say about its data; None if it is the published data."""
    if name == NONE or is_published(name):
        return None
    return f"data: not the published {_find_entry(name).title}, content {data_content(name)} (from SA_BENCH_DATA)"


def find_owners(class_name: str) -> list[str]:
    """Return the titles of the data sets that have a class of that name."""
    return [
        entry.title for entry in ENTRIES.values() if class_name.strip().lower() in entry.classes
    ]


def mnist_folder() -> Path | None:
    """Return SA_BENCH_DATA for MNIST; None if it holds another data set and no file of MNIST's."""
    folder = data_folder()
    if folder is None or not folder.is_dir():
        return folder
    try:
        mnist.idx_files(folder)
    except MissingAsset:
        if any(entry.archive and entry.archive().local(folder) for entry in ENTRIES.values()):
            return None
    return folder


def real_images(task: Task, name: str) -> SampleSet:
    """Load `forget_train`, `forget_test`, `retain_train` or `retain_test` of the task's data."""
    data = load(task.dataset)
    if name == "forget_train":
        return data.train.of(task.concept)
    if name == "forget_test":
        return data.test.of(task.concept)
    if name == "retain_train":
        return data.train.take(np.isin(data.train.labels, task.scored))
    if name == "retain_test":
        return data.test.take(np.isin(data.test.labels, task.scored))
    raise unknown_name(
        "real set", name, ["forget_train", "forget_test", "retain_train", "retain_test"]
    )


def _find_entry(name: str) -> Entry:
    """Return the entry of a data set, or raise an error that lists all names."""
    if name not in ENTRIES:
        raise unknown_name("data set", name, ENTRIES)
    return ENTRIES[name]


def _is_local(name: str) -> bool:
    """Return whether SA_BENCH_DATA holds the data set's archive."""
    archive = _find_entry(name).archive
    return (
        archive is not None
        and data_folder() is not None
        and archive().local(data_folder()) is not None
    )
