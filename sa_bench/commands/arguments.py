"""What is written on a command line, taken apart."""

from __future__ import annotations

import re
from typing import TextIO

from sa_bench.core.escaping import escape_terminal
from sa_bench.core.fields import split_list
from sa_bench.core.seeds import check_seeds
from sa_bench.core.settings import expand_home


def parse_seeds(text: str, option: str) -> list[int]:
    """The whole numbers of `0,1,2`, given with `option`.

    Raises:
        SaBenchError: one is none.
    """
    return check_seeds(split_list(text), option)


def expand_home_argument(argument: str) -> str:
    """`~/x`, also after `--option=`, where shells leave it as it is, with the user's home.

    Raises:
        SaBenchError: nobody knows that home.
    """
    option, path = re.fullmatch(r"(--[\w-]+=)?(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{option or ''}{expand_home(path)}" if path.startswith("~") else argument


def print_text(text: object, file: TextIO | None = None) -> None:
    """Print a line or more for people; nothing in it steers their terminal."""
    print(escape_terminal(text), file=file)
