"""Artifacts: content-addressed, atomic, locked, resumable.

An artifact is a folder `<root>/<stage>/<key>/` with the files of one finished stage and `meta.json`.
While it is made it is called `<key>.partial`, so a killed process leaves either a finished artifact
or a partial one that the next run resumes; never a half one under the final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sa_bench.errors import CellFailed
from sa_bench.untrusted import read_json


def digest(value: Any) -> str:
    """A 16-hex-digit hash of plain values (dicts, lists, strings, numbers), independent of order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or unwritable disk, or a name that cannot be written, into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CellFailed(
                f"The disk is full: cannot write under {where}. Free some space or point SA_BENCH_STORE "
                "(and --out) elsewhere, then run the same command again: finished stages are kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise CellFailed(
                f"No permission to write under {where}. Set SA_BENCH_STORE (or --out) to a folder you own."
            ) from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            name, reason = error.filename2 or error.filename or where, os.strerror(error.errno).lower()
            raise CellFailed(
                f"Cannot write {name}: {reason}. Give another --out (or SA_BENCH_STORE)."
            ) from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its key and the hash of its content."""

    path: Path
    key: str
    content: str  # hash over names and bytes of all files
    meta: Mapping[str, Any]
    cached: bool  # True if it was there before this call


class Store:
    """A folder of artifacts. Any number of processes may share one."""

    def __init__(self, root: Path) -> None:
        """Use `root`, created on first write."""
        self.root = root
        self._verified: set[tuple[str, str]] = set()

    def path(self, stage: str, key: str) -> Path:
        """Where the finished artifact lies or would lie."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is finished and its files are still what was written (checked once)."""
        if (stage, key) not in self._verified:
            path = self.path(stage, key)
            try:
                whole = read_json(path / "meta.json")["content"] == content(path)
            except (OSError, ValueError, KeyError, TypeError):
                return False
            if not whole:
                return False
            self._verified.add((stage, key))
        return True

    def get(self, stage: str, key: str, cached: bool = True) -> Artifact:
        """A finished artifact."""
        path = self.path(stage, key)
        meta = read_json(path / "meta.json")
        return Artifact(path, key, meta["content"], meta, cached)

    def make(
        self, stage: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any] | None]
    ) -> Artifact:
        """The artifact that `inputs` name; `build(folder)` makes it if it is not there.

        `build` writes its files into the folder it is given and returns what `meta.json` should
        record (costs, counts). A folder left by a killed process is handed to it again. An artifact
        whose files were changed or lost since is made anew.
        """
        key = digest(inputs)
        final = self.path(stage, key)
        if self.has(stage, key):
            return self.get(stage, key)
        with disk_errors(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / f"{stage}-{key}.lock")
        with lock, disk_errors(self.root):
            if self.has(stage, key):
                return self.get(stage, key)
            shutil.rmtree(final, ignore_errors=True)
            partial = final.with_name(f"{key}.partial")
            partial.mkdir(parents=True, exist_ok=True)
            for leftover in partial.rglob(".*.tmp"):
                leftover.unlink()
            meta = dict(build(partial) or {})
            meta |= {"stage": stage, "inputs": dict(inputs), "content": content(partial)}
            for file in partial.rglob("*"):
                if file.is_file():
                    _fsync(file)
            write_atomic(partial / "meta.json", json.dumps(meta, indent=1, default=str).encode())
            _fsync(partial)
            partial.rename(final)
            _fsync(final.parent)
        return self.get(stage, key, cached=False)

    def drop(self, stage: str, key: str) -> None:
        """Delete an artifact, finished or not; whoever needs it again makes it again."""
        path = self.path(stage, key)
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "locks" / f"{stage}-{key}.lock"):
            for folder in (path, path.with_name(f"{key}.partial")):
                shutil.rmtree(folder, ignore_errors=True)
            self._verified.discard((stage, key))

    def entries(self) -> list[tuple[str, str, int, bool]]:
        """(stage, key, bytes, finished) of everything in the store."""
        rows = []
        for folder in sorted(self.root.glob("*/*")):
            if folder.is_dir() and folder.parent.name != "locks":
                size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                finished = folder.suffix != ".partial"
                rows.append((folder.parent.name, folder.stem, size, finished))
        return rows

    def gc(self, stages: tuple[str, ...] = ()) -> int:
        """Delete partial artifacts and all of `stages`; returns the bytes freed.

        What another process is working on (its lock is held) is left alone.
        """
        freed = 0
        for stage, key, size, finished in self.entries():
            if finished and stage not in stages:
                continue
            lock = FileLock(self.root / "locks" / f"{stage}-{key}.lock", timeout=0)
            try:
                lock.acquire()
            except TimeoutError:
                continue
            try:
                shutil.rmtree(self.root / stage / (key if finished else f"{key}.partial"))
                freed += size
            finally:
                lock.release()
        return freed


def content(path: Path) -> str:
    """A hash of a file's bytes, or over names and bytes of a folder's files.

    Hidden files (a file manager's, a killed write's) and `meta.json` do not count.
    """
    if path.is_file():
        return file_digest(path)
    files = sorted(
        f for f in path.rglob("*") if f.is_file() and f.name != "meta.json" and not f.name.startswith(".")
    )
    return digest([(f.relative_to(path).as_posix(), file_digest(f)) for f in files])


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
