"""Match each image from elsewhere to its row of a task's sample set.

Print the rows for other programs.

The row of each image is determined, in this order, by

1. `rows.csv` or `metadata.csv` in the set's folder, with the columns `file` (or `file_name`), `row`
   or `seed`, and perhaps `prompt`;
2. the files' names, if every name of the set has the same pattern: `seed` and a number
   (`seed_123.png`), a number alone (`00012.png`: the row, from 0 or from 1), or two numbers
   (`12_0.png`: the row and 0, or the prompt and its image, from 0); numbers count only if they are
   exactly those of the set's rows;
3. otherwise their order, for text-to-image tasks alone: the k-th image of a class in natural order
   is the class's k-th row. The result carries a flag that says so.
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
from sa_bench.scoring.sampling import KEPT, UNPROMPTED, PlannedImage, plan_set, set_names

TABLES = ("rows.csv", "metadata.csv")  # metadata.csv may also be a list of another kind
FILE, KEYS = ("file", "file_name"), ("row", "seed")
COUNT = "count"  # stored in a result's artifacts
COUNTED = "joined by count:"  # beginning of the result's flag
SEED = re.compile(r"(?<![a-z])seed[ _=-]?(\d{1,19})(?!\d)")
COLUMNS = ("set", "row", "label", "class", "prompt", "seed", "guidance", "height", "width")
ADVICE = "Name the files as `show TASK --rows` numbers them, or list them in rows.csv."


class Joined(NamedTuple):
    """The row of every image, in the images' order, and how it was determined."""

    rows: list[int]
    how: str
    table: Path | None = None  # the table that named the rows, if there is one


def join(
    folder: Path, files: Sequence[Path], labels: Sequence[int], task: Task, name: str
) -> Joined | None:
    """Match the images in `folder` to the rows of the task's set `name`.

    Args:
        folder: the set's folder.
        files: the images, in the folder or in a folder of their class.
        labels: the class of each image, taken from its folder.
        task: the task whose rows they are.
        name: `forget` or `retain`.

    Returns:
        The row of every image; None if the images belong to no rows.

    Raises:
        SaBenchError: two files for one row, a row without a file, a seed that no row has, or a
            class or prompt that is not the row's; names the file.
    """
    planned_images = plan_set(task, name)
    joined = _join_by_table(folder, files, labels, planned_images, name)
    joined = joined or _join_by_name(folder, files, labels, planned_images, name)
    if joined is None:
        return _join_by_count(labels, planned_images)
    _require_all(folder, files, joined.rows, planned_images, name)
    for file, label, i in zip(files, labels, joined.rows, strict=True):
        if planned_images[i].label != label:
            raise SaBenchError(
                f"{file}: row {i} of {name} is of {task.classes[planned_images[i].label]}, not of {task.classes[label]}."
            )
    return joined


def format_rows(task: Task) -> str:
    """Format every row of every set of the task as CSV with the columns `COLUMNS`.

    A row says what to draw, from which seed, with which guidance and how large.
    """
    height, width, _ = datasets.image_shape(task)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name in set_names(task):
        for i, row in enumerate(plan_set(task, name)):
            request = row.request
            guidance = task.sampler.guidance if request.guidance is None else request.guidance
            prompt = "" if row.prompt == UNPROMPTED else request.condition
            class_name = "" if row.label == KEPT else task.classes[row.label]
            writer.writerow(
                (
                    name,
                    i,
                    row.label,
                    class_name,
                    prompt,
                    request.seed,
                    float(guidance),
                    *(request.size or (height, width)),
                )
            )
    return out.getvalue()


def _require_all(
    folder: Path,
    files: Sequence[Path],
    rows: Sequence[int],
    planned_images: Sequence[PlannedImage],
    name: str,
) -> None:
    """Refuse two files for one row, and a row without a file."""
    file_of_row: dict[int, Path] = {}
    for file, i in zip(files, rows, strict=True):
        if i in file_of_row:
            raise SaBenchError(f"{file_of_row[i]} and {file} are both row {i} of {name}. {ADVICE}")
        file_of_row[i] = file
    if missing_rows := [i for i in range(len(planned_images)) if i not in file_of_row]:
        raise SaBenchError(
            f"{folder}: row {missing_rows[0]} of {name} (seed {planned_images[missing_rows[0]].request.seed}) has no file"
            f"{f', nor have {len(missing_rows) - 1} more' if len(missing_rows) > 1 else ''}. {ADVICE}"
        )


