"""Files of strangers, looked at before anything uses them: results, score tables, tensors. Nothing in them is run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sa_bench.core import untrusted_arrays, untrusted_text
from sa_bench.core.errors import CellFailed, SaBenchError, first_line
from sa_bench.core.escaping import find_steering_characters
from sa_bench.results.schema import SCHEMA, Result
from sa_bench.results.sealing import EDITED, FILES, find_edited

MODEL = "model.safetensors"


class Differs(CellFailed):
    """A bundle does not hold what it says, or recomputation gives something else."""


def validate_result(raw: bytes, where: str) -> dict[str, Any]:
    """A stranger's result.json, every value of the kind that `run` writes, no control characters in any text.

    Raises:
        SaBenchError: of a newer schema.
        Differs: it is not of that form; names `where` and the field.
    """
    try:
        row = untrusted_text.parse_json(raw, strict=True)
        if row["schema"] > SCHEMA:
            raise SaBenchError(
                f"{where} has schema {row['schema']}; this sa_bench reads {SCHEMA}. Upgrade it."
            )
        Result.model_validate(row)
        require_plain(row)
        _task(row["task_values"])
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
    for m in row["measurements"]:
        m["ledger"] = None  # what was published is this version's to say
    return {k: v for k, v in row.items() if k in ("schema", FILES, *Result.model_fields)}


def require_plain(value: Any) -> None:
    """Texts go to terminals and pages: nothing in them may steer one. Numbers are finite."""
    if isinstance(value, Mapping):
        require_plain([*value, *value.values()])
    elif isinstance(value, list):
        for part in value:
            require_plain(part)
    elif isinstance(value, str) and (found := find_steering_characters(value)):
        raise ValueError(f"a text holds control characters: {found[0]!r} in {value[:40]!r}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")  # 1e999


def _require_command(text: str) -> None:
    """Reports show it to be repeated: it must be one command of this suite and nothing that a shell would add to it."""
    text, ours = text.strip(), ["python", "-m", "sa_bench"]
    if text and not ((words := shlex.split(text))[:3] == ours and shlex.join(words) == text):
        raise ValueError(f"the command {text[:60]!r} is none of sa_bench")


def _task(values: Mapping[str, Any]) -> None:
    from sa_bench.contracts import Task

    TypeAdapter(Task).validate_python(dict(values))


@contextmanager
def read_stranger_result(rows: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """While rows are shown: what a stranger's result breaks is said in one line.

    Raises:
        SaBenchError: it cannot be shown, and some of `rows` are from bundles.
    """
    try:
        yield
    except SaBenchError:
        raise
    except Exception as error:
        whose = sorted(
            {
                row.get("origin") or "a packed file"
                for row in rows
                if row.get("origin") or not row.get("folder")
            }
        )
        if not whose:
            raise
        raise SaBenchError(
            f"These results cannot be shown ({type(error).__name__}: {error}); not from a run of ours are those of "
            f"{', '.join(whose)}: python -m sa_bench verify FILE."
        ) from error


def require_readable(path: Path, name: str) -> None:
    """Look into a table of scores or a file of tensors: its form alone, before anything loads it.

    Raises:
        Differs: it is no such thing; names `name`.
    """
    try:
        if path.suffix == ".parquet":
            untrusted_arrays.require_scores(path)
        elif path.suffix == ".safetensors":
            _read_tensor_shapes(path)
    except Exception as error:  # pyarrow and safetensors have their own
        raise Differs(f"{name} cannot be read: {first_line(error)}.") from error


def _read_tensor_shapes(path: Path) -> None:
    table = {k: v for k, v in untrusted_arrays.read_header(path).items() if k != "__metadata__"}
    shapes, kinds = (
        {name: said[key] for name, said in table.items()} for key in ("shape", "dtype")
    )
    if path.name == MODEL:
        return
    rows = {"labels", "seeds", *({"prompts"} & set(shapes))}
    n, *pixels = shapes.get("images", [0])
    whole = set(shapes) == {"images", *rows} and len(pixels) == 3 and pixels[2] in (1, 3) and n > 0
    if (
        not whole
        or kinds["images"] != "U8"
        or any(shapes[r] != [n] or kinds[r] != "I64" for r in rows)
    ):
        raise ValueError(f"images, labels and seeds of equal number are needed, not {shapes}")
