"""Record which artifacts of a store living processes use, so that nobody deletes them during a run.

Each process lists them in one file in `locks/uses/`, locked while it lives. A dead process's file
is ignored and deleted by the next process.
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
    """Return the one `Uses` of this process for the store `root`, however often it is opened."""
    return Uses(root, marker)


class Uses:
    """The artifacts of one store that this process uses."""

    def __init__(self, root: Path, marker: Path) -> None:
        """Track the uses of one store.

        Args:
            root: the store's folder.
            marker: the file in it that is locked while a use is noted or checked.
        """
        self.folder, self.marker = root / FOLDER, marker
        self._noted: set[str] = set()
        self._file: Path | None = None
        self._process = 0

    def note(self, name: str) -> None:
        """Note that this process reads the artifact `name`; in a read-only store, do nothing."""
        if self._process != os.getpid():  # a forked child starts with no uses
            self._process, self._file, self._noted = os.getpid(), None, set()
        if name in self._noted:
            return
        with suppress(OSError), self.judged(fcntl.LOCK_SH):
            file = self._file or self._start_file()
            with file.open("a") as lines:
                lines.write(f"\n{name}")
            self._noted.add(name)

    def _start_file(self) -> Path:
        """Start this process's file, and delete the files of dead processes."""
        make_folder(self.folder)
        for other in self.folder.glob("*.use"):
            _is_alive(other)
        file = self.folder / f"{uuid.uuid4().hex}.use"
        if (release := try_lock(file, "")) is None:
            return self._start_file()  # another process deleted the file before it was locked
        self._file = file
        atexit.register(_release_at_exit, release, os.getpid())
        return file

    @contextmanager
    def judged(self, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Keep the noted uses unchanged within the block.

        With LOCK_EX no other process notes a use meanwhile; a file system without locks is not
        held.
        """
        descriptor = os.open(self.marker, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def others(self) -> set[str]:
        """Return the artifacts that other living processes use."""
        names: set[str] = set()
        for file in self.folder.glob("*.use"):
            if file != self._file and _is_alive(file):
                with suppress(OSError):
                    names |= set(file.read_text().splitlines()[1:])
        return names


def _release_at_exit(release: Release, process: int) -> None:
    """Release the lock of this process's file, but not in a forked child."""
    if process == os.getpid():
        with suppress(OSError):
            release()


def _is_alive(file: Path) -> bool:
    """Return whether the process that owns `file` lives; the file of a dead process is deleted."""
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
