"""Parsing of command-line arguments, and printing."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import TextIO

from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import escape_terminal
from sa_bench.core.lists import split_list
from sa_bench.core.settings import expand_home


def parse_part(text: str) -> tuple[int, int] | None:
    """Parse a share `2/8` into (2, 8); None for "".

    Raises:
        SaBenchError: it is no share: not I/N, or I is not between 1 and N.
    """
    if not text:
        return None
    share, slash, shares = text.partition("/")
    valid = bool(slash) and share.isdecimal() and shares.isdecimal()
    if not (valid and 1 <= int(share) <= int(shares)):
        raise SaBenchError(f"--part {text}: a share I/N with I from 1 to N, such as 2/8.")
    return int(share), int(shares)


def parse_seeds(text: str, option: str) -> list[int]:
    """Parse whole numbers `0,1,2`, the value of `option`.

    Raises:
        SaBenchError: one of them is not a whole number.
    """
    from sa_bench.core.seeds import check_seeds

    return check_seeds(split_list(text), option)


def expand_home_argument(argument: str) -> str:
    """Replace `~` by the user's home in `~/x`, also after `--option=`, where shells do not.

    Raises:
        SaBenchError: that home directory is unknown.
    """
    match = re.match(r"--[\w-]+=", argument)
    option = match[0] if match else ""
    path = argument.removeprefix(option)
    return f"{option}{expand_home(path)}" if path.startswith("~") else argument


def print_paragraphs(text: str, width: int | None) -> None:
    """Print sentences for people, broken between words where a line is longer than the terminal.

    Command lines stay whole, to be copied.

    Args:
        text: its lines are paragraphs; what a line begins with, spaces, begins all its parts.
        width: of the terminal, in characters; None breaks no line.
    """
    for line in text.splitlines():
        if width is None or len(line) <= width or "python -m sa_bench" in line:
            print_text(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        for part in textwrap.wrap(
            line.strip(), max(20, width), initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        ):  # fmt: skip
            print_text(part)


def terminal_width() -> int | None:
    """Return the width of the terminal, in characters; None where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_text(text: object, file: TextIO | None = None) -> None:
    """Print text for people, with control sequences of terminals made visible."""
    print(escape_terminal(text), file=file)
