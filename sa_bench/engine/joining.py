"""Which row of a task each of a stranger's images was made for, and the list of rows that lets them be drawn elsewhere.

A row is told, in this order, by

1. `rows.csv` or `metadata.csv` in the set's folder, columns `file` (or `file_name`) and `row` or `seed`, perhaps `prompt`;
2. the files' names, if every name of the set has the same pattern: `seed` and a number (`seed_123.png`), a number alone
   (`00012.png`: the row, from 0 or from 1), or two numbers (`12_0.png`: the row and 0; the prompt and its image, from 0);
   numbers count only if they are exactly those of the set's rows;
3. else their count, where a prompt is asked for: by natural order within each class. This is said loudly.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sa_bench.contracts import Task
from sa_bench.core.errors import SaBenchError
from sa_bench.data import datasets
from sa_bench.data.prompts import parse_whole_number, read_table
from sa_bench.scoring.sampling import KEPT, PlannedImage, plan_set, set_names

TABLES = ("rows.csv", "metadata.csv")  # the latter is also what others call their own lists
FILE, KEYS = ("file", "file_name"), ("row", "seed")
COUNT, COUNTED = "count", "joined by count:"  # of a result's artifacts; what its flag begins with
SEED = re.compile(r"(?<![a-z])seed[ _=-]?(\d{1,19})(?!\d)")
COLUMNS = ("set", "row", "label", "class", "prompt", "seed", "guidance", "height", "width")
ADVICE = "Name the files as `show TASK --rows` numbers them, or list them in rows.csv."


class Joined(NamedTuple):
    """The row of every image, in the images' order, and how it was told."""

    rows: list[int]
    how: str
    table: Path | None = None  # the file that said so


def join(
    folder: Path, files: Sequence[Path], labels: Sequence[int], task: Task, name: str
) -> Joined | None:
    """The rows of the task's set `name` that the images in `folder` belong to; None: they belong to none.

    Args:
        folder: the set's.
        files: the images, in it or in a folder of their class.
        labels: the class of each, as their folders say.
        task: whose rows.
        name: `forget` or `retain`.

    Raises:
        SaBenchError: two files for one row, a row without a file, a seed that no row has, another class or prompt than
            the row's; names the file.
    """
    wanted = plan_set(task, name)
    told = _by_table(folder, files, labels, wanted, task, name) or _by_name(
        folder, files, labels, wanted, name
    )
    if told is None:
        return _by_count(labels, wanted, task)
    _require_all(folder, files, told.rows, wanted, name)
    for file, label, i in zip(files, labels, told.rows, strict=True):
        if wanted[i].label != label:
            raise SaBenchError(
                f"{file}: row {i} of {name} is of {task.classes[wanted[i].label]}, not of {task.classes[label]}."
            )
    return told


def format_rows(task: Task) -> str:
    """Every row of every set of the task as CSV, with the columns `COLUMNS`: what to draw, from which seed, how large."""
    height, width, _ = datasets.image_shape(task)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name in set_names(task):
        for i, row in enumerate(plan_set(task, name)):
            asked = row.request
            guidance = task.sampler.guidance if asked.guidance is None else asked.guidance
            prompt = "" if task.prompts is None else asked.condition
            called = "" if row.label == KEPT else task.classes[row.label]
            writer.writerow(
                (
                    name,
                    i,
                    row.label,
                    called,
                    prompt,
                    asked.seed,
                    float(guidance),
                    *(asked.size or (height, width)),
                )
            )
    return out.getvalue()


def _require_all(
    folder: Path,
    files: Sequence[Path],
    told: Sequence[int],
    wanted: Sequence[PlannedImage],
    name: str,
) -> None:
    first: dict[int, Path] = {}
    for file, i in zip(files, told, strict=True):
        if i in first:
            raise SaBenchError(f"{first[i]} and {file} are both row {i} of {name}. {ADVICE}")
        first[i] = file
    if lacking := [i for i in range(len(wanted)) if i not in first]:
        raise SaBenchError(
            f"{folder}: row {lacking[0]} of {name} (seed {wanted[lacking[0]].request.seed}) has no file"
            f"{f', nor have {len(lacking) - 1} more' if len(lacking) > 1 else ''}. {ADVICE}"
        )


def _by_table(
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    wanted: Sequence[PlannedImage],
    task: Task,
    name: str,
) -> Joined | None:
    for path in (folder / n for n in TABLES):
        if not path.is_file():
            continue
        header, lines = read_table(path)
        file = next((c for c in FILE if c in header), None)
        if file is None or not set(KEYS) & set(header):
            if path.name == TABLES[0]:
                raise SaBenchError(
                    f"{path} needs the columns `file` and `row` or `seed`; it has {', '.join(header)}."
                )
            continue
        said: dict[str, tuple[str, Mapping[str, str]]] = {}
        for number, line in enumerate(lines, 1):
            where = f"{path}, row {number}"
            if len(line) != len(header):
                raise SaBenchError(f"{where} has {len(line)} fields, the header {len(header)}.")
            fields = {key: value.strip() for key, value in zip(header, line, strict=True)}
            if fields.get("set", name) != name:  # one list for all sets
                continue
            if (known := Path(fields[file]).as_posix()) in said:
                raise SaBenchError(f"{where} names {known} again. Remove one line.")
            said[known] = where, fields
        found = []
        for image, label in zip(files, labels, strict=True):
            known = image.relative_to(folder).as_posix()
            if known not in said:
                raise SaBenchError(f"{image} is not in {path}. Add a line, or remove the image.")
            found.append(_describe_match(*said.pop(known), label, wanted, task, name))
        if said:
            where, fields = next(iter(said.values()))
            raise SaBenchError(f"{where} names {fields[file]}, which is no image in {folder}.")
        return Joined(found, path.name, path)
    return None


