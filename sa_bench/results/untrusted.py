"""Check results, score tables and tensors from elsewhere before use; nothing in them is run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from sa_bench.core import untrusted_arrays, untrusted_text
from sa_bench.core.errors import CellFailed, SaBenchError, first_line
from sa_bench.core.escaping import find_steering_characters
from sa_bench.results.schema import SCHEMA, CheckedResult, ResultRow
from sa_bench.results.sealing import EDITED, FILES, find_edited

MODEL = "model.safetensors"


class Differs(CellFailed):
    """A bundle does not hold what its manifest lists, or recomputation gives another value."""


def validate_result(raw: bytes, where: str) -> ResultRow:
    """Validate a result.json from elsewhere: every value as `run` writes it, no control characters.

    Raises:
        SaBenchError: the result has a newer schema.
        Differs: it is not of that form; names `where` and the field.
    """
    try:
        row = untrusted_text.parse_json(raw, strict=True)
        if row["schema"] > SCHEMA:
            raise SaBenchError(
                f"{where} has schema {row['schema']}; this sa_bench reads {SCHEMA}. Upgrade it."
            )
        CheckedResult.model_validate(row)
        require_plain(row)
        _validate_task(row["task_values"])
        for text in (row["provenance"]["command"], row["provenance"].get("cell_command", "")):
            _require_command(text)
        if find_edited(row):
            raise Differs(f"{where}: result.json was {EDITED}: its hash over itself differs.")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise Differs(
            f"{where}: {field or 'result.json'} is not what `run` writes: {first['msg']}."
        ) from error
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise Differs(f"{where}: result.json is not what `run` writes ({error}).") from error
    kept_keys = ("schema", FILES, *CheckedResult.model_fields)
    return cast(ResultRow, {k: v for k, v in row.items() if k in kept_keys})


def require_plain(value: Any) -> None:
    """Refuse control characters in texts, which terminals and pages show, and numbers not finite."""
    if isinstance(value, Mapping):
        require_plain([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            require_plain(item)
    elif isinstance(value, str) and (steering := find_steering_characters(value)):
        raise ValueError(f"a text holds control characters: {steering[0]!r} in {value[:40]!r}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")  # 1e999


def _require_command(text: str) -> None:
    """Refuse a command that is not safe to repeat: anything but one command of this suite."""
    text, prefix = text.strip(), ["python", "-m", "sa_bench"]
    if text and not ((words := shlex.split(text))[:3] == prefix and shlex.join(words) == text):
        raise ValueError(f"the command {text[:60]!r} is none of sa_bench")


def _validate_task(values: Mapping[str, Any]) -> None:
    from sa_bench.contracts import Task

    TypeAdapter(Task).validate_python(dict(values))


@contextmanager
def read_stranger_result(rows: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """Turn errors that rows from bundles cause while they are shown into one line.

    Raises:
        SaBenchError: the rows cannot be shown, and some of them are from bundles.
    """
    try:
        yield
    except SaBenchError:
        raise
    except Exception as error:
        origins = sorted(
            {
                row.get("origin") or "a packed file"
                for row in rows
                if row.get("origin") or not row.get("folder")
            }
        )
        if not origins:
            raise
        raise SaBenchError(
            f"These results cannot be shown ({type(error).__name__}: {error}). Check those from elsewhere, "
            f"{', '.join(origins)}: python -m sa_bench verify FILE."
        ) from error


def require_readable(path: Path, name: str) -> None:
    """Check the form of a table of scores or a file of tensors before anything loads it.

    Raises:
        Differs: the file is of another form; names `name`.
    """
    try:
        if path.suffix == ".parquet":
            untrusted_arrays.require_scores(path)
        elif path.suffix == ".safetensors":
            _require_image_tensors(path)
    except Exception as error:  # pyarrow and safetensors raise errors of their own
        raise Differs(f"{name} cannot be read: {first_line(error)}.") from error


def _require_image_tensors(path: Path) -> None:
    """Check that a file of tensors, unless it holds a model, holds an image set."""
    header = untrusted_arrays.read_header(path)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    shapes = {name: entry["shape"] for name, entry in tensors.items()}
    kinds = {name: entry["dtype"] for name, entry in tensors.items()}
    if path.name == MODEL:
        return
    columns = {"labels", "seeds", *({"prompts"} & set(shapes))}
    n, *pixels = shapes.get("images", [0])
    is_image_set = set(shapes) == {"images", *columns} and n > 0
    has_pixels = len(pixels) == 3 and pixels[2] in (1, 3)
    if (
        not (is_image_set and has_pixels)
        or kinds["images"] != "U8"
        or any(shapes[name] != [n] or kinds[name] != "I64" for name in columns)
    ):
        raise ValueError(f"images, labels and seeds of equal number are needed, not {shapes}")
