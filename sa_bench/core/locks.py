"""Lock files between processes: a lock ends with its holder, names it, and leaves no file behind.

A lock is a file that its holder has `flock`ed. On file systems without such locks (some network and
container mounts), it is a file that only one process can create and that its holder keeps touching:
if it is no longer touched, its holder is dead, on whatever machine it ran.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sa_bench.core.disk import disk_errors, make_folder, share
from sa_bench.core.errors import print_notice

PATIENCE = 5.0  # seconds of waiting after which the holder is printed
PAUSE = 0.1  # seconds between two attempts
BEAT, DEAD = (2.0, 60.0)
"""Seconds between two touches; seconds without one after which a holder counts as dead."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

Release = Callable[[], None]


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def hold_lock(path: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock `path` within the block; its folder is created.

    Args:
        path: the lock's file; it exists while somebody holds it or waits for it.
        what: what the lock is for, printed to those who wait.
        wait: False raises at once if another process holds it.

    Raises:
        Busy: another process holds it, and `wait` is False.
        CellFailed: the disk has no locks, is full, or may not be written to.
    """
    with disk_errors(path.parent):
        make_folder(path.parent)
        release = _take_lock(path, what, wait)
    try:
        yield
    finally:
        with suppress(OSError):
            release()


def _take_lock(path: Path, what: str, wait: bool) -> Release:
    """Take the lock, waiting if need be, and return the function that releases it."""
    start, is_announced = time.monotonic(), False
    soft = SoftLock(path)
    while True:
        try:
            release = try_lock(path, what)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            release = soft.try_lock(what)
        if release is not None:
            return release
        if not wait:
            raise Busy(path)
        if not is_announced and time.monotonic() - start >= PATIENCE:
            print_notice(f"waiting for {what}: {read_holder(path)} is at it (lock {path})")
            is_announced = True
        time.sleep(PAUSE)


def try_lock(path: Path, what: str) -> Release | None:
    """Take the lock `path` if it is free; return the function that releases it, or None."""
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                path.unlink(missing_ok=True)
            raise type(error)(error.errno, error.strerror, str(path)) from error
        if _is_same_file(descriptor, path):
            break
        os.close(descriptor)  # its holder removed the file while we waited
    with suppress(OSError):  # then nobody can read who holds it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe_holder(what), 0)

    def release() -> None:
        with suppress(OSError):  # in a folder where only its owner may delete
            path.unlink(missing_ok=True)
        os.close(descriptor)

    return release


def _open_lock(path: Path) -> int:
    """Open or create the lock's file; another user's file is opened read-only."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError as error:
        try:
            return os.open(path, os.O_RDONLY)  # another user's file, which is readable
        except FileNotFoundError:
            raise error from None
    with suppress(FileNotFoundError):  # its holder has just finished
        share(path)
    return descriptor


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether `path` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _describe_holder(what: str) -> bytes:
    """Describe this process as a lock's holder, as JSON."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "what": what, "since": now}
    ).encode()


def read_holder(path: Path) -> str:
    """Say in words which process holds the lock `path`."""
    for file in (SoftLock(path).path, path):
        try:
            holder = json.loads(file.read_bytes())
            return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "another process"


class SoftLock:
    """A lock for file systems without locks: a file that one process creates and keeps touching."""

    def __init__(self, path: Path) -> None:
        """Prepare the lock; `path` is the file that would be `flock`ed."""
        self.path = path.with_name(f"{path.name}.held")
        # time of its last touch, and when this process (by its own clock) first saw that touch
        self._seen: tuple[int, float] = (0, 0.0)

    def try_lock(self, what: str) -> Release | None:
        """Take the lock if it is free; drop it if its holder has not touched it for `DEAD` seconds.

        Returns:
            The function that releases the lock; None if it is not free.
        """
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            self._drop_if_dead()
            return None
        os.write(descriptor, _describe_holder(what))
        os.close(descriptor)
        share(self.path)
        done = threading.Event()
        threading.Thread(target=self._beat, args=(done,), daemon=True).start()

        def release() -> None:
            done.set()
            self.path.unlink(missing_ok=True)

        return release

    def _beat(self, done: threading.Event) -> None:
        """Touch the lock's file every `BEAT` seconds until the lock is released."""
        while not done.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    def _drop_if_dead(self) -> None:
        """Delete the lock's file if its holder has not touched it for `DEAD` seconds."""
        try:
            touched = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if touched != self._seen[0]:
            self._seen = (touched, time.monotonic())
        elif time.monotonic() - self._seen[1] >= DEAD:
            aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
            with suppress(FileNotFoundError):  # another process was quicker
                self.path.rename(aside)  # only one of all who wait succeeds
                aside.unlink()
