"""Read images from elsewhere: a folder with `forget/` and `retain/<class>/`, or an NPZ with labels.

The same images give the same sets either way, in whatever order they come: a set is ordered by class
or, where the row of each image is known (`sa_bench.engine.joining`), by row. Nothing here loads
torch, so that a mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sa_bench.contracts import SampleSet, Task
from sa_bench.core.errors import SaBenchError
from sa_bench.data import datasets, images
from sa_bench.engine import joining
from sa_bench.engine.validation import class_index
from sa_bench.scoring.sampling import KEPT, number_prompts, plan_set


class ExternalImages(NamedTuple):
    """Images from elsewhere, as sample sets."""

    sets: dict[str, SampleSet]
    """`forget` and `retain`, or the one of them that the path holds."""
    files: list[Path]
    """The files that the images were read from; empty for an NPZ."""
    names: dict[str, list[str]]
    """What each image is called, by set and in its order: its file, or its number in an NPZ."""
    joins: dict[str, str]
    """How the row of each image was determined (`sa_bench.engine.joining`), by set; sets whose
    images belong to no rows are absent."""


def read_sets(path: Path, task: Task) -> ExternalImages:
    """Read `forget` and `retain` from a folder or an NPZ.

    Each image gets the seed and the prompt of its row, where the row is known.

    Raises:
        SaBenchError: the path, the layout or an image is wrong, or an image does not agree with its
            row.
    """
    if path.is_dir():
        return _read_folder(path, task)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _read_npz(path, task)
    if not path.exists():
        raise SaBenchError(
            f"There is no {path}. Give a folder with forget/ and retain/<class>/, an .npz file, or weights."
        )
    raise SaBenchError(
        f"{path} is neither a folder with forget/ and retain/<class>/ nor an .npz file nor weights."
    )


def _read_folder(path: Path, task: Task) -> ExternalImages:
    height, width, channels = datasets.image_shape(task)
    set_names = [name for name in ("forget", "retain") if (path / name).exists()]
    if not set_names:
        raise SaBenchError(f"{path} has neither forget/ nor retain/; one folder a set is needed.")
    for name in set_names:
        if not (path / name).is_dir():
            raise SaBenchError(f"{path / name} is a file, must be a folder of images.")
    external = ExternalImages({}, [], {}, {})
    for name in set_names:
        folders = {task.concept: path / name}
        if name == "retain":
            folders = _folders_of_retain(path / name, task)
        class_sets, files = [], []
        for label, folder in sorted(folders.items()):
            pixels, image_files = images.read_folder(folder, channels, (height, width))
            class_sets.append(_as_set(pixels, np.full(len(pixels), label)))
            files += image_files
        sample_set = SampleSet.concatenate(class_sets)
        if name == "retain" and not task.retains_prompts:
            _require_all(sample_set, task, path / name)
        names = [file.relative_to(path).as_posix() for file in files]
        joined = joining.join(path / name, files, sample_set.labels.tolist(), task, name)
        if joined is None or joined.how == joining.COUNT:
            _refuse_one_number_twice(files)
        if joined is not None:
            external.joins[name] = joined.how
            sample_set = _order_by_row(sample_set, joined.rows, task, name)
            names = [names[i] for i in np.argsort(joined.rows)]
            if joined.table:
                files.append(joined.table)
        external.sets[name], external.names[name] = sample_set, names
        external.files.extend(files)
    return external


def _refuse_one_number_twice(files: Sequence[Path]) -> None:
    """Refuse two files of one folder with the same number, such as 1.png and 00001.png: one is a copy or left over.

    Raises:
        SaBenchError: there are two.
    """
    file_of_number: dict[tuple[Path, int], Path] = {}
    for file in files:
        if file.stem.isascii() and file.stem.isdigit():
            first = file_of_number.setdefault((file.parent, int(file.stem)), file)
            if first != file:
                raise SaBenchError(
                    f"{first} and {file} have the same number; remove one, or name them apart."
                )


def _order_by_row(images: SampleSet, numbers: Sequence[int], task: Task, name: str) -> SampleSet:
    """Sort the images of a set by their row numbers, and give them the rows' seeds and prompts."""
    planned_images = plan_set(task, name)
    prompts = number_prompts(planned_images)
    seeds = np.array([row.request.seed for row in planned_images], np.int64)
    return replace(images.take(np.argsort(numbers)), seeds=seeds, prompts=prompts)


def _folders_of_retain(retain: Path, task: Task) -> dict[int, Path]:
    """Find the folder of each retained class; retained prompts lie in retain/ itself."""
    return {KEPT: retain} if task.retains_prompts else _class_folders(retain, task)


def _class_folders(retain: Path, task: Task) -> dict[int, Path]:
    """Find the folder of each class in retain/, called by its number or its name."""
    if loose := images.list_image_files(retain):
        raise SaBenchError(
            f"{loose[0]} is in no class folder; move it into its own (retain/1, retain/two, …)."
        )
    folders: dict[int, Path] = {}
    for folder in sorted(retain.iterdir(), key=images.natural_order):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            label = class_index(task, folder.name)
        except SaBenchError as error:
            owners = datasets.find_owners(folder.name)
            hint = f" It is a class of {' and '.join(owners)}." if owners else ""
            raise SaBenchError(f"{folder}: {error}{hint}") from error
        if label == task.concept:
            raise SaBenchError(
                f"{folder}: {task.classes[label]} is the concept; put it into forget/."
            )
        if label in folders:
            raise SaBenchError(
                f"{folders[label]} and {folder} are the same class; put them into one folder."
            )
        folders[label] = folder
    if not folders:
        raise SaBenchError(f"{retain} has no class folders (retain/1, retain/two, …).")
    return folders


def _read_npz(path: Path, task: Task) -> ExternalImages:
    """Read the sets of an NPZ with labels, each ordered by class."""
    pixels, labels = images.read_npz(path, datasets.image_shape(task))
    if labels is None:
        raise SaBenchError(
            f"{path} has no labels; add an integer array `labels` of one class an image."
        )
    if (outside := np.flatnonzero((labels < 0) | (labels >= len(task.classes)))).size:
        row, last = outside[0], len(task.classes) - 1
        raise SaBenchError(
            f"{path}: the label of image {row}, {labels[row]}, is outside 0..{last}."
        )
    all_images, order = _as_set(pixels, labels), np.argsort(labels, kind="stable")
    external = ExternalImages({}, [], {}, {})
    for name, is_in_set in (("forget", labels == task.concept), ("retain", labels != task.concept)):
        rows = order[is_in_set[order]]
        if len(rows):
            external.sets[name] = all_images.take(rows)
            external.names[name] = [str(row) for row in rows]
    if "retain" in external.sets:
        _require_all(external.sets["retain"], task, path)
    return external


def _as_set(pixels: np.ndarray, labels: np.ndarray) -> SampleSet:
    """Make a sample set of images whose seeds are unknown (−1)."""
    return SampleSet(pixels, labels.astype(np.int64), np.full(len(pixels), -1))


def _require_all(retain: SampleSet, task: Task, where: Path) -> None:
    """Refuse images of `retain` that leave out a scored class."""
    missing = sorted(set(task.scored) - set(retain.labels.tolist()))
    if missing:
        names = ", ".join(task.classes[c] for c in missing)
        raise SaBenchError(
            f"{where}: no images of the retained classes {names}; every one is scored."
        )
