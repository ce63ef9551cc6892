"""Result rows: their measurements, as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.core.store import replace_when_written, write_atomic
from sa_bench.core.untrusted_text import read_json
from sa_bench.results.schema import Measurement, ResultRow

if TYPE_CHECKING:
    from sa_bench.contracts import Measured


EXPLICIT = ("nud", "naked", "nsfw", "sex", "erotic", "porn", "topless", "undress", "explicit")
"""Parts of words that mark a concept or a prompt as explicit."""


def may_be_explicit(task: Mapping[str, Any]) -> bool:
    """Tell whether images of c_f may show nudity.

    They may if the task measures nudity, or if its concept or a prompt for it has a word of `EXPLICIT`.
    """
    prompts = task.get("prompts") or {}
    texts = [task["classes"][task["concept"]], *prompts.get("forget", ()), *prompts.get("test", ())]
    return (
        any(word in text.lower() for text in texts for word in EXPLICIT)
        or "nudity" in (*task["metrics"], *task["primary"])
        or "i2p" in str(prompts.get("files"))
    )


UNDERTRAINED = {"reference": "undertrained floor", "target": "undertrained target"}
"""How a flag begins that a model trained from scratch had less training than the base, by standing."""
UNITS = ("seed", "prompt")  # columns that identify the image of a score
FIELDS = ("value", "low", "high", "interval", "n", "n_unit", "judges", "extra", "reason")


def to_json(value: Any) -> str:
    """Format a value as JSON whose floats read back the same; NaN and infinity become null."""
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

    values = {k: v for k, v in asdict(measured).items() if k != "scores"}
    write_atomic(folder / "measurement.json", to_json(values).encode())
    if measured.scores:
        frame = pd.DataFrame(dict(measured.scores))
        frame.insert(0, "index", np.arange(len(frame)))
        with replace_when_written(folder / "scores.parquet") as file:
            frame.to_parquet(file, index=False)


def read_measured(folder: Path) -> tuple[dict[str, Any], Path | None]:
    """Read what `write_measured` wrote: the measurement, and the path of its scores or None."""
    scores = folder / "scores.parquet"
    return read_json(folder / "measurement.json"), scores if scores.exists() else None


def measurement_row(
    name: str,
    role: str,
    declared: Mapping[str, Any],
    measured: Mapping[str, Any],
    base: Mapping[str, Any] | None,
    fingerprint: Mapping[str, Any],
) -> Measurement:
    """Build one entry of result.json's `measurements`."""
    value, reason = measured.get("value"), measured.get("reason")
    if value is None and not reason:
        reason = "the value is not finite"
    return {
        "name": name,
        "role": role,
        "title": declared["title"],
        "value": value,
        "low": measured.get("low"),
        "high": measured.get("high"),
        "interval": measured.get("interval"),
        "n": measured.get("n"),
        "n_unit": measured.get("n_unit"),
        "judges": measured.get("judges"),
        "extra": measured.get("extra"),
        "reason": reason,
        "unit": declared["unit"],
        "better": declared["better"],
        "source": declared["source"],
        "base": base.get("value") if base else None,
        "fingerprint": dict(fingerprint),
    }


def find_sample_set(row: ResultRow, name: str) -> Path | None:
    """Find the file of a result's sample set, `forget` say; None without it, as in packed results."""
    folder = row.get("folder", "")
    if not folder:
        return None  # an empty path would be the current folder
    file = Path(folder) / f"{name}.safetensors"
    return file if file.is_file() else None


def code_of(row: ResultRow) -> str:
    """Get the sha256 of a plug-in method's code; "" for a method of sa_bench."""
    plug_in = (row["provenance"].get("plug_ins") or {}).get(f"method {row['method']}") or {}
    return str(plug_in.get("sha256", ""))


def version_of(row: ResultRow) -> int | None:
    """Get the version of the method's code that made a result; None in results of before it was recorded."""
    return row["provenance"].get("method_version")


def metric_of(measurement: Measurement) -> str:
    """Get a measurement's registered metric: `inception_fid` for `fid[inception-v3-compat]`."""
    return measurement["fingerprint"].get("metric", measurement["name"]).partition("[")[0]
