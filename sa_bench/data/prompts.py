"""Read prompt files: plain lists and the CSV files of I2P, ESD and COCO-30k.

Each row keeps its own settings. Nothing is reordered or deduplicated: image i belongs to row i.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa_bench.contracts import LARGEST_SEED
from sa_bench.core.errors import SaBenchError
from sa_bench.core.seeds import check_seed
from sa_bench.core.untrusted_text import Unfit, read_bytes

SEEDS = ("sd_seed", "evaluation_seed", "seed")
GUIDANCE = ("sd_guidance_scale", "evaluation_guidance")
WIDTHS, HEIGHTS = ("sd_image_width",), ("sd_image_height",)
TAGS = ("categories", "artist")
LARGEST_SIDE = 4096  # most pixels of a side


@dataclass(frozen=True)
class Asked:
    """One image that a prompt file asks for; None in a field means that the file does not say."""

    text: str
    seed: int | None = None
    guidance: float | None = None  # s, as in `Sampler`
    size: tuple[int, int] | None = None  # (height, width) in pixels
    tags: tuple[str, ...] = ()  # for I2P its categories


def read(path: Path) -> list[Asked]:
    """Read the rows of a `.csv` file or the lines of a `.txt` file.

    Raises:
        SaBenchError: another ending, or what `read_csv` and `read_lines` refuse.
    """
    if path.suffix.lower() == ".csv":
        return read_csv(path)
    if path.suffix.lower() == ".txt":
        return [Asked(prompt) for prompt in read_lines(path)]
    raise SaBenchError(
        f"{path}: prompt files end in .txt (one prompt a line) or .csv (a column `prompt`)."
    )


def read_lines(path: Path) -> list[str]:
    """Read the prompts of a UTF-8 file, one per line, without trailing blanks and blank lines.

    Raises:
        SaBenchError: there is no such file, it has no prompt, or is not text; the message names the
            file and the problem.
    """
    lines = [line.rstrip() for line in re.split(r"\r\n|\n|\r", _read_text(path))]
    prompts = [line for line in lines if line]
    if not prompts:
        raise SaBenchError(f"{path} holds no prompt: every line is blank.")
    return prompts


def read_csv(path: Path) -> list[Asked]:
    """Read the rows of a CSV file with a column `prompt`, in order.

    Further columns that are read if they are there: `sd_seed`, `evaluation_seed` or `seed`;
    `sd_guidance_scale` or `evaluation_guidance`; `sd_image_width` and `sd_image_height`;
    `categories` (joined by commas) and `artist` as tags. All others, an unnamed index among them,
    are ignored. Without a column of seeds every seed is None.

    Raises:
        SaBenchError: no such file, no `prompt` column, no row, a row of another length or with a
            bad value; the message names the file and the row, the first below the header being 1.
    """
    header, rows = read_table(path)
    if "prompt" not in header:
        raise SaBenchError(
            f"{path} has no column `prompt`; it has {', '.join(filter(None, header)) or 'none'}."
        )
    if not rows:
        raise SaBenchError(f"{path} holds no prompt: there is no row below its header.")
    return [_parse_row(header, row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the header of a UTF-8 CSV file, in lower case, and the rows below it that are not blank.

    Raises:
        SaBenchError: no such file, not CSV, or two columns of one name; the message names the file.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise SaBenchError(f"{path}, near line {reader.line_num}: not CSV ({error}).") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if repeated_name := next((name for name in header if name and header.count(name) > 1), None):
        raise SaBenchError(f"{path} has two columns called {repeated_name}: rename or remove one.")
    return header, rows[1:]


def find_problem(path: Path) -> str | None:
    """Recognise a file that was fetched in place of the right one.

    Returns:
        What it is (empty, a web page, a Git LFS pointer, a server's refusal), in words that follow
            its name; None if it is none of these.
    """
    with path.open("rb") as file:
        start = file.read(512)
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself (git lfs pull fetches that)"
    if start.startswith(
        (b"404: not found", b"entry not found", b"repository not found", b"access to ")
    ):
        return "is a server's refusal, not the file itself"
    return None


def _read_text(path: Path) -> str:
    """Read a UTF-8 text file of prompts."""
    if not path.is_file():
        raise SaBenchError(f"There is no prompt file {path}.")
    try:
        if problem := find_problem(path):
            raise SaBenchError(f"{path} {problem}.")
        raw = read_bytes(path)
    except Unfit as error:
        raise SaBenchError(f"{path} is not a file of prompts: {error}.") from error
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read ({error.strerror}).") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SaBenchError(
            f"{path} is not UTF-8: line {line} holds byte {raw[error.start]:#04x}. Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise SaBenchError(
            f"{path} is not a text file: line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds NUL."
        )
    return text


def _parse_row(header: Sequence[str], row: Sequence[str], where: str) -> Asked:
    """Parse one row of a CSV file of prompts."""
    if len(row) != len(header):
        raise SaBenchError(f"{where} has {len(row)} fields, the header {len(header)}.")
    fields = dict(zip(header, row, strict=True))
    prompt = fields["prompt"].strip()  # an empty prompt is one too: the unconditional image
    height, width = _read_side(fields, HEIGHTS, where), _read_side(fields, WIDTHS, where)
    if (height is None) != (width is None):
        raise SaBenchError(f"{where} has a {'width' if height is None else 'height'} alone.")
    tags = [tag.strip() for name in TAGS for tag in fields.get(name, "").split(",")]
    return Asked(
        prompt,
        _read_seed(fields, where),
        _read_guidance(fields, where),
        None if height is None or width is None else (height, width),
        tuple(filter(None, tags)),
    )


def _find_column(fields: Mapping[str, str], names: Sequence[str]) -> tuple[str, str | None]:
    """Return the first of the columns that the file has, and its value; ("", None) for none."""
    return next(((name, fields[name].strip()) for name in names if name in fields), ("", None))


def parse_whole_number(value: str) -> int:
    """Parse a whole number, also as `12.0`, which pandas makes of a column with gaps.

    Returns:
        The number; −1 if it is not one.
    """
    match = re.fullmatch(r"(\d{1,19})(\.0+)?", value, re.ASCII)
    return int(match[1]) if match else -1


def _read_seed(fields: Mapping[str, str], where: str) -> int | None:
    """Read a row's seed; None if the file has no column of seeds."""
    name, value = _find_column(fields, SEEDS)
    if value is None:
        return None
    seed = parse_whole_number(value)
    return check_seed(seed if 0 <= seed <= LARGEST_SEED else value, f"{where}: {name}")


def _read_guidance(fields: Mapping[str, str], where: str) -> float | None:
    """Read a row's guidance; None if it has none."""
    name, value = _find_column(fields, GUIDANCE)
    if not value:
        return None
    try:
        guidance = float(value)
    except ValueError:
        guidance = math.nan
    if not 0 <= guidance < math.inf:
        raise SaBenchError(f"{where}: {name} is {value!r}, must be a number from 0 on.")
    return guidance


def _read_side(fields: Mapping[str, str], names: Sequence[str], where: str) -> int | None:
    """Read the height or width of a row's image in pixels; None if it has none."""
    name, value = _find_column(fields, names)
    if not value:
        return None
    side = parse_whole_number(value)
    if not 1 <= side <= LARGEST_SIDE:
        raise SaBenchError(f"{where}: {name} is {value!r}, must be 1 to {LARGEST_SIDE} pixels.")
    return side
