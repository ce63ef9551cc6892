"""The files of results: one result.json a cell, packed boards, bundles."""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.escaping import escape_terminal
from sa_bench.core.file_state import cached_by, read_state
from sa_bench.core.store import write_atomic
from sa_bench.core.untrusted_arrays import read_scores
from sa_bench.core.untrusted_text import read_json, read_packed
from sa_bench.results.bundles import BUNDLED, open_bundle
from sa_bench.results.schema import SCHEMA, Result
from sa_bench.results.sealing import EDITED, add_seal, find_edited

if TYPE_CHECKING:
    pass
from sa_bench.results.rows import UNITS, _plain, to_json

PACKED = ".jsonl.xz"
CLAIM = ".claim.lock"  # in a folder of results, while it is claimed


def write_result(folder: Path, row: Mapping[str, Any]) -> None:
    """Write `result.json` into `folder`, with the hashes of the files there and one over itself."""
    write_atomic(folder / "result.json", to_json(add_seal(_plain(row), folder)).encode())


def read_results(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Every result.json below `folders`, in a stable order; of a run folder, the cells of its last command.

    A packed file or a bundle stands for a folder; rows of a bundle say their `origin`.

    Raises:
        SaBenchError: no results there, an unreadable file, or one of a newer schema.
    """
    rows: list[dict[str, Any]] = []
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
            rows.append(_describe_error(row, path.parent) | {"folder": str(path.parent)})
    return rows


def _describe_error(row: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`row`; one that was edited since it was written stands apart from others by its `origin`, and that is said."""
    if not (what := find_edited(row, folder)):
        return row
    where = (
        f"{folder}: {what}" if folder else f"{row['method']} on {row['task']}, cell {row['cell']}"
    )
    print(escape_terminal(f"note: {where} was {EDITED}; it stands apart."), file=sys.stderr)
    return row | {"origin": EDITED}


def _read_row(path: Path, row: Any) -> dict[str, Any]:
    """`row`, once it has everything that a result has.

    Raises:
        SaBenchError: one of a newer schema.
        ValueError, KeyError, TypeError: it is no result.
    """
    if int(row["schema"]) > SCHEMA:
        raise SaBenchError(
            f"{path} has schema {row['schema']}; this sa_bench reads {SCHEMA}. Upgrade it."
        )
    try:
        Result.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return row


def pack_results(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Results as one compressed file of JSON lines, each with its three endpoints' per-image scores.

    Of a text-to-image task the seed and the prompt of each image stand beside them, under `units`.
    """
    lines = []
    for row in rows:
        primary = [m["name"] for m in row["measurements"] if m["role"] == "primary"]
        found = {name: columns for name in primary if (columns := read_columns_of(row, name))}
        scores = {name: columns["score"].tolist() for name, columns in found.items()}
        units = (
            {
                name: {k: columns[k].tolist() for k in UNITS}
                for name, columns in found.items()
                if set(UNITS) <= set(columns)
            }
            if row["task_values"].get("prompts")
            else {}
        )
        line = {k: v for k, v in row.items() if k != "folder"} | {"scores": scores}
        lines.append(add_seal(_plain(line | ({"units": units} if units else {}))))
    return lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), preset=9)


def unpack_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file that `packed` made; they have no run folder, hence no images.

    Raises:
        SaBenchError: it is not there, damaged, or of a newer schema.
    """
    try:
        found = [
            _describe_error(_score_tables(_read_row(path, row))) | {"folder": ""}
            for row in read_packed(path)
        ]
        if not found:
            raise ValueError("it holds no result")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SaBenchError(
            f"{path} is no packed results ({first_line(error)}). Make it again: python -m sa_bench pack RUN FILE."
        ) from error
    return found


def _score_tables(row: dict[str, Any]) -> dict[str, Any]:
    """`row`, once the scores in it are numbers, as many as their seeds and prompts.

    Raises:
        ValueError, TypeError, AttributeError: they are not.
    """
    scores, units = row["scores"], row.get("units", {})
    if not isinstance(scores, dict) or not isinstance(units, dict):
        raise TypeError("its scores are no table by metric")
    for name, column in scores.items():
        if not isinstance(column, list) or np.array(column, float).ndim != 1:
            raise ValueError(f"the scores of {name} are no list of numbers")
        beside = units.get(name, {})
        if beside and (
            set(beside) != set(UNITS) or any(len(v) != len(column) for v in beside.values())
        ):
            raise ValueError(f"the seeds and prompts of {name} are not as many as its scores")
        _whole(beside)
    return row


def _result_files(folder: Path) -> list[Path]:
    manifests = sorted(folder.glob("**/run.json"))
    found = {p for p in folder.glob("**/result.json")}
    for manifest in manifests:
        try:
            listed = set(read_json(manifest)["cells"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SaBenchError(
                f"{manifest} is damaged ({error}). Run the command again with --overwrite."
            ) from error
        found -= {
            p for p in found if p.parent.parent == manifest.parent and p.parent.name not in listed
        }
    return sorted(found)


def read_scores_of(row: Mapping[str, Any], name: str) -> np.ndarray | None:
    """The per-image scores of a result's measurement, from its run folder or a packed file; None if not at hand."""
    return read_columns_of(row, name).get("score")


def read_columns_of(row: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """`score` (N,) of each image with its `seed` and the number of its `prompt` where they are known; {}: not at hand.

    Recovery's images are asked for like the first of c_f's, from the same seeds, so that their prompts are known by them.
    """
    if "scores" in row:
        score = row["scores"].get(name)
        units = row.get("units", {}).get(name, {})
        return {} if score is None else {"score": np.array(score, float)} | _whole(units)
    folder = str(row.get("folder", ""))
    found = dict(_read_stored(folder, name))
    if "seed" in found and "prompt" not in found and row["task_values"].get("prompts"):
        asked = _read_stored(folder, row["task_values"]["primary"][0])
        if set(UNITS) <= set(asked):
            number = dict(zip(asked["seed"].tolist(), asked["prompt"].tolist(), strict=True))
            if all(seed in number for seed in found["seed"].tolist()):
                found["prompt"] = np.array(
                    [number[seed] for seed in found["seed"].tolist()], np.int64
                )
    return found


def _whole(units: Mapping[str, Iterable[int]]) -> dict[str, np.ndarray]:
    return {k: np.array(list(v), np.int64) for k, v in units.items()}


def _scores_file(folder: str, name: str) -> Path:
    return Path(folder) / "scores" / f"{name}.parquet"


@cached_by(lambda folder, name: read_state(_scores_file(folder, name)), maxsize=4096)
def _read_stored(folder: str, name: str) -> Mapping[str, np.ndarray]:
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
