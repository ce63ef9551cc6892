"""The errors a user can cause: one line each, never a traceback."""

import difflib
from collections.abc import Iterable

from sa_bench.escaping import visible

LONGEST = 2000  # letters of a message


class SaBenchError(Exception):
    """Wrong usage or input: says what, where and what to do next. Exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        """One line, whatever was quoted in it; of a long one the beginning and the end."""
        text = " ".join(visible(super().__str__()).split())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} … {text[-450:]}"


class MissingAsset(SaBenchError):
    """A data set or weight file that is not here and cannot be fetched. Exit code 3."""

    exit_code = 3


class CellFailed(SaBenchError):
    """A cell that broke while it ran (NaN loss, full disk). Exit code 1."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """What a library's exception says, cut to its first line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def unknown(kind: str, got: str, known: Iterable[str]) -> SaBenchError:
    """An error that names `got`, its nearest neighbours, and all that is allowed."""
    names = sorted(known)
    near = difflib.get_close_matches(got.lower(), [n.lower() for n in names], n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return SaBenchError(f"Unknown {kind} {got!r}. {hint}Available: {', '.join(names)}.")
