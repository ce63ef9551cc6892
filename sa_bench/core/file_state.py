"""Cache what was read from files as long as the files do not change.

The cache is keyed by the state of a file, never by its name alone: a file that is replaced is read
again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from sa_bench.core.store import file_digest

P = ParamSpec("P")
T = TypeVar("T")
State = tuple[Hashable, ...]


def read_state(path: Path) -> State:
    """Read what distinguishes a file from one that replaces it.

    Returns:
        Path, size, times of change and inode; the path alone if the file is missing.
    """
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def read_states(paths: Iterable[Path]) -> State:
    """Read the states of several files; for a folder, those of all files below it."""
    files = (
        file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    )
    return tuple(read_state(path) for path in files)


def cached_by(
    read_from: Callable[P, Hashable], maxsize: int
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Cache a function's last `maxsize` results while `read_from(*arguments)` stays the same."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = functools.lru_cache(maxsize)(
            lambda _state, args, kwargs: function(*args, **dict(kwargs))
        )

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return cached(read_from(*args, **kwargs), args, tuple(sorted(kwargs.items())))

        # Tests replace what is read, and clear the cache.
        vars(call)["cache_clear"] = cached.cache_clear
        return call

    return decorate


@cached_by(read_state, maxsize=64)
def cached_digest(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits; the file is read again only after it changed."""
    return file_digest(path)
