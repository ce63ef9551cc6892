"""Read and write files of results: one result.json a cell, packed boards, bundles."""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.escaping import escape_terminal
from sa_bench.core.file_state import cached_by, read_state
from sa_bench.core.store import write_atomic
from sa_bench.core.untrusted_arrays import read_scores
from sa_bench.core.untrusted_text import read_json, read_object, read_packed
from sa_bench.results.bundles import BUNDLED, open_bundle
from sa_bench.results.rows import UNITS, _plain, to_json
from sa_bench.results.schema import SCHEMA, CheckedResult, ResultRow
from sa_bench.results.sealing import EDITED, add_seal, find_edited

PACKED = ".jsonl.xz"
CLAIM = ".claim.lock"  # lies in a folder of results while a process writes there


def write_result(folder: Path, row: ResultRow) -> None:
    """Write `result.json` into `folder`, with the hashes of the files beside it and of itself."""
    write_atomic(folder / "result.json", to_json(add_seal(_plain(row), folder)).encode())


def read_cell(cell: Path) -> tuple[ResultRow, Path]:
    """Read the result of one cell from its folder or its `result.json`; also returns the file.

    Raises:
        SaBenchError: it is neither, or the file is not what `run` writes.
    """
    path = cell / "result.json" if cell.is_dir() else cell
    where = "give a cell's folder as `run` made it, runs/RUN/CELL."
    if path.name.endswith((PACKED, BUNDLED)):
        raise SaBenchError(f"{cell} holds the results of many cells: {where}")
    if not path.is_file():
        held = "holds no result.json" if cell.is_dir() else "is no file and no folder"
        raise SaBenchError(f"{cell} {held}: {where}")
    try:
        return cast(ResultRow, read_object(path)), path
    except (OSError, ValueError) as error:
        raise SaBenchError(f"{path} is not what `run` writes ({error}): {where}") from error


def read_results(folders: Iterable[Path]) -> list[ResultRow]:
    """Read every result.json below `folders`, in a stable order.

    From a run folder, only the cells of its last command are read. A packed file or a bundle may
    stand
    in for a folder; rows of a bundle carry their `origin`.

    Raises:
        SaBenchError: a folder holds no results, or a file is unreadable or of a newer schema.
    """
    rows: list[ResultRow] = []
    for folder in folders:
        if folder.name.endswith(PACKED):
            rows += unpack_results(folder)
            continue
        if folder.name.endswith(BUNDLED):
            rows += open_bundle(folder).rows()
            continue
        paths = _result_files(folder)
        if not paths:
            raise SaBenchError(
                f"{folder} holds no result.json. Make some: python -m sa_bench run --help."
            )
        for path in paths:
            try:
                row = _read_row(path, read_json(path))
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise SaBenchError(
                    f"{path} is not a result file ({first_line(error)}). Delete it and run again."
                ) from error
            rows.append({**_describe_error(row, path.parent), "folder": str(path.parent)})
    return rows


def _describe_error(row: ResultRow, folder: Path | None = None) -> ResultRow:
    """Give a row that was edited since it was written the `origin` "edited", and print a note."""
    edited_file = find_edited(row, folder)
    if not edited_file:
        return row
    where = f"{row['method']} on {row['task']}, cell {row['cell']}"
    if folder:
        where = f"{folder}: {edited_file}"
    print(
        escape_terminal(f"note: {where} was {EDITED}; it is listed apart from other results."),
        file=sys.stderr,
    )
    return {**row, "origin": EDITED}


def _read_row(path: Path, row: Any) -> ResultRow:
    """Validate a result row and return it.

    Raises:
        SaBenchError: the row has a newer schema.
        ValueError, KeyError, TypeError: it is no result.
    """
    if int(row["schema"]) > SCHEMA:
        raise SaBenchError(
            f"{path} has schema {row['schema']}; this sa_bench reads {SCHEMA}. Upgrade it."
        )
    try:
        CheckedResult.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return cast(ResultRow, row)


def pack_results(rows: Iterable[ResultRow]) -> bytes:
    """Pack results, with the per-image scores of their endpoints, into compressed JSON lines.

    For a text-to-image task each line also holds the seed and the prompt number of every score, as
    `units`.
    """
    lines = []
    for row in rows:
        primary = [m["name"] for m in row["measurements"] if m["role"] == "primary"]
        columns_of = {name: read_columns_of(row, name) for name in primary}
        columns_of = {name: columns for name, columns in columns_of.items() if columns}
        scores = {name: columns["score"].tolist() for name, columns in columns_of.items()}
        units = {}
        if row["task_values"].get("prompts"):
            for name, columns in columns_of.items():
                if set(UNITS) <= set(columns):
                    units[name] = {k: columns[k].tolist() for k in UNITS}
        line = {k: v for k, v in row.items() if k != "folder"} | {"scores": scores}
        lines.append(add_seal(_plain(line | ({"units": units} if units else {}))))
    return lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), preset=9)


