"""What is written on a command line, taken apart."""

from __future__ import annotations

import re
from typing import TextIO

from sa_bench.core.escaping import terminal
from sa_bench.core.fields import split
from sa_bench.core.seeds import check_seeds
from sa_bench.core.settings import expanded


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
