"""`evaluate`: images that somebody else made, measured under a task's protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sa_bench import datasets, images
from sa_bench.cells import Cell, class_index, resolve_task, split_setting
from sa_bench.contracts import Task
from sa_bench.errors import SaBenchError
from sa_bench.measuring import Subject, measure_all
from sa_bench.results import SCHEMA, command_line, provenance, to_json
from sa_bench.sampling import SampleSet
from sa_bench.settings import store_folder
from sa_bench.stages import Chain
from sa_bench.store import Store, write_atomic


def evaluate_images(
    path: Path,
    task_name: str,
    scale: str,
    sets: list[str],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
) -> dict[str, Any]:
    """A result like a cell's, with method `external`; metrics that need the model are n/a.

    Raises:
        SaBenchError: unreadable or unsuitable images; names the file and the problem.
    """
    settings = dict(split_setting(text) for text in sets)
    if stray := [name for name in settings if not name.startswith("task.")]:
        raise SaBenchError(f"evaluate has no method to set: --set {stray[0]}; use task.<field>.")
    overrides = {name.removeprefix("task."): value for name, value in settings.items()}
    task = resolve_task(task_name, scale, overrides)
    found = read_sets(path, task)
    cell = Cell(task, "original", {}, 0, 0, scale, overrides)
    chain = Chain(Store(store_folder()), cell, lambda *event: report("external", *event))
    rows, _ = measure_all(chain, Subject(chain, sets=found), Subject(chain, base=True))
    notes = [f"{r['name']}: {w}" for r in rows if (w := (r["extra"] or {}).get("warning"))]
    if lossy := _lossy(path):
        notes.append(f"lossy input: {lossy} of the files are JPEG or WebP, which changes feature distances")
    result = {
        "schema": SCHEMA, "task": task.name, "task_title": task.title, "method": "external",
        "fields": {"images": str(path)}, "seed": 0, "base_seed": 0, "scale": scale, "overrides": overrides,
        "control": False, "standing": "method", "cell": "external", "status": "done", "error": None,
        "concept": task.classes[task.concept], "task_values": cell.plain()["task"], "summary": "images given",
        "measurements": rows, "flags": notes, "cost": chain.cost,
        "artifacts": {"counts": {name: len(s) for name, s in found.items()}, "base": chain.base.content},
        "provenance": provenance(command_line(), {"base": chain.base.content}),
    }  # fmt: skip
    if out is not None:
        if out.is_file():
            raise SaBenchError(f"--out {out} is a file; give a folder.")
        write_atomic(out / "result.json", to_json(result).encode())
    return result


def read_sets(path: Path, task: Task) -> dict[str, SampleSet]:
    """`forget` and `retain` from a folder or an NPZ.

    Raises:
        SaBenchError: the path, the layout or an image is wrong.
    """
    if path.is_dir():
        return _from_folder(path, task)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _from_npz(path, task)
    raise SaBenchError(f"{path} is neither a folder with forget/ and retain/<class>/ nor an .npz file.")


def _from_folder(path: Path, task: Task) -> dict[str, SampleSet]:
    *size, channels = datasets.SHAPES[task.dataset]
    shape = (size[0], size[1])
    if not (path / "forget").is_dir() and not (path / "retain").is_dir():
        raise SaBenchError(f"{path} has neither forget/ nor retain/; one folder a set is needed.")
    found = {}
    if (path / "forget").is_dir():
        array, _ = images.read_folder(path / "forget", channels, shape)
        found["forget"] = _set(array, np.full(len(array), task.concept))
    if (path / "retain").is_dir():
        arrays, labels = [], []
        for folder in sorted((p for p in (path / "retain").iterdir() if p.is_dir()), key=images.natural):
            label = class_index(task, folder.name)
            if label == task.concept:
                raise SaBenchError(f"{folder}: {task.classes[label]} is the concept; put it into forget/.")
            array, _ = images.read_folder(folder, channels, shape)
            arrays.append(array)
            labels.append(np.full(len(array), label))
        if not arrays:
            raise SaBenchError(f"{path / 'retain'} has no class folders (retain/1, retain/two, …).")
        found["retain"] = _complete(_set(np.concatenate(arrays), np.concatenate(labels)), task, path)
    return found


def _from_npz(path: Path, task: Task) -> dict[str, SampleSet]:
    array, labels = images.read_npz(path, datasets.SHAPES[task.dataset])
    if labels is None:
        raise SaBenchError(f"{path} has no labels; add an integer array `labels` of one class an image.")
    if labels.min() < 0 or labels.max() >= len(task.classes):
        bad = labels[(labels < 0) | (labels >= len(task.classes))][0]
        raise SaBenchError(f"{path}: label {bad} is outside 0..{len(task.classes) - 1}.")
    whole = _set(array, labels)
    found = {}
    if (labels == task.concept).any():
        found["forget"] = whole.of(task.concept)
    if (labels != task.concept).any():
        found["retain"] = _complete(whole.take(labels != task.concept), task, path)
    return found


def _set(array: np.ndarray, labels: np.ndarray) -> SampleSet:
    return SampleSet(array, labels.astype(np.int64), np.full(len(array), -1))


def _complete(images: SampleSet, task: Task, path: Path) -> SampleSet:
    missing = sorted(set(task.retain) - set(images.labels.tolist()))
    if missing:
        names = ", ".join(task.classes[c] for c in missing)
        raise SaBenchError(f"{path}: no images of the retained classes {names}; every one is scored.")
    return images


def _lossy(path: Path) -> int:
    if not path.is_dir():
        return 0
    return sum(1 for p in path.rglob("*") if p.suffix.lower() in images.LOSSY)
