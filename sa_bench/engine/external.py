"""`evaluate`: measure images that somebody else made, under a task's protocol.

The images come as a folder with `forget/` and `retain/<class>/`, or as an NPZ with labels. The same
images give the same values either way, in whatever order they come: a set is ordered by class or,
where the row of each image is known (`sa_bench.engine.joining`), by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sa_bench.contracts import SampleSet, Task, result_values
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
from sa_bench.models.family import get_family
from sa_bench.results.files import CLAIM, SCHEMA, write_result
from sa_bench.results.provenance import command_line, provenance
from sa_bench.results.schema import ResultRow
from sa_bench.scoring.sampling import KEPT, number_prompts, plan_set

FILE_ENDINGS = {
    *(".json", ".jsonl", ".html", ".md", ".csv", ".parquet", ".npz", ".txt", ".xz", ".zip")
}
"""Endings that no folder has: `--out NAME.json` is taken for a mistake."""


def evaluate_images(
    path: Path,
    task_name: str,
    scale: str,
    sets: list[str],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
    metrics: Sequence[str] = (),
) -> ResultRow:
    """Measure images from elsewhere and return a result like a cell's, with the method `external`.

    Metrics that need the model are n/a.

    Raises:
        SaBenchError: the images are unreadable or unsuitable; names the file and the problem.
    """
    overrides = task_overrides(sets, "evaluate")
    names = registry.register_all("task", [task_name])
    if len(names) > 1:
        raise SaBenchError(f"{task_name} defines {', '.join(names)}; evaluate takes one task.")
    further_metrics = registry.register_all("metric", metrics)
    task = with_metrics(resolve_task(names[0], scale, overrides), further_metrics)
    command = {
        "task": task.name,
        "fields": {"images": str(path)},
        "scale": scale,
        "overrides": overrides,
    }
    if not task.needs_weights:  # the base's images are made here
        check_precision(task, "cpu")
    with ExitStack() as claims:
        if out is not None:
            claims.enter_context(_hold_folder(out, command))
        return _measure_images(path, task, command, out, report)


def _measure_images(
    path: Path,
    task: Task,
    command: dict[str, Any],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
) -> ResultRow:
    """Measure the images of `path` and write the result into `out`, if one is given."""
    scale, overrides = command["scale"], command["overrides"]
    sets, files, joins = read_sets(path, task)
    code = registry.hash_plug_ins(
        [("task", task.name), *(("metric", name) for name in task.metrics)]
    )
    cell = Cell(task, "original", {}, 0, 0, scale, overrides, code)
    chain = Chain(
        Store(store_folder()),
        cell,
        lambda stage, done, total: report("external", stage, done, total),
    )
    base = Subject(chain, base=True) if _base_is_cheap(chain) else None
    measurements, _ = measure_all(chain, Subject(chain, sets=sets), base)
    registry.require_unchanged(code)
    notes = [*_warn_of_counting(joins), *registry.plug_in_remarks(code)]
    notes += [f"{r['name']}: {w}" for r in measurements if (w := (r["extra"] or {}).get("warning"))]
    notes += _note_blank_or_few(sets, task)
    if data_note := datasets.data_remark(task.dataset):
        notes.append(data_note)
    if base is None:
        notes.append(
            f"no base values: run --task {task.name} --method original first, then evaluate again"
        )
    if lossy_files := sum(map(images.is_lossy, files)):
        notes.append(
            f"lossy input: {lossy_files} of the files are JPEG or WebP, which changes feature distances"
        )
    if unused_files := _list_unused_files(path, files, out):
        notes.append(
            f"not used: {', '.join(map(repr, unused_files[:3]))}{', …' if len(unused_files) > 3 else ''}"
        )
    result: ResultRow = {
        "schema": SCHEMA,
        "task": command["task"],
        "fields": command["fields"],
        "scale": scale,
        "overrides": overrides,
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
        "task_values": result_values(task),
        "summary": "images given",
        "measurements": measurements,
        "flags": notes,
        "cost": chain.cost,
        "trainings": [],
        "artifacts": {
            "counts": {name: len(s) for name, s in sets.items()},
            "images": {name: hash_array(s.images) for name, s in sets.items()},
            "join": joins,
            "base": chain.base.content if base else None,
        },
        "provenance": {
            **provenance(command_line(), {"base": chain.base.content} if base else {}),
            "plug_ins": registry.describe_sources(code),
        },
    }
    if out is not None:
        write_result(out, result)
    return result


def _base_is_cheap(chain: Chain) -> bool:
    """True if base values can be given without loading a pretrained base model or sampling from it."""
    if not chain.task.needs_weights:
        return True
    try:
        return all(
            chain.store.has("samples", chain.sample_stage(n, base=True).key)
            for n in ("forget", "retain")
        )
    except MissingAsset:
        return False


@contextmanager
def _hold_folder(out: Path, command: dict[str, Any]) -> Iterator[None]:
    """Hold `out` for this evaluation alone.

    Raises:
        SaBenchError: the folder cannot be written, holds the result of another command, or another
            process writes there.
    """
    if out.suffix.lower() in FILE_ENDINGS and not out.is_dir():
        raise SaBenchError(
            f"--out {out} looks like a file; give a folder, result.json is written into it."
        )
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise SaBenchError(f"--out {out}: {folder} is a file; give a folder.")
    lock, file = out / CLAIM, out / "result.json"
    try:
        with hold_lock(lock, f"the folder {out}", wait=False):
            if file.exists() and not _is_result_of(file, command):
                raise SaBenchError(
                    f"{out} holds another result. Choose another --out, or delete {file}."
                )
            yield
    except Busy:
        raise SaBenchError(
            f"{out}: {read_holder(lock)} writes there. Choose another --out."
        ) from None


def _is_result_of(file: Path, command: dict[str, Any]) -> bool:
    """True if a result.json was written by the same command."""
    try:
        result = read_json(file)
        return result["method"] == "external" and all(result[k] == v for k, v in command.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_checkpoint(path: Path, task_name: str) -> bool:
    """True if `path` holds weights for a text-to-image task and not images."""
    if path.suffix.lower() == ".npz" or any(
        (path / name).exists() for name in ("forget", "retain")
    ):
        return False
    (name, *_) = registry.register("task", task_name)
    if not get_family(registry.get_task(name).family).opens_checkpoints or not path.exists():
        return False
    from sa_bench.models.checkpoints import layouts

    return bool(layouts.layout(str(path)))


class ExternalImages(NamedTuple):
    """Images from elsewhere, as sample sets."""

    sets: dict[str, SampleSet]
    """`forget` and `retain`, or the one of them that the path holds."""
    files: list[Path]
    """The files that the images were read from; empty for an NPZ."""
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
        return ExternalImages(_read_npz(path, task), [], {})
    raise SaBenchError(
        f"{path} is neither a folder with forget/ and retain/<class>/ nor an .npz file."
    )


def _read_folder(path: Path, task: Task) -> ExternalImages:
    height, width, channels = datasets.image_shape(task)
    set_names = [name for name in ("forget", "retain") if (path / name).exists()]
    if not set_names:
        raise SaBenchError(f"{path} has neither forget/ nor retain/; one folder a set is needed.")
    for name in set_names:
        if not (path / name).is_dir():
            raise SaBenchError(f"{path / name} is a file, must be a folder of images.")
    external = ExternalImages({}, [], {})
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
        joined = joining.join(path / name, files, sample_set.labels.tolist(), task, name)
        if joined is not None:
            external.joins[name] = joined.how
            sample_set = _order_by_row(sample_set, joined.rows, task, name)
            if joined.table:
                files.append(joined.table)
        external.sets[name] = sample_set
        external.files.extend(files)
    return external


def _order_by_row(images: SampleSet, numbers: Sequence[int], task: Task, name: str) -> SampleSet:
    """Sort the images of a set by their row numbers, and give them the rows' seeds and prompts."""
    planned_images = plan_set(task, name)
    prompts = number_prompts(planned_images)
    seeds = np.array([row.request.seed for row in planned_images], np.int64)
    return replace(images.take(np.argsort(numbers)), seeds=seeds, prompts=prompts)


