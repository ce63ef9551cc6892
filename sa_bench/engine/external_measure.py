"""Measure images from elsewhere, which `sa_bench.engine.external_images` read, and make a result of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from sa_bench.contracts import SampleSet, Task, result_values
from sa_bench.core import registry
from sa_bench.core.disk import copy_atomic
from sa_bench.core.errors import MissingAsset
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, write_atomic
from sa_bench.data import datasets, images
from sa_bench.data.sample_sets import hash_array
from sa_bench.engine import joining
from sa_bench.engine.cells import Cell
from sa_bench.engine.external_images import ExternalImages
from sa_bench.engine.measure import Subject, measure_all
from sa_bench.engine.stages import Chain
from sa_bench.engine.threads import one_thread
from sa_bench.results.files import SCHEMA, write_result
from sa_bench.results.provenance import command_line, provenance
from sa_bench.results.schema import ResultRow
from sa_bench.scoring import judges
from sa_bench.scoring.sampling import KEPT, plan_set


def measure_images(
    path: Path,
    task: Task,
    command: dict[str, Any],
    external: ExternalImages,
    out: Path | None,
    scores: Path | None,
    report: Callable[[str, str, int, int], None],
) -> ResultRow:
    """Measure the images that were read from `path`, and write the result into `out`, if it is given.

    Args:
        path: where the images lie.
        task: the task whose protocol is used.
        command: the entries of the result that say what was asked for.
        external: the images.
        out: folder for result.json and the scores of each image; None writes none.
        scores: a CSV file for what the judges say of each image; None writes none.
        report: called with progress.
    """
    with one_thread():
        return _measure_sets(path, task, command, external, out, scores, report)


def _measure_sets(
    path: Path,
    task: Task,
    command: dict[str, Any],
    external: ExternalImages,
    out: Path | None,
    scores: Path | None,
    report: Callable[[str, str, int, int], None],
) -> ResultRow:
    """Measure as `measure_images` does."""
    scale, overrides = command["scale"], command["overrides"]
    sets, files, joins = external.sets, external.files, external.joins
    code = registry.hash_plug_ins(
        [("task", task.name), *(("metric", name) for name in task.metrics)]
    )
    cell = Cell(task, "original", {}, 0, 0, scale, overrides, code)
    label = command.get("label", "external")
    chain = Chain(
        Store(store_folder()), cell, lambda stage, done, total: report(label, stage, done, total)
    )
    base = Subject(chain, base=True) if _base_is_cheap(chain) else None
    measurements, score_files = measure_all(chain, Subject(chain, sets=sets), base)
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
    if transparent_files := sum(map(images.is_transparent, files)):
        notes.append(
            f"transparent input: {transparent_files} of the files have an alpha channel or a transparent colour; what is "
            "transparent counts as white"
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
    if "label" in command:
        result["label"] = command["label"]
    if scores is not None:
        write_atomic(scores, format_scores(task, external, score_files).encode())
    if out is not None:
        for name, file in score_files.items():
            copy_atomic(file, out / "scores" / f"{name}.parquet")
        write_result(out, result)
    return result


def format_scores(task: Task, external: ExternalImages, score_files: Mapping[str, Path]) -> str:
    """Write what is said of each image as CSV.

    With judges: a row for each image and judge, with the class that the judge sees, its probability,
    and that of c_f. Without: a row for each image of c_f and score of the forgetting endpoint.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if not task.judges:
        writer.writerow(("set", "image", "score", "value"))
        writer.writerows(_list_endpoint_scores(task, external, score_files))
        return out.getvalue()
    writer.writerow(
        ("set", "image", "asked for", "judge", "class", "probability", "probability of c_f")
    )
    for name, sample_set in external.sets.items():
        for judge in map(judges.load, task.judges):
            probabilities = judge.probabilities(sample_set.images)
            for image, label, row in zip(
                external.names[name], sample_set.labels, probabilities, strict=True
            ):
                seen = int(row.argmax())
                asked = "" if label == KEPT else task.classes[label]
                writer.writerow(
                    (
                        *(name, image, asked, judge.name, task.classes[seen]),
                        *(f"{row[seen]:.6g}", f"{row[task.concept]:.6g}"),
                    )
                )
    return out.getvalue()


def _list_endpoint_scores(
    task: Task, external: ExternalImages, score_files: Mapping[str, Path]
) -> Iterator[tuple[str, str, str, float]]:
    """List (set, image, column, value) of the forgetting endpoint's score of each image of c_f."""
    file, names = score_files.get(task.primary[0]), external.names.get("forget", [])
    if file is None:
        return
    table = pyarrow.parquet.read_table(file).to_pydict()
    if len(table.get("index", ())) != len(names):  # it scores something else than the images
        return
    columns = [column for column in table if column not in ("index", "seed", "prompt", "label")]
    for i, image in zip(table["index"], names, strict=True):
        for column in columns:
            yield "forget", image, column, table[column][i]


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
