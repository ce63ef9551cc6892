"""What is kept in memory is keyed by what it was read from, never by a name: a file that is replaced is read again."""

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
    """What tells a file from the one that replaces it: path, size, times of change, inode; the path where it is absent."""
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def read_states(paths: Iterable[Path]) -> State:
    """The states of several files; of a folder, those of all files below it."""
    files = (p for path in paths for p in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    return tuple(read_state(path) for path in files)


def cached_by(
    read_from: Callable[P, Hashable], maxsize: int
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep the last `maxsize` results of a function, each as long as `read_from(*arguments)` stays what it was."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        kept = functools.lru_cache(maxsize)(
            lambda _state, args, kwargs: function(*args, **dict(kwargs))
        )

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return kept(read_from(*args, **kwargs), args, tuple(sorted(kwargs.items())))

        # for tests that replace what is read by something else
        vars(call)["cache_clear"] = kept.cache_clear
        return call

    return decorate


@cached_by(read_state, maxsize=64)
def cached_digest(path: Path) -> str:
    """sha256 of a file, 64 hex digits, read once as long as it does not change."""
    return file_digest(path)
