"""The errors a user can cause: one line each, never a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterable, Iterator

from sa_bench.core.escaping import escape_terminal, make_visible

LONGEST = 2000  # letters of a message


class SaBenchError(Exception):
    """Wrong usage or input: says what, where and what to do next. Exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        """One line, whatever was quoted in it; of a long one the beginning and the end."""
        text = " ".join(make_visible(super().__str__()).split())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} … {text[-450:]}"


class MissingAsset(SaBenchError):
    """A data set or weight file that is not here and cannot be fetched. Exit code 3."""

    exit_code = 3


class MissingExtra(MissingAsset):
    """A library that one of the package's extras brings and that is not installed. Exit code 3."""


class CellFailed(SaBenchError):
    """A cell that broke while it ran (NaN loss, full disk). Exit code 1."""

    exit_code = 1


class NotFinite(SaBenchError):
    """Images with NaN or infinite values, of which nothing can be said."""


def first_line(error: BaseException) -> str:
    """What a library's exception says, cut to its first line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def unknown_name(kind: str, got: str, known: Iterable[str]) -> SaBenchError:
    """An error that names `got`, its nearest neighbours, and all that is allowed."""
    names = sorted(known)
    near = difflib.get_close_matches(got.lower(), [n.lower() for n in names], n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return SaBenchError(f"Unknown {kind} {got!r}. {hint}Available: {', '.join(names)}.")


def print_notice(text: str) -> None:
    """Say one line beside the work, on stderr; a stderr that is gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"sa_bench: {escape_terminal(text)}", file=sys.stderr, flush=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had: Python's, C++'s, torch's of the CPU and of a GPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY))
    )


EXTRAS = {
    "transformers": "t2i",
    "tokenizers": "t2i",
    "lpips": "t2i",
    "facenet_pytorch": "faces",
    "nudenet": "nudity",
    "onnxruntime": "nudity",
    "cv2": "nudity",
    "matplotlib": "figures",
}
"""The package's extra that brings a library."""


@contextlib.contextmanager
def name_missing_extra(what: str) -> Iterator[None]:
    """Turn a library that only an extra brings and that is not installed into one line that names the extra.

    Raises:
        MissingExtra: `what` needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise MissingExtra(
            f"{what} needs {library}: pip install 'sa_bench[{EXTRAS[library]}]'"
        ) from error


OUT_OF_MEMORY = ("bad_alloc", "can't allocate memory", "not enough memory", "out of memory")
NO_MEMORY = (
    "Out of memory. Give this process more (fewer --jobs, other programs closed, a larger machine), or ask for less "
    "at once; the same command goes on where this one was."
)