def _warn_of_counting(joins: Mapping[str, str]) -> list[str]:
    """Warn of sets whose images were matched to rows by their order alone; [] if there are none."""
    sets = [name for name, how in joins.items() if how == joining.COUNT]
    if not sets:
        return []
    return [
        f"{joining.COUNTED} {' and '.join(sets)}: nothing says which prompt and seed an image was made from, so the k-th "
        "file is taken for the k-th row; values that compare with prompts or with the base's images are wrong if it is "
        "not. " + joining.ADVICE
    ]


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


def _read_npz(path: Path, task: Task) -> dict[str, SampleSet]:
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
    all_images = _as_set(pixels, labels).take(np.argsort(labels, kind="stable"))
    sets = {}
    if (labels == task.concept).any():
        sets["forget"] = all_images.of(task.concept)
    if (labels != task.concept).any():
        sets["retain"] = all_images.take(all_images.labels != task.concept)
        _require_all(sets["retain"], task, path)
    return sets


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


def _note_blank_or_few(sets: dict[str, SampleSet], task: Task) -> list[str]:
    """Note blank images, and a retain set of another size than the base's."""
    notes = []
    for name, sample_set in sets.items():
        flat = sample_set.images.reshape(len(sample_set), -1)
        if blank := int((flat.min(1) == flat.max(1)).sum()):
            invalid = "; a set of blank images is invalid" if blank == len(flat) else ""
            notes.append(
                f"{name}: {blank}/{len(flat)} images are blank (one value everywhere){invalid}"
            )
    base_images = len(plan_set(task, "retain"))
    if "retain" in sets and len(sets["retain"]) != base_images:
        n = len(sets["retain"])
        notes.append(
            f"retain: {n} images, but {base_images} behind the base's values: fid and recall depend on N"
        )
    return notes


def _list_unused_files(path: Path, files: Sequence[Path], out: Path | None) -> list[str]:
    """List what was not read from the folder: a misspelt set, notes, folders in folders."""
    if not path.is_dir():
        return []
    set_folders = [p for p in (path / "forget", path / "retain") if p.is_dir()]
    outside_sets = [
        p
        for p in path.iterdir()
        if p not in set_folders and (out is None or p.resolve() != out.resolve())
    ]
    inside_sets = [p for folder in set_folders for p in folder.rglob("*") if not p.is_dir()]
    names = {
        p.relative_to(path).as_posix() for p in {*outside_sets, *inside_sets}.difference(files)
    }
    return sorted(n for n in names if not any(part.startswith(".") for part in n.split("/")))
