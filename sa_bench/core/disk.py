"""Write files whole or not at all, and report a failing disk in one line.

The disk may be full, shared, read-only or gone.
"""

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
"""Age in seconds at which a left-over is deleted if no lock tells whether its writer lives."""
LONGEST = 100  # most characters of a name that go into its temporary name


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the error of a full, failing or unwritable disk into one line that says what to do."""
    try:
        yield
    except CellFailed:
        raise
    except Exception as error:
        if (message := describe_failure(error, where)) is None:
            raise
        raise CellFailed(message) from error


def describe_failure(error: Exception, where: Path) -> str | None:
    """Describe a failed write under `where` and what to do about it, in one line.

    Returns:
        The line; None if the error is not a disk's.
    """
    if not isinstance(error, OSError):
        # safetensors and others put the system's message into errors of their own.
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
        return f"Cannot write {name}: {reason}. Write to another place (--out, FILE or SA_BENCH_STORE)."
    if error.errno in FAILING:
        return (
            f"The disk fails at {name}: {reason}. Point SA_BENCH_STORE (and --out) to another disk, "
            "then run the same command again: finished stages are kept."
        )
    return None


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is always the old file or the complete new one."""
    with replace_when_written(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def copy_atomic(source: Path, path: Path) -> None:
    """Copy the file `source` so that `path` is always the old file or the complete new one."""
    with replace_when_written(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, which replaces `path` if the block ends without an error.

    Its name is unique: two writers of one `path`, in whatever containers, each put a complete file
    there. Files that dead writers of `path` left behind are deleted first.
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


@contextmanager
def replace_folder_when_written(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which takes its place if the block ends without an error.

    A killed writer leaves the old folder, also between the two renames: then the next writer puts it
    back. What killed writers left beside `path` is deleted after `OLD` seconds.
    """
    with disk_errors(path.parent):
        make_folder(path.parent)
        _restore_folder(path)
        stem = f".{path.name[:LONGEST]}.{uuid.uuid4().hex}"
        temporary, replaced = path.with_name(f"{stem}.new"), path.with_name(f"{stem}.old")
        temporary.mkdir()
        try:
            yield temporary
            for file in (*temporary.rglob("*"), temporary):
                if not file.is_symlink():
                    sync(file)
            share(temporary)
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
        finally:
            if replaced.exists() and not path.exists():
                replaced.rename(path)
            for folder in (temporary, replaced):
                shutil.rmtree(folder, ignore_errors=True)


def _restore_folder(path: Path) -> None:
    """Put back the folder that a killed writer had moved away, and delete what is left over."""
    left_over = re.compile(rf"\.{re.escape(path.name[:LONGEST])}\.[0-9a-f]{{32}}\.(new|old)")
    for folder in sorted(path.parent.iterdir(), key=lambda folder: folder.name):
        if not left_over.fullmatch(folder.name):
            continue
        if folder.suffix == ".old" and not path.exists():
            folder.rename(path)
        elif time.time() - folder.stat().st_ctime > OLD:
            shutil.rmtree(folder, ignore_errors=True)


def _make_file_beside(path: Path) -> tuple[Path, int]:
    """Create an empty, locked file of a new name; the lock shows a sweep that its writer lives."""
    while True:
        temporary = path.with_name(f".{path.name[:LONGEST]}.{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        # Where a file system has no locks, left-overs are recognised by their age.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else it was deleted before it was locked
            return temporary, descriptor
        os.close(descriptor)


def sweep(path: Path) -> None:
    """Delete what killed writers of `path` left beside it; a living writer's file stays."""
    left_over = re.compile(rf"\.{re.escape(path.name[:LONGEST])}\.[0-9a-f]{{32}}\.tmp")
    for name in os.listdir(path.parent):  # noqa: PTH208 (a third of iterdir's time in a large folder)
        if left_over.fullmatch(name):
            _drop_if_dead(path.with_name(name))


def _drop_if_dead(temporary: Path) -> None:
    """Delete a temporary file whose writer is dead."""
    with suppress(OSError):  # already gone, or another user's
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
    """Create the folder `path` and its parents, each open to the group if the one above is."""
    new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new_folders):
        share(folder)


def share(path: Path) -> None:
    """Open `path` to the group if its folder is writable to the group (and not to everybody)."""
    folder_mode, mode = path.parent.stat().st_mode, path.stat().st_mode
    if not folder_mode & stat.S_IWGRP or folder_mode & stat.S_IWOTH:
        return
    shared_mode = mode | stat.S_IRGRP | stat.S_IWGRP
    if stat.S_ISDIR(mode):
        shared_mode |= stat.S_IXGRP | (folder_mode & stat.S_ISGID)
    if shared_mode != mode:
        with suppress(PermissionError):  # another member's file
            path.chmod(stat.S_IMODE(shared_mode))


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
