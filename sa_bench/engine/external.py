"""`evaluate`: images that somebody else made, measured under a task's protocol.

A folder with `forget/` and `retain/<class>/`, or an NPZ with labels. The same images give the same values
either way, in whatever order they come: the sets are ordered by class or, where each image's row is told
(`sa_bench.engine.joining`), by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sa_bench.contracts import SMOKE_MODEL, SampleSet, Task
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.locks import Busy, hold_lock, read_holder
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.core.untrusted_text import read_json
from sa_bench.data import datasets, images
from sa_bench.data.sample_sets import hash_array
from sa_bench.engine import joining
from sa_bench.engine.cells import Cell, resolve_task, task_overrides, with_metrics
from sa_bench.engine.measure import Subject, measure_all
from sa_bench.engine.stages import Chain
from sa_bench.engine.validation import check_precision, class_index
from sa_bench.results.files import CLAIM, SCHEMA, write_result
from sa_bench.results.provenance import command_line, provenance
from sa_bench.scoring.sampling import KEPT, plan_set

FILES = {
    ".json",
    ".jsonl",
    ".html",
    ".md",
    ".csv",
    ".parquet",
    ".npz",
    ".txt",
    ".xz",
    ".zip",
}  # names of no folder


def evaluate_images(
    path: Path,
    task_name: str,
    scale: str,
    sets: list[str],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """A result like a cell's, with method `external`; metrics that need the model are n/a.

    Raises:
        SaBenchError: unreadable or unsuitable images; names the file and the problem.
    """
    overrides = task_overrides(sets, "evaluate")
    names = registry.register_all("task", [task_name])
    if len(names) > 1:
        raise SaBenchError(f"{task_name} defines {', '.join(names)}; evaluate takes one task.")
    further = registry.register_all("metric", metrics)
    task = with_metrics(resolve_task(names[0], scale, overrides), further)
    asked = {
        "task": task.name,
        "fields": {"images": str(path)},
        "scale": scale,
        "overrides": overrides,
    }
    if task.model == SMOKE_MODEL or not task.model:  # the base's images are made here
        check_precision(task, "cpu")
    with ExitStack() as claims:
        if out is not None:
            claims.enter_context(_read_claim(out, asked))
        return _measure_given(path, task, asked, out, report)


def _measure_given(
    path: Path,
    task: Task,
    asked: dict[str, Any],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
) -> dict[str, Any]:
    scale, overrides = asked["scale"], asked["overrides"]
    found, files, joins = read_sets(path, task)
    code = registry.hash_plug_ins(
        [("task", task.name), *(("metric", name) for name in task.metrics)]
    )
    cell = Cell(task, "original", {}, 0, 0, scale, overrides, code)
    chain = Chain(Store(store_folder()), cell, lambda *event: report("external", *event))
    base = Subject(chain, base=True) if _base_is_cheap(chain) else None
    measured, _ = measure_all(chain, Subject(chain, sets=found), base)
    registry.require_unchanged(code)
    notes = [*_count_images(joins), *registry.plug_in_remarks(code)]
    notes += [f"{r['name']}: {w}" for r in measured if (w := (r["extra"] or {}).get("warning"))]
    notes += _remarks(found, task)
    if said := datasets.data_remark(task.dataset):
        notes.append(said)
    if base is None:
        notes.append(
            f"no base values: run --task {task.name} --method original first, and they stand beside"
        )
    if lossy := sum(map(images.is_lossy, files)):
        notes.append(
            f"lossy input: {lossy} of the files are JPEG or WebP, which changes feature distances"
        )
    if unused := _unused(path, files, out):
        notes.append(
            f"not used: {', '.join(map(repr, unused[:3]))}{', …' if len(unused) > 3 else ''}"
        )
    result = {
        "schema": SCHEMA,
        **asked,
        "task_title": task.title,
        "method": "external",
        "seed": 0,
        "base_seed": 0,
        "control": False,
        "standing": "method",
        "cell": "external",
        "status": "done",
        "error": None,
        "concept": task.classes[task.concept],
        "task_values": cell.plain()["task"],
        "summary": "images given",
        "measurements": measured,
        "flags": notes,
        "cost": chain.cost,
        "artifacts": {
            "counts": {name: len(s) for name, s in found.items()},
            "images": {name: hash_array(s.images) for name, s in found.items()},
            "join": joins,
            "base": chain.base.content if base else None,
        },
        "provenance": provenance(command_line(), {"base": chain.base.content} if base else {})
        | {"plug_ins": registry.describe_sources(code)},
    }
    if out is not None:
        write_result(out, result)
    return result


def _base_is_cheap(chain: Chain) -> bool:
    """Whether the base's values can stand beside: a pretrained base is not loaded, nor asked for days, for them."""
    task = chain.task
    if not task.model or task.model == SMOKE_MODEL:
        return True
    try:
        return all(
            chain.store.has("samples", chain.sample_stage(n, base=True).key)
            for n in ("forget", "retain")
        )
    except MissingAsset:
        return False


