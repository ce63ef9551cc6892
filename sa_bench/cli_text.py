"""What is written on a command line, taken apart."""

from __future__ import annotations

import re
from typing import TextIO

from sa_bench.errors import SaBenchError
from sa_bench.escaping import terminal
from sa_bench.seeds import check_seeds
from sa_bench.settings import expanded


def split(text: str) -> list[str]:
    """The parts of `a,b`.

    Raises:
        SaBenchError: there are none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise SaBenchError(f"An empty list: {text!r}. Give names or numbers separated by commas.")
    return parts


def seeds(text: str, option: str) -> list[int]:
    """The whole numbers of `0,1,2`, given with `option`.

    Raises:
        SaBenchError: one is none.
    """
    return check_seeds(split(text), option)


def with_home(argument: str) -> str:
    """`~/x`, also after `--option=`, where shells leave it as it is, with the user's home.

    Raises:
        SaBenchError: nobody knows that home.
    """
    option, path = re.fullmatch(r"(--[\w-]+=)?(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{option or ''}{expanded(path)}" if path.startswith("~") else argument


def say(text: object, file: TextIO | None = None) -> None:
    """Print a line or more for people; nothing in it steers their terminal."""
    print(terminal(text), file=file)