def _join_by_table(
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    planned_images: Sequence[PlannedImage],
    name: str,
) -> Joined | None:
    """Match the images by `rows.csv` or `metadata.csv`; None if the folder has neither."""
    for path in (folder / n for n in TABLES):
        if not path.is_file():
            continue
        header, lines = read_table(path)
        file_column = next((c for c in FILE if c in header), None)
        if file_column is None or not set(KEYS) & set(header):
            if path.name == TABLES[0]:
                raise SaBenchError(
                    f"{path} needs the columns `file` and `row` or `seed`; it has {', '.join(header)}."
                )
            continue
        line_of_file: dict[str, tuple[str, Mapping[str, str]]] = {}
        for line_number, line in enumerate(lines, 1):
            where = f"{path}, row {line_number}"
            if len(line) != len(header):
                raise SaBenchError(f"{where} has {len(line)} fields, the header {len(header)}.")
            fields = {key: value.strip() for key, value in zip(header, line, strict=True)}
            if fields.get("set", name) != name:  # one list for all sets
                continue
            listed_file = Path(fields[file_column]).as_posix()
            if listed_file in line_of_file:
                raise SaBenchError(f"{where} names {listed_file} again. Remove one line.")
            line_of_file[listed_file] = where, fields
        rows = []
        for image, label in zip(files, labels, strict=True):
            image_name = image.relative_to(folder).as_posix()
            if image_name not in line_of_file:
                raise SaBenchError(f"{image} is not in {path}. Add a line, or remove the image.")
            where, fields = line_of_file.pop(image_name)
            rows.append(_find_row_of_line(where, fields, label, planned_images, name))
        if line_of_file:
            where, fields = next(iter(line_of_file.values()))
            raise SaBenchError(
                f"{where} names {fields[file_column]}, which is no image in {folder}."
            )
        return Joined(rows, path.name, path)
    return None


def _find_row_of_line(
    where: str,
    fields: Mapping[str, str],
    label: int,
    planned_images: Sequence[PlannedImage],
    name: str,
) -> int:
    """Find the row that a line of a table names, and check the line's seed and prompt against it.

    Raises:
        SaBenchError: no row fits, several do, or the line contradicts its row.
    """
    prompt = fields.get("prompt") or None
    if fields.get("row"):
        i = parse_whole_number(fields["row"])
        if not 0 <= i < len(planned_images):
            raise SaBenchError(
                f"{where} names row {fields['row']} for {name}, which has the rows 0 to {len(planned_images) - 1}."
            )
        seed = planned_images[i].request.seed
        if fields.get("seed") and parse_whole_number(fields["seed"]) != seed:
            raise SaBenchError(
                f"{where}: row {i} of {name} has the seed {seed}, not {fields['seed']}."
            )
    else:
        i = _find_row_of_seed(where, fields.get("seed", ""), label, planned_images, name, prompt)
    prompt_of_row = str(planned_images[i].request.condition).strip()
    is_prompted = planned_images[i].prompt != UNPROMPTED
    if prompt is not None and is_prompted and prompt != prompt_of_row:
        raise SaBenchError(f"{where}: row {i} of {name} asks {prompt_of_row!r}, not {prompt!r}.")
    return i


