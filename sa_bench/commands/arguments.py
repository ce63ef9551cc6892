"""Parsing of command-line arguments, and printing."""

from __future__ import annotations

import re
from typing import TextIO

from sa_bench.core.escaping import escape_terminal
from sa_bench.core.lists import split_list
from sa_bench.core.settings import expand_home


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


def print_text(text: object, file: TextIO | None = None) -> None:
    """Print text for people, with control sequences of terminals made visible."""
    print(escape_terminal(text), file=file)
