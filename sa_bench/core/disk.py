"""Files on disks that may be full, shared, read-only or gone: written whole or not at all, failures in one line."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sa_bench.core.errors import CellFailed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large", "StorageFull")
DENIED = (errno.EACCES, errno.EROFS, errno.EPERM)
UNUSABLE = (
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
FAILING = (
    errno.EIO,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOLCK,
    errno.EMFILE,
    errno.ENFILE,
)
OLD = 24 * 3600.0
"""Seconds after which a left-over is swept where no lock can tell whether its writer lives."""
LONGEST = 100  # characters of a name that are kept in its temporary one


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full, failing or unwritable disk, or a name that cannot be written, into one line that says what to do."""
    try:
        yield
    except CellFailed:
        raise
    except Exception as error:
        if (said := describe_failure(error, where)) is None:
            raise
        raise CellFailed(said) from error


def describe_failure(error: Exception, where: Path) -> str | None:
    """What a failed write under `where` means and what to do, in one line; None: it is no failure of a disk."""
    if not isinstance(
        error, OSError
    ):  # safetensors and others put the system's words into errors of their own
        error = OSError(errno.ENOSPC if any(text in str(error) for text in FULL_TEXTS) else 0, "")
    if error.errno in FULL:
        return (
            f"The disk is full: cannot write under {where}. Free some space or point SA_BENCH_STORE "
            "(and --out) elsewhere, then run the same command again: finished stages are kept."
        )
    if error.errno in DENIED:
        return f"No permission to write under {where}. Set SA_BENCH_STORE (or --out) to a folder you own."
    name, reason = error.filename2 or error.filename or where, os.strerror(error.errno or 0).lower()
    if error.errno in UNUSABLE:
        return f"Cannot write {name}: {reason}. Give another --out (or SA_BENCH_STORE)."
    if error.errno in FAILING:
        return (
            f"The disk fails at {name}: {reason}. Point SA_BENCH_STORE (and --out) to another disk, "
            "then run the same command again: finished stages are kept."
        )
    return None


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either the old file or the whole new one."""
    with replace_when_written(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def copy_atomic(source: Path, path: Path) -> None:
    """Copy the file `source` so that `path` is either the old file or the whole new one."""
    with replace_when_written(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """Give an empty file beside `path` to write to; it takes the name `path` if the block ends without an error.

    Its name is nobody else's: two writers of one `path`, in whatever containers, each put a whole file there. What
    writers of `path` left that are dead is swept first.
    """
    with disk_errors(path.parent):
        make_folder(path.parent)
        sweep(path)
        temporary, descriptor = _make_file_beside(path)
        try:
            yield temporary
            sync(temporary)
            share(temporary)
            temporary.replace(path)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def _make_file_beside(path: Path) -> tuple[Path, int]:
    """An empty file of a new name and its descriptor, locked: so a sweep tells a living writer from a dead one."""
    while True:
        temporary = path.with_name(f".{path.name[:LONGEST]}.{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: its left-overs are told by age
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else it was swept between its making and its lock
            return temporary, descriptor
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Delete what killed writers of `path` left beside it; a living writer's file stays."""
    left_over = re.compile(rf"\.{re.escape(path.name[:LONGEST])}\.[0-9a-f]{{32}}\.tmp")
    for name in os.listdir(path.parent):  # noqa: PTH208 (a third of iterdir's time in a large folder)
        if left_over.fullmatch(name):
            _drop_if_dead(path.with_name(name))


def _drop_if_dead(temporary: Path) -> None:
    with suppress(OSError):  # gone already, or not this user's
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink(missing_ok=True)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - os.fstat(descriptor).st_mtime > OLD:
                temporary.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it, each open to the group if the one above is."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new):
        share(folder)


def share(path: Path) -> None:
    """Open `path` to the group if the folder it lies in is a group's to write to (and not everybody's)."""
    above, own = path.parent.stat().st_mode, path.stat().st_mode
    if not above & stat.S_IWGRP or above & stat.S_IWOTH:
        return
    wanted = own | stat.S_IRGRP | stat.S_IWGRP
    if stat.S_ISDIR(own):
        wanted |= stat.S_IXGRP | (above & stat.S_ISGID)
    if wanted != own:
        with suppress(PermissionError):  # another member's
            path.chmod(stat.S_IMODE(wanted))


def sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
