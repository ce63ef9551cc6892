"""Which artifacts living processes have taken from a store, so that nobody deletes them from under a run.

Each process has a file of them in `locks/uses/`, locked while it lives: a dead process's file counts for nothing and
is swept by the next one.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from sa_bench.core.disk import make_folder
from sa_bench.core.locks import Release, try_lock

FOLDER = "locks/uses"


@lru_cache(maxsize=64)
def uses_of_store(root: Path, marker: Path) -> Uses:
    """What this process uses of the store `root`, however often it is opened."""
    return Uses(root, marker)


class Uses:
    """What this process uses of one store."""

    def __init__(self, root: Path, marker: Path) -> None:
        """`root` is the store's folder; `marker` the file in it that is locked while a use is noted or judged."""
        self.folder, self.marker = root / FOLDER, marker
        self._noted: set[str] = set()
        self._file: Path | None = None
        self._process = 0

    def note(self, name: str) -> None:
        """Note that this process reads the artifact `name` from now on; on a read-only store nothing is noted."""
        if self._process != os.getpid():  # a forked child's uses are its own
            self._process, self._file, self._noted = os.getpid(), None, set()
        if name in self._noted:
            return
        with suppress(OSError), self.judged(fcntl.LOCK_SH):
            file = self._file or self._begin()
            with file.open("a") as lines:
                lines.write(f"\n{name}")
            self._noted.add(name)

    def _begin(self) -> Path:
        make_folder(self.folder)
        for other in self.folder.glob("*.use"):
            _living(other)
        file = self.folder / f"{uuid.uuid4().hex}.use"
        if (
            release := try_lock(file, "")
        ) is None:  # another process swept the file before it was locked
            return self._begin()
        self._file = file
        atexit.register(_end, release, os.getpid())
        return file

    @contextmanager
    def judged(self, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Hold the store still: with LOCK_EX nobody notes a use meanwhile; without locks it is not held."""
        descriptor = os.open(self.marker, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def others(self) -> set[str]:
        """The artifacts that other living processes use."""
        found: set[str] = set()
        for file in self.folder.glob("*.use"):
            if file != self._file and _living(file):
                with suppress(OSError):
                    found |= set(file.read_text().splitlines()[1:])
        return found


def _end(release: Release, process: int) -> None:
    if process == os.getpid():
        with suppress(OSError):
            release()


def _living(file: Path) -> bool:
    """Whether the process whose file this is lives; a dead one's is deleted."""
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
