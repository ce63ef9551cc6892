"""What is written on a command line, taken apart."""

from __future__ import annotations

from typing import TextIO

from sa_bench.errors import SaBenchError
from sa_bench.escaping import terminal


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
    try:
        return [int(part) for part in split(text)]
    except ValueError:
        raise SaBenchError(f"{option} takes whole numbers separated by commas, got {text!r}.") from None


def say(text: object, file: TextIO | None = None) -> None:
    """Print a line or more for people; nothing in it steers their terminal."""
    print(terminal(text), file=file)
