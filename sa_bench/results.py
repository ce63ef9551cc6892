"""Result rows: one result.json a cell, and what is read back from them."""

from __future__ import annotations

import contextlib
import json
import lzma
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from sa_bench.bundles import BUNDLED, opened
from sa_bench.errors import SaBenchError, first_line
from sa_bench.escaping import terminal
from sa_bench.file_state import cached_by, state
from sa_bench.foreign import SCHEMA, Result
from sa_bench.sealing import EDITED, edited, sealed
from sa_bench.store import replacing, write_atomic
from sa_bench.untrusted import read_json, read_packed
from sa_bench.untrusted_arrays import read_scores
from sa_bench.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from sa_bench.statistics import Measured

PLACES = ("--out", "--without")
PACKED = ".jsonl.xz"
CLAIM = ".claim.lock"  # in a folder of results, while it is claimed
UNITS = ("seed", "prompt")  # columns that say which image a score is of
FIELDS = ("value", "low", "high", "interval", "n", "n_unit", "judges", "extra", "reason")


def write_result(folder: Path, row: Mapping[str, Any]) -> None:
    """Write `result.json` into `folder`, with the hashes of the files there and one over itself."""
    write_atomic(folder / "result.json", to_json(sealed(_plain(row), folder)).encode())


def to_json(value: Any) -> str:
    """JSON whose floats read back the same; NaN and infinity become null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_measured(folder: Path, measured: Measured) -> None:
    """Write `measurement.json` and, if there are per-sample scores, `scores.parquet`."""
    import pandas as pd

    facts = {k: v for k, v in asdict(measured).items() if k != "scores"}
    write_atomic(folder / "measurement.json", to_json(facts).encode())
    if measured.scores:
        frame = pd.DataFrame(dict(measured.scores))
        frame.insert(0, "index", np.arange(len(frame)))
        with replacing(folder / "scores.parquet") as file:
            frame.to_parquet(file, index=False)


def read_measured(folder: Path) -> tuple[dict[str, Any], Path | None]:
    """What `write_measured` wrote."""
    scores = folder / "scores.parquet"
    return read_json(folder / "measurement.json"), scores if scores.exists() else None


def measurement_row(
    name: str, role: str, declared: Mapping[str, Any], measured: Mapping[str, Any],
    base: Mapping[str, Any] | None, fingerprint: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One entry of result.json's `measurements`."""
    row: dict[str, Any] = {"name": name, "role": role, "title": declared["title"]}
    row |= {key: measured.get(key) for key in FIELDS}
    row |= {"unit": declared["unit"], "better": declared["better"], "source": declared["source"]}
    row |= {"base": base.get("value") if base else None, "fingerprint": dict(fingerprint), "ledger": None}
    if row["value"] is None and not row["reason"]:
        row["reason"] = "the value is not finite"
    return row


def code_of(row: Mapping[str, Any]) -> str:
    """The sha256 of the code of a result's method where it was a plug-in; "": a method of sa_bench."""
    plug_in = (row["provenance"].get("plug_ins") or {}).get(f"method {row['method']}") or {}
    return str(plug_in.get("sha256", ""))


def metric_of(measurement: Mapping[str, Any]) -> str:
    """The metric behind a measurement by its registered name: `inception_fid` of `fid[inception-v3-compat]`."""
    return measurement["fingerprint"].get("metric", measurement["name"]).partition("[")[0]


PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pandas")
OPTIONAL = ("diffusers", "transformers", "safetensors", "nudenet", "facenet-pytorch", "onnxruntime")