def unpack_results(path: Path) -> list[ResultRow]:
    """Read the results of a file that `pack_results` made.

    They have no run folder, hence no images.

    Raises:
        SaBenchError: the file is absent, damaged, or of a newer schema.
    """
    results: list[ResultRow] = []
    try:
        for values in read_packed(path):
            row = _read_row(path, values)
            _require_score_tables(values)
            results.append({**_describe_error(row), "folder": ""})
        if not results:
            raise ValueError("it holds no result")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SaBenchError(
            f"{path} is no packed results ({first_line(error)}). Make it again: python -m sa_bench pack RUN FILE."
        ) from error
    return results


def _require_score_tables(row: Mapping[str, Any]) -> None:
    """Require that a row's scores are numbers with as many seeds and prompts.

    Raises:
        ValueError, TypeError, AttributeError: the scores, seeds or prompts are of another form.
    """
    scores, units = row["scores"], row.get("units", {})
    if not isinstance(scores, dict) or not isinstance(units, dict):
        raise TypeError("its scores are no table by metric")
    for name, column in scores.items():
        if not isinstance(column, list) or np.array(column, float).ndim != 1:
            raise ValueError(f"the scores of {name} are no list of numbers")
        units_of_metric = units.get(name, {})
        if units_of_metric and (
            set(units_of_metric) != set(UNITS)
            or any(len(v) != len(column) for v in units_of_metric.values())
        ):
            raise ValueError(f"the seeds and prompts of {name} are not as many as its scores")
        _to_integers(units_of_metric)


def _result_files(folder: Path) -> list[Path]:
    """List the result.json files below `folder`, without cells that a run's last command left out.

    Raises:
        SaBenchError: a run.json is damaged.
    """
    manifests = sorted(folder.glob("**/run.json"))
    result_files = set(folder.glob("**/result.json"))
    for manifest in manifests:
        try:
            cells = set(read_json(manifest)["cells"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SaBenchError(
                f"{manifest} is damaged ({error}). Run the command again with --overwrite."
            ) from error
        result_files -= {
            path
            for path in result_files
            if path.parent.parent == manifest.parent and path.parent.name not in cells
        }
    return sorted(result_files)


def read_columns_of(row: ResultRow, name: str) -> dict[str, np.ndarray]:
    """Read the per-image columns of a measurement: `score` and, if stored, `seed` and `prompt`.

    Recovery draws its images from the same prompts and seeds as the first images of c_f. Its prompt
    numbers are therefore looked up by seed in the forgetting endpoint's table.

    Returns:
        Arrays (N,) by column name; {} if no scores are stored here.
    """
    if "scores" in row:
        score = row["scores"].get(name)
        units = row.get("units", {}).get(name, {})
        return {} if score is None else {"score": np.array(score, float)} | _to_integers(units)
    folder = str(row.get("folder", ""))
    columns = dict(_read_stored(folder, name))
    if "seed" in columns and "prompt" not in columns and row["task_values"].get("prompts"):
        forgetting = _read_stored(folder, row["task_values"]["primary"][0])
        if set(UNITS) <= set(forgetting):
            seeds = columns["seed"].tolist()
            prompt_of_seed = dict(
                zip(forgetting["seed"].tolist(), forgetting["prompt"].tolist(), strict=True)
            )
            if all(seed in prompt_of_seed for seed in seeds):
                columns["prompt"] = np.array([prompt_of_seed[seed] for seed in seeds], np.int64)
    return columns


def _to_integers(units: Mapping[str, Iterable[int]]) -> dict[str, np.ndarray]:
    """Turn seeds and prompt numbers into integer arrays."""
    return {k: np.array(list(v), np.int64) for k, v in units.items()}


def _scores_file(folder: str, name: str) -> Path:
    return Path(folder) / "scores" / f"{name}.parquet"


@cached_by(lambda folder, name: read_state(_scores_file(folder, name)), maxsize=4096)
def _read_stored(folder: str, name: str) -> Mapping[str, np.ndarray]:
    """Read the scores file of a measurement; {} if there is none.

    Raises:
        SaBenchError: the file is damaged.
    """
    path = _scores_file(folder, name)
    if not folder or not path.is_file():
        return {}
    try:
        frame = read_scores(path)
        if "score" not in frame:
            return {}
        return {"score": frame["score"].to_numpy(float)} | {
            k: frame[k].to_numpy(np.int64) for k in UNITS if k in frame
        }
    except (OSError, ValueError, TypeError) as error:
        raise SaBenchError(
            f"{path} is no table of scores ({first_line(error)}). Delete its cell's folder and run the command again."
        ) from error
