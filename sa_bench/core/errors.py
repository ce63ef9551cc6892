"""Define the errors that a user can cause: one line each, never a traceback."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.util
import sys
from collections.abc import Iterable, Iterator

from sa_bench.core.escaping import escape_terminal, make_visible

LONGEST = 2000  # most characters of a message
FEW_NAMES = 8  # as many names are listed in a message; of more, the nearest


class SaBenchError(Exception):
    """Wrong usage or input; the message says what, where and what to do next. Exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        """Return the message on one line; a long one is cut in the middle."""
        message = " ".join(make_visible(super().__str__()).split())
        return (
            message if len(message) <= LONGEST else f"{message[: LONGEST - 500]} … {message[-450:]}"
        )


class MissingAsset(SaBenchError):
    """A data set or weight file that is missing and cannot be fetched. Exit code 3."""

    exit_code = 3


class MissingExtra(MissingAsset):
    """A missing library that one of the package's extras brings. Exit code 3."""


class CellFailed(SaBenchError):
    """A cell that broke while it ran (NaN loss, full disk). Exit code 1."""

    exit_code = 1


class Unmeasurable(SaBenchError):
    """Images of which a metric has no value; the message is the reason that stands in its place."""


class NotFinite(Unmeasurable):
    """Images with NaN or infinite values."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message; the error's class name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def last_line(error: BaseException) -> str:
    """Return the last line of a library's error message, where torch names the tensor at fault."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def unknown_name(kind: str, got: str, allowed: Iterable[str], see: str = "") -> SaBenchError:
    """Make an error that names `got`, its nearest neighbours, and all that is allowed.

    Args:
        kind: what was to be named.
        got: the name that was given.
        allowed: all names that exist.
        see: the command that shows them, such as `list methods`; it stands in place of more than
            `FEW_NAMES` of them. "" if there is none.
    """
    names = sorted(allowed)
    near = find_nearest(got, names)
    hint = f"Did you mean {_join_or(near)}? " if near else ""
    if see and len(names) > FEW_NAMES:
        all_names = f"`python -m sa_bench {see}` shows them all."
    else:
        all_names = f"Available: {', '.join(names)}."
    return SaBenchError(f"Unknown {kind} {got!r}. {hint}{all_names}")


def find_nearest(got: str, names: Iterable[str]) -> list[str]:
    """Find up to three names that `got` may have meant, the nearest first, whatever their case."""
    by_lower = {name.lower(): name for name in sorted(names)}
    near = difflib.get_close_matches(got.lower(), by_lower, n=3, cutoff=0.5)
    return [by_lower[name] for name in near]


def _join_or(names: list[str]) -> str:
    """Join names in a sentence: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def print_notice(message: str) -> None:
    """Print one line on stderr while work goes on; a closed stderr is ignored."""
    with contextlib.suppress(OSError, ValueError):
        print(f"sa_bench: {escape_terminal(message)}", file=sys.stderr, flush=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out.

    Errors of Python, of C++ and of torch on the CPU and on a GPU are recognised.
    """
    message = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and any(sign in message for sign in OUT_OF_MEMORY))
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
    "ray": "ray",
}
"""Extra of the package that brings each library."""


def require_library(name: str) -> None:
    """Require that a library is installed, without loading it.

    Raises:
        ModuleNotFoundError: it is not.
    """
    if name in sys.modules and sys.modules[name] is None:  # as if it were not
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def name_missing_extra(what: str, library: str = "") -> Iterator[None]:
    """Turn the error for a missing library into one line that names the extra to install.

    Args:
        what: the feature that needs the library, for the message.
        library: one that is looked for before anything is imported, which may take seconds.

    Raises:
        MissingExtra: the library is not installed, and an extra brings it.
    """
    try:
        if library and importlib.util.find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
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
    "Out of memory. Free memory (fewer --jobs, other programs closed, a larger machine) or ask for less at once; the "
    "same command goes on where this one was."
)