def _describe_match(
    where: str,
    fields: Mapping[str, str],
    label: int,
    wanted: Sequence[PlannedImage],
    task: Task,
    name: str,
) -> int:
    """The row that a line of a table names."""
    prompt = fields.get("prompt") or None
    if fields.get("row"):
        i = parse_whole_number(fields["row"])
        if not 0 <= i < len(wanted):
            raise SaBenchError(
                f"{where} names row {fields['row']} for {name}, which has the rows 0 to {len(wanted) - 1}."
            )
        seed = wanted[i].request.seed
        if fields.get("seed") and parse_whole_number(fields["seed"]) != seed:
            raise SaBenchError(
                f"{where}: row {i} of {name} has the seed {seed}, not {fields['seed']}."
            )
    else:
        i = _of_seed(where, fields.get("seed", ""), label, wanted, name, prompt)
    asked = str(wanted[i].request.condition).strip()
    if prompt is not None and task.prompts is not None and prompt != asked:
        raise SaBenchError(f"{where}: row {i} of {name} asks {asked!r}, not {prompt!r}.")
    return i


def _of_seed(
    where: str,
    text: str,
    label: int,
    wanted: Sequence[PlannedImage],
    name: str,
    prompt: str | None = None,
) -> int:
    """The row with a seed; among several the one of the class and prompt."""
    seed = parse_whole_number(text)
    found = [i for i, row in enumerate(wanted) if row.request.seed == seed]
    if not found:
        raise SaBenchError(
            f"{where} has the seed {text or 'nothing'}, which no row of {name} has. {ADVICE}"
        )
    tests: list[Callable[[PlannedImage], bool]] = [lambda row: row.label == label]
    if prompt is not None:
        tests.append(lambda row: str(row.request.condition).strip() == prompt)
    for fits in tests:
        if len(found) > 1:
            found = [i for i in found if fits(wanted[i])] or found
    if len(found) > 1:
        raise SaBenchError(
            f"{where}: the rows {found[0]} and {found[1]} of {name} share the seed {seed}; name the row instead. {ADVICE}"
        )
    return found[0]


def _by_name(
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    wanted: Sequence[PlannedImage],
    name: str,
) -> Joined | None:
    stems = [file.stem.lower() for file in files]
    seeds = [SEED.findall(stem) for stem in stems]
    if all(len(one) == 1 for one in seeds):
        told = [
            _of_seed(str(file), seed, label, wanted, name)
            for file, (seed,), label in zip(files, seeds, labels, strict=True)
        ]
        return Joined(told, "seed in the name")
    if len(files) != len(wanted):
        return None
    numbers = [re.fullmatch(r"(\d{1,18})(?:_(\d{1,18}))?", stem, re.ASCII) for stem in stems]
    keys = [tuple(int(part) for part in m.groups() if part is not None) for m in numbers if m]
    if len(keys) < len(files) or len({len(key) for key in keys}) > 1:
        return None
    for how, reading in _readings(wanted).items():
        if set(keys) == reading.keys():
            return Joined([reading[key] for key in keys], how)
    if len(keys[0]) == 1 and max(keys)[0] <= len(wanted):
        seen: dict[tuple[int, ...], Path] = {}
        for key, file in zip(keys, files, strict=True):
            if (other := seen.setdefault(key, file)) is not file and other.parent == file.parent:
                raise SaBenchError(
                    f"{other} and {file} are both number {key[0]} of {name}. {ADVICE}"
                )
        if len(seen) == len(files):
            raise SaBenchError(
                f"{seen[max(keys)]}: the names of {folder} are numbers up to {max(keys)[0]}, but neither all of 0 to "
                f"{len(wanted) - 1} nor all of 1 to {len(wanted)}, so a row has no file. {ADVICE}"
            )
    return None


def _readings(wanted: Sequence[PlannedImage]) -> dict[str, dict[tuple[int, ...], int]]:
    """By how names may be read: the row of each number, or pair of numbers, that a name may be."""
    found = {
        f"row number from {start}": {(i + start,): i for i in range(len(wanted))}
        for start in (0, 1)
    } | {
        f"row number from {start} and 0": {(i + start, 0): i for i in range(len(wanted))}
        for start in (0, 1)
    }
    pairs: dict[tuple[int, ...], int] = {}
    seen: dict[int, int] = {}
    for i, row in enumerate(wanted):
        k = seen[row.prompt] = seen.get(row.prompt, -1) + 1
        pairs[row.prompt, k] = i
    return found | {"prompt and image number from 0": pairs}


def _by_count(labels: Sequence[int], wanted: Sequence[PlannedImage], task: Task) -> Joined | None:
    """The k-th image of a class as the class's k-th row, where every class has as many; only where prompts ask."""
    if task.prompts is None or sorted(labels) != sorted(row.label for row in wanted):
        return None
    left = {
        label: [i for i, row in enumerate(wanted) if row.label == label] for label in set(labels)
    }
    return Joined([left[label].pop(0) for label in labels], COUNT)