@contextmanager
def _read_claim(out: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Hold `out` for this evaluation alone.

    Raises:
        SaBenchError: it cannot be written, holds the answer to something else, or another process is about to.
    """
    if out.suffix.lower() in FILES and not out.is_dir():
        raise SaBenchError(
            f"--out {out} looks like a file; give a folder, result.json is written into it."
        )
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise SaBenchError(f"--out {out}: {folder} is a file; give a folder.")
    lock, file = out / CLAIM, out / "result.json"
    try:
        with hold_lock(lock, f"the folder {out}", wait=False):
            if file.exists() and not _answers(file, asked):
                raise SaBenchError(
                    f"{out} holds another result. Choose another --out, or delete {file}."
                )
            yield
    except Busy:
        raise SaBenchError(
            f"{out}: {read_holder(lock)} writes there. Choose another --out."
        ) from None


def _answers(file: Path, asked: dict[str, Any]) -> bool:
    """Whether a result.json is what the same command wrote."""
    try:
        known = read_json(file)
        return known["method"] == "external" and all(known[k] == v for k, v in asked.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_checkpoint(path: Path, task_name: str) -> bool:
    """Whether `path` holds weights for a text-to-image task and not images."""
    if path.suffix.lower() == ".npz" or any(
        (path / name).exists() for name in ("forget", "retain")
    ):
        return False
    (name, *_) = registry.register("task", task_name)
    if registry.get_task(name).family != "text_to_image" or not path.exists():
        return False
    from sa_bench.models.checkpoints import layouts

    return bool(layouts.layout(str(path)))


class Given(NamedTuple):
    """A stranger's images."""

    sets: dict[str, SampleSet]  # `forget` and `retain`, those that are given
    files: list[Path]  # that they came from, in a folder
    joins: dict[
        str, str
    ]  # how the rows of each set were told (`sa_bench.engine.joining`); without those told by nothing


def read_sets(path: Path, task: Task) -> Given:
    """`forget` and `retain` from a folder or an NPZ, each image with the seed and prompt of its row, where one is told.

    Raises:
        SaBenchError: the path, the layout or an image is wrong, or an image and its row do not agree.
    """
    if path.is_dir():
        return _read_folder(path, task)
    if path.suffix.lower() == ".npz" and path.is_file():
        return Given(_read_npz(path, task), [], {})
    raise SaBenchError(
        f"{path} is neither a folder with forget/ and retain/<class>/ nor an .npz file."
    )


def _read_folder(path: Path, task: Task) -> Given:
    height, width, channels = datasets.image_shape(task)
    named = [name for name in ("forget", "retain") if (path / name).exists()]
    if not named:
        raise SaBenchError(f"{path} has neither forget/ nor retain/; one folder a set is needed.")
    if no_folder := [name for name in named if not (path / name).is_dir()]:
        raise SaBenchError(f"{path / no_folder[0]} is a file, must be a folder of images.")
    given = Given({}, [], {})
    for name in named:
        folders = {task.concept: path / name} if name == "forget" else _retained(path / name, task)
        parts, files = [], []
        for label, folder in sorted(folders.items()):
            array, read = images.read_folder(folder, channels, (height, width))
            parts.append(_set(array, np.full(len(array), label)))
            files += read
        whole = SampleSet.concatenate(parts)
        if name == "retain" and not task.retains_prompts:
            _require_all(whole, task, path / name)
        told = joining.join(path / name, files, whole.labels.tolist(), task, name)
        if told is not None:
            given.joins[name] = told.how
            whole = _join_sets(whole, told.rows, task, name)
            files += [told.table] if told.table else []
        given.sets[name] = whole
        given.files.extend(files)
    return given


def _join_sets(images: SampleSet, numbers: Sequence[int], task: Task, name: str) -> SampleSet:
    """All images of a set in the order of their rows, with the rows' seeds and prompts."""
    wanted = plan_set(task, name)
    prompts = None if task.prompts is None else np.array([row.prompt for row in wanted], np.int64)
    seeds = np.array([row.request.seed for row in wanted], np.int64)
    return replace(images.take(np.argsort(numbers)), seeds=seeds, prompts=prompts)


def _count_images(joins: Mapping[str, str]) -> list[str]:
    """The line on sets whose images were given their rows by count alone; [] where there are none."""
    if not (sets := [name for name, how in joins.items() if how == joining.COUNT]):
        return []
    return [
        f"{joining.COUNTED} {' and '.join(sets)}: nothing says which prompt and seed an image was made from, so the k-th "
        "file is taken for the k-th row; values that compare with prompts or with the base's images are wrong if it is "
        "not. " + joining.ADVICE
    ]


def _retained(retain: Path, task: Task) -> dict[int, Path]:
    """The folder of each retained class; of kept prompts there is but one, retain/ itself."""
    return {KEPT: retain} if task.retains_prompts else _class_folders(retain, task)


def _class_folders(retain: Path, task: Task) -> dict[int, Path]:
    """The folder of each class in retain/, called by its number or its name."""
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


def _read_npz(path: Path, task: Task) -> dict[str, SampleSet]:
    array, labels = images.read_npz(path, datasets.image_shape(task))
    if labels is None:
        raise SaBenchError(
            f"{path} has no labels; add an integer array `labels` of one class an image."
        )
    if (bad := np.flatnonzero((labels < 0) | (labels >= len(task.classes)))).size:
        row, last = bad[0], len(task.classes) - 1
        raise SaBenchError(
            f"{path}: the label of image {row}, {labels[row]}, is outside 0..{last}."
        )
    whole = _set(array, labels).take(np.argsort(labels, kind="stable"))
    found = {}
    if (labels == task.concept).any():
        found["forget"] = whole.of(task.concept)
    if (labels != task.concept).any():
        found["retain"] = whole.take(whole.labels != task.concept)
        _require_all(found["retain"], task, path)
    return found


def _set(array: np.ndarray, labels: np.ndarray) -> SampleSet:
    return SampleSet(array, labels.astype(np.int64), np.full(len(array), -1))


def _require_all(retain: SampleSet, task: Task, where: Path) -> None:
    missing = sorted(set(task.scored) - set(retain.labels.tolist()))
    if missing:
        names = ", ".join(task.classes[c] for c in missing)
        raise SaBenchError(
            f"{where}: no images of the retained classes {names}; every one is scored."
        )


def _remarks(found: dict[str, SampleSet], task: Task) -> list[str]:
    """What a reader of the values should know of the images."""
    notes = []
    for name, part in found.items():
        flat = part.images.reshape(len(part), -1)
        if blank := int((flat.min(1) == flat.max(1)).sum()):
            invalid = "; a set of blank images is invalid" if blank == len(flat) else ""
            notes.append(
                f"{name}: {blank}/{len(flat)} images are blank (one value everywhere){invalid}"
            )
    behind_base = len(plan_set(task, "retain"))
    if "retain" in found and len(found["retain"]) != behind_base:
        n = len(found["retain"])
        notes.append(
            f"retain: {n} images, but {behind_base} behind the base's values: fid and recall depend on N"
        )
    return notes


def _unused(path: Path, files: Sequence[Path], out: Path | None) -> list[str]:
    """What lies in the folder beside the images read: a misspelt set, notes, folders in folders."""
    if not path.is_dir():
        return []
    sets = [p for p in (path / "forget", path / "retain") if p.is_dir()]
    beside = [
        p for p in path.iterdir() if p not in sets and (out is None or p.resolve() != out.resolve())
    ]
    inside = [p for folder in sets for p in folder.rglob("*") if not p.is_dir()]
    names = {p.relative_to(path).as_posix() for p in {*beside, *inside}.difference(files)}
    return sorted(n for n in names if not any(part.startswith(".") for part in n.split("/")))