def _find_row_of_seed(
    where: str,
    seed_text: str,
    label: int,
    planned_images: Sequence[PlannedImage],
    name: str,
    prompt: str | None = None,
) -> int:
    """Find the row that has a seed; among several, the one of the same class and prompt.

    Raises:
        SaBenchError: no row has the seed, or several rows remain.
    """
    seed = parse_whole_number(seed_text)
    rows = [i for i, row in enumerate(planned_images) if row.request.seed == seed]
    if not rows:
        raise SaBenchError(
            f"{where} has the seed {seed_text or 'nothing'}, which no row of {name} has. {ADVICE}"
        )
    conditions: list[Callable[[PlannedImage], bool]] = [lambda row: row.label == label]
    if prompt is not None:
        conditions.append(lambda row: str(row.request.condition).strip() == prompt)
    for fits in conditions:
        if len(rows) > 1:
            rows = [i for i in rows if fits(planned_images[i])] or rows
    if len(rows) > 1:
        raise SaBenchError(
            f"{where}: the rows {rows[0]} and {rows[1]} of {name} share the seed {seed}; name the row instead. {ADVICE}"
        )
    return rows[0]


def _join_by_name(
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    planned_images: Sequence[PlannedImage],
    name: str,
) -> Joined | None:
    """Match the images by the numbers in their names; None if the names have no common pattern."""
    stems = [file.stem.lower() for file in files]
    seeds = [SEED.findall(stem) for stem in stems]
    if all(len(seeds_of_name) == 1 for seeds_of_name in seeds):
        rows = [
            _find_row_of_seed(str(file), seed, label, planned_images, name)
            for file, (seed,), label in zip(files, seeds, labels, strict=True)
        ]
        return Joined(rows, "seed in the name")
    if len(files) != len(planned_images):
        return None
    numbers = [re.fullmatch(r"(\d{1,18})(?:_(\d{1,18}))?", stem, re.ASCII) for stem in stems]
    keys = [tuple(int(part) for part in m.groups() if part is not None) for m in numbers if m]
    if len(keys) < len(files) or len({len(key) for key in keys}) > 1:
        return None
    for how, reading in _list_readings(planned_images).items():
        if set(keys) == reading.keys():
            return Joined([reading[key] for key in keys], how)
    if len(keys[0]) == 1 and max(keys)[0] <= len(planned_images):
        file_of_key: dict[tuple[int, ...], Path] = {}
        for key, file in zip(keys, files, strict=True):
            other = file_of_key.setdefault(key, file)
            if other is not file and other.parent == file.parent:
                raise SaBenchError(
                    f"{other} and {file} are both number {key[0]} of {name}. {ADVICE}"
                )
        if len(file_of_key) == len(files):
            raise SaBenchError(
                f"{file_of_key[max(keys)]}: the names of {folder} are numbers up to {max(keys)[0]}, but neither all of 0 to "
                f"{len(planned_images) - 1} nor all of 1 to {len(planned_images)}, so a row has no file. {ADVICE}"
            )
    return None


def _list_readings(planned_images: Sequence[PlannedImage]) -> dict[str, dict[tuple[int, ...], int]]:
    """List the ways to read the numbers in names: the row of every number or pair of numbers."""
    readings: dict[str, dict[tuple[int, ...], int]] = {}
    for start in (0, 1):
        readings[f"row number from {start}"] = {(i + start,): i for i in range(len(planned_images))}
    for start in (0, 1):
        readings[f"row number from {start} and 0"] = {
            (i + start, 0): i for i in range(len(planned_images))
        }
    pairs = readings["prompt and image number from 0"] = {}
    images_of_prompt: dict[int, int] = {}
    for i, row in enumerate(planned_images):
        k = images_of_prompt[row.prompt] = images_of_prompt.get(row.prompt, -1) + 1
        pairs[row.prompt, k] = i
    return readings


def _join_by_count(labels: Sequence[int], planned_images: Sequence[PlannedImage]) -> Joined | None:
    """Match the k-th image of a class to the class's k-th row; None if the counts differ.

    Only for text-to-image tasks; for others the order of images carries no meaning.
    """
    is_prompted = all(row.prompt != UNPROMPTED for row in planned_images)
    if not is_prompted or sorted(labels) != sorted(row.label for row in planned_images):
        return None
    rows_left = {
        label: [i for i, row in enumerate(planned_images) if row.label == label]
        for label in set(labels)
    }
    return Joined([rows_left[label].pop(0) for label in labels], COUNT)