def provenance(command: str, assets: Mapping[str, str], device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and assets behind a result; the GPU's name where it was made on one."""
    versions = {"sa_bench": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions |= {name: "absent"} if name in PACKAGES else {}
    hardware = {"machine": platform.machine(), "system": platform.system(), "cpu": _cpu()}
    if device.startswith("cuda"):
        import torch

        with contextlib.suppress(
            RuntimeError, AssertionError
        ):  # a failed cell's device may not answer any more
            hardware["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": command,
        "versions": versions,
        "hardware": hardware,
        "assets": dict(assets),
    }


def made_here(row: Mapping[str, Any], device: str) -> bool:
    """Whether a result was made with these versions on this machine; what it does not name counts as the same."""
    told, here = row["provenance"], provenance("", {}, device)
    devices = {cost.get("device", "cpu") for cost in row["cost"].values()}
    return devices <= {device} and all(
        here[part].get(key) == value for part in ("versions", "hardware") for key, value in told[part].items()
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="ignore").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def read_results(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Every result.json below `folders`, in a stable order; of a run folder, the cells of its last command.

    A packed file or a bundle stands for a folder; rows of a bundle say their `origin`.

    Raises:
        SaBenchError: no results there, an unreadable file, or one of a newer schema.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        if folder.name.endswith(PACKED):
            rows += unpacked(folder)
            continue
        if folder.name.endswith(BUNDLED):
            rows += opened(folder).rows()
            continue
        paths = _result_files(folder)
        if not paths:
            raise SaBenchError(f"{folder} holds no result.json. Make some: python -m sa_bench run --help.")
        for path in paths:
            try:
                row = _readable(path, read_json(path))
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise SaBenchError(
                    f"{path} is not a result file ({first_line(error)}). Delete it and run again."
                ) from error
            rows.append(_told(row, path.parent) | {"folder": str(path.parent)})
    return rows


def _told(row: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`row`; one that was edited since it was written stands apart from others by its `origin`, and that is said."""
    if not (what := edited(row, folder)):
        return row
    where = f"{folder}: {what}" if folder else f"{row['method']} on {row['task']}, cell {row['cell']}"
    print(terminal(f"note: {where} was {EDITED}; it stands apart."), file=sys.stderr)
    return row | {"origin": EDITED}


def _readable(path: Path, row: Any) -> dict[str, Any]:
    """`row`, once it has everything that a result has.

    Raises:
        SaBenchError: one of a newer schema.
        ValueError, KeyError, TypeError: it is no result.
    """
    if int(row["schema"]) > SCHEMA:
        raise SaBenchError(f"{path} has schema {row['schema']}; this sa_bench reads {SCHEMA}. Upgrade it.")
    try:
        Result.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return row


def packed(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Results as one compressed file of JSON lines, each with its three endpoints' per-image scores.

    Of a text-to-image task the seed and the prompt of each image stand beside them, under `units`.
    """
    lines = []
    for row in rows:
        primary = [m["name"] for m in row["measurements"] if m["role"] == "primary"]
        found = {name: columns for name in primary if (columns := columns_of(row, name))}
        scores = {name: columns["score"].tolist() for name, columns in found.items()}
        units = {
            name: {k: columns[k].tolist() for k in UNITS} for name, columns in found.items() if set(UNITS) <= set(columns)
        } if row["task_values"].get("prompts") else {}  # fmt: skip
        line = {k: v for k, v in row.items() if k != "folder"} | {"scores": scores}
        lines.append(sealed(_plain(line | ({"units": units} if units else {}))))
    return lzma.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), preset=9)


def unpacked(path: Path) -> list[dict[str, Any]]:
    """The results in a file that `packed` made; they have no run folder, hence no images.

    Raises:
        SaBenchError: it is not there, damaged, or of a newer schema.
    """
    try:
        found = [_told(_scored(_readable(path, row))) | {"folder": ""} for row in read_packed(path)]
        if not found:
            raise ValueError("it holds no result")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SaBenchError(
            f"{path} is no packed results ({first_line(error)}). Make it again: python -m sa_bench pack RUN FILE."
        ) from error
    return found


def _scored(row: dict[str, Any]) -> dict[str, Any]:
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
        if beside and (set(beside) != set(UNITS) or any(len(v) != len(column) for v in beside.values())):
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
        found -= {p for p in found if p.parent.parent == manifest.parent and p.parent.name not in listed}
    return sorted(found)


def scores_of(row: Mapping[str, Any], name: str) -> np.ndarray | None:
    """The per-image scores of a result's measurement, from its run folder or a packed file; None if not at hand."""
    return columns_of(row, name).get("score")


def columns_of(row: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """`score` (N,) of each image with its `seed` and the number of its `prompt` where they are known; {}: not at hand.

    Recovery's images are asked for like the first of c_f's, from the same seeds, so that their prompts are known by them.
    """
    if "scores" in row:
        score = row["scores"].get(name)
        units = row.get("units", {}).get(name, {})
        return {} if score is None else {"score": np.array(score, float)} | _whole(units)
    folder = str(row.get("folder", ""))
    found = dict(_stored(folder, name))
    if "seed" in found and "prompt" not in found and row["task_values"].get("prompts"):
        asked = _stored(folder, row["task_values"]["primary"][0])
        if set(UNITS) <= set(asked):
            number = dict(zip(asked["seed"].tolist(), asked["prompt"].tolist(), strict=True))
            if all(seed in number for seed in found["seed"].tolist()):
                found["prompt"] = np.array([number[seed] for seed in found["seed"].tolist()], np.int64)
    return found


def _whole(units: Mapping[str, Iterable[int]]) -> dict[str, np.ndarray]:
    return {k: np.array(list(v), np.int64) for k, v in units.items()}


def _scores_file(folder: str, name: str) -> Path:
    return Path(folder) / "scores" / f"{name}.parquet"


@cached_by(lambda folder, name: state(_scores_file(folder, name)), maxsize=4096)
def _stored(folder: str, name: str) -> Mapping[str, np.ndarray]:
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


def load_results(*folders: str | Path) -> pd.DataFrame:
    """All measurements below `folders` as a table, one row a measurement.

    Columns: task, method, scale, base_seed, seed, control, status, then the measurement's name, role,
    value, low, high, interval, n, n_unit, unit, better, base, reason; `fields`, `fingerprint`, `extra` as dicts; `folder`,
    `origin`, whose bundle a row comes from ("": it lies in a run folder); `code`, the sha256 of the code of a method that
    is a plug-in ("": one of sa_bench). `attrs["sa_bench_schema"]`: the results' schema.
    """
    import pandas as pd

    keys = ("task", "method", "scale", "base_seed", "seed", "control", "status", "fields", "folder")
    columns = (
        "name", "role", "value", "low", "high", "interval", "n", "n_unit", "unit", "better", "base", "reason",
        "fingerprint", "extra",
    )  # fmt: skip
    rows = [
        {k: result.get(k) for k in keys}
        | {"origin": result.get("origin", ""), "code": code_of(result)}
        | {k: m.get(k) for k in columns}
        for result in read_results([Path(f) for f in folders])
        for m in result["measurements"] or [{}]
    ]
    frame = pd.DataFrame(rows, columns=[*keys, "origin", "code", *columns])
    frame.attrs["sa_bench_schema"] = SCHEMA
    return frame


def command_line() -> str:
    """The command to repeat what is running."""
    return "python -m sa_bench " + shlex.join(repeatable(sys.argv[1:]))


def repeatable(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without what only says where results go and which are there already."""
    kept, skip = [], False
    for argument in arguments:
        name, given, _ = argument.partition("=")
        if skip or name in (*PLACES, "--overwrite"):
            skip = not skip and name in PLACES and not given
            continue
        kept.append(argument)
    return kept
