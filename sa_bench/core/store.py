"""Store artifacts: content-addressed, atomic, locked, resumable.

An artifact is a folder `<root>/<stage>/<key>/` with the files of one finished stage and
`meta.json`. While it is being made, `<key>.partial/` holds a folder for each attempt, and the
finished parts from which the next attempt goes on. A finished attempt is renamed to the artifact,
so a killed process never leaves half an artifact under the final name.

Locks keep two processes of one machine from doing the same work. Correctness does not rest on them,
since many network file systems have none between machines: every attempt has a folder of its own,
and of two that finish one is renamed, and the other takes what is there.

The root holds `sa_bench-store.json` with the format's version. Other files in the root belong to
somebody else: they are neither listed nor deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from sa_bench.core import uses
from sa_bench.core.disk import (
    copy_atomic,
    disk_errors,
    make_folder,
    replace_when_written,
    share,
    sweep,
    sync,
    write_atomic,
)
from sa_bench.core.errors import SaBenchError
from sa_bench.core.locks import Busy, hold_lock
from sa_bench.core.untrusted_text import read_json
from sa_bench.core.version import __version__

__all__ = [
    "PARTS",
    "STAGES",
    "Artifact",
    "Store",
    "content_hash",
    "copy_atomic",
    "digest",
    "disk_errors",
    "file_digest",
    "replace_when_written",
    "sweep",
    "write_atomic",
]

STAGES = (
    "base",
    "replay",
    "fisher",
    "forget",
    "samples",
    "features",
    "detections",
    "searches",
    "measure",
    "judge",
    "prompts",
    "bundles",
)
"""Every kind of artifact; a store holds nothing else."""
MARKER, FORMAT = "sa_bench-store.json", 1
PARTS = ".parts"
"""Folder in a partial artifact from which the next attempt goes on; the rest is made anew."""
ATTEMPT = "attempt-"  # how the folder of an attempt begins, before its machine and process
KEY = 16  # hex digits of a key
NAME = re.compile(rf"([0-9a-f]{{{KEY}}})(\.partial)?")
GONE = ".gone"  # suffix of what is being deleted


def digest(value: Any) -> str:
    """Hash plain values (dicts, lists, strings, numbers) to 16 hex digits; key order is ignored."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)


def canonical(value: Any) -> str:
    """Return the text that `digest` hashes."""
    return _encoder.encode(value)


def file_digest(path: Path) -> str:
    """Hash a file's bytes with sha256 to 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its key and the hash of its content."""

    path: Path
    key: str
    content: str  # hash of names and bytes of all files
    meta: Mapping[str, Any]
    cached: bool  # True if it existed before this call


class Entry(NamedTuple):
    """An artifact in a store."""

    stage: str
    key: str
    size: int
    """Bytes."""
    finished: bool


class Store:
    """A folder of artifacts. Any number of processes, and members of a group, may share it."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`, which is created on the first write."""
        self.root = root
        self._verified: set[tuple[str, str]] = set()
        self._uses = uses.uses_of_store(root.absolute(), root.absolute() / MARKER)

    def path(self, stage: str, key: str) -> Path:
        """Return where the finished artifact lies or would lie."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Return whether the artifact is finished, belongs to this key, and holds what was written.

        A positive answer is remembered, so that the files are hashed once.
        """
        if (stage, key) not in self._verified:
            path = self.path(stage, key)
            try:
                meta = read_json(path / "meta.json")
                is_intact = _is_named(meta, stage, key) and meta["content"] == content_hash(path)
            except (OSError, ValueError, KeyError, TypeError):
                return False
            if not is_intact:
                return False
            self._verified.add((stage, key))
        return True

    def get(self, stage: str, key: str, cached: bool = True) -> Artifact:
        """Read a finished artifact."""
        path = self.path(stage, key)
        meta = read_json(path / "meta.json")
        return Artifact(path, key, meta["content"], meta, cached)

    def _take(self, stage: str, key: str, cached: bool = True) -> Artifact | None:
        """Read a finished artifact that nobody may delete while this process lives.

        Returns:
            The artifact; None if there is none.
        """
        # Note the use before looking for it, so that it cannot be deleted in between.
        self._uses.note(f"{stage}/{key}")
        if not (self.path(stage, key) / "meta.json").is_file():
            self._verified.discard((stage, key))
        return self.get(stage, key, cached) if self.has(stage, key) else None

    def make(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], Mapping[str, Any] | None],
        wait: bool = True,
    ) -> Artifact:
        """Return the artifact that `inputs` name; `build(folder)` makes it if it is missing.

        `build` writes its files into the folder it gets and returns what `meta.json` should record
        (costs, counts). What it puts into `parts_of(folder)` (see `sa_bench.core.parts`) is there
        again when it is called after a kill, and is not part of the artifact. An artifact whose
        files were changed or lost since is made anew.

        Raises:
            Busy: another process makes it, and `wait` is False.
        """
        if stage not in STAGES:
            raise ValueError(f"{stage!r} is not a stage of a store: add it to STAGES")
        key = digest(inputs)
        if (artifact := self._take(stage, key)) is not None:
            self._sweep_partial(stage, key)
            return artifact
        self._open()
        with self._lock(stage, key, wait):
            if (artifact := self._take(stage, key)) is not None:
                return artifact
            try:
                with disk_errors(self.root):
                    self._build(stage, key, inputs, build)
            except Exception:
                if (artifact := self._take(stage, key)) is not None:
                    return artifact  # another machine was quicker, and swept our attempt away
                raise
            self._uses.note(f"{stage}/{key}")
        return self.get(stage, key, cached=False)

    def parts_folder(self, stage: str, key: str) -> Path:
        """Return where the finished parts of an unfinished artifact lie or would lie."""
        return self.root / stage / f"{key}.partial" / PARTS

    @contextmanager
    def making_part(self, stage: str, key: str) -> Iterator[Path]:
        """Give the folder for parts of an artifact that another call of `make` will finish.

        Parts need no lock: each is a file that appears whole.

        Raises:
            CellFailed: the disk is full, or may not be written to.
        """
        self._open()
        with disk_errors(self.root):
            folder = self.parts_folder(stage, key)
            self._uses.note(f"{stage}/{folder.parent.name}")
            make_folder(folder)
            yield folder

    def _sweep_partial(self, stage: str, key: str) -> None:
        """Delete what a process left that was killed after its artifact got its final name."""
        partial = self.path(stage, key).with_name(f"{key}.partial")
        if partial.is_dir():
            with suppress(Busy), self._lock(stage, key, wait=False):
                _delete(partial)

    def _build(self, stage: str, key: str, inputs: Mapping[str, Any], build: Callable) -> None:
        """Build an artifact in a folder of this attempt, write meta.json, and give it its final name."""
        final = self.path(stage, key)
        partial = final.with_name(f"{key}.partial")
        if final.exists() and not self.has(stage, key):
            _delete(final)
        make_folder(partial)
        for left_over in partial.iterdir():
            if left_over.name != PARTS and not _is_alive_elsewhere(left_over.name):
                _delete(left_over)
        attempt = partial / f"{ATTEMPT}{_name_process()}-{uuid.uuid4().hex[:8]}"
        make_folder(attempt)
        meta = dict(build(attempt) or {})
        meta |= {"stage": stage, "inputs": dict(inputs), "content": content_hash(attempt)}
        # JSON turns every key of a dict into text; the hash of other keys is recorded beside it.
        if digest(json.loads(json.dumps(meta["inputs"], default=str))) != key:
            meta["named_by"] = canonical(inputs)
        for path in (attempt, *attempt.rglob("*")):
            share(path)
            if path.is_file():
                sync(path)
        write_atomic(attempt / "meta.json", json.dumps(meta, indent=1, default=str).encode())
        sync(attempt)
        attempt.rename(final)  # fails if another machine's attempt has that name already
        sync(final.parent)
        _delete(partial)

    def drop(self, stage: str, key: str) -> None:
        """Delete an artifact, finished or not, unless another process uses it."""
        path = self.path(stage, key)
        names = [name for name in (key, f"{key}.partial") if path.with_name(name).exists()]
        if not names:
            return
        self._open()
        with self._lock(stage, key):
            for name in names:
                self._remove(stage, name)

    def entries(self) -> list[Entry]:
        """List every artifact in the store.

        Artifacts that appear or vanish meanwhile do no harm.
        """
        return [
            Entry(stage, key, _count_bytes(path), finished)
            for stage, key, finished, path in self._walk_artifacts()
        ]

    def iterate_meta(self, newest: int = 1_000) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield (stage, content of meta.json) of the `newest` finished artifacts of each stage; skip unreadable ones.

        A store holds tens of thousands, and what was made last says best how fast its machine is.
        """
        if not self.is_marked():
            return
        for stage in sorted(STAGES):
            with suppress(OSError), os.scandir(self.root / stage) as entries:
                made = [
                    entry
                    for entry in entries
                    if len(entry.name) == KEY and NAME.fullmatch(entry.name)
                ]
                if len(made) > newest:
                    made.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
                for entry in sorted(made[-newest:], key=lambda entry: entry.name):
                    with suppress(OSError, ValueError):
                        if not entry.is_symlink():
                            with FileIO(f"{entry.path}/meta.json") as file:
                                yield stage, json.loads(file.read())

    def _walk_artifacts(self) -> Iterator[tuple[str, str, bool, Path]]:
        """Yield (stage, key, finished, folder) of every artifact."""
        if not self.is_marked():
            return
        for stage in sorted(STAGES):
            for path in _list_folder(self.root / stage):
                match = NAME.fullmatch(path.name)
                if match is None or path.is_symlink() or not path.is_dir():
                    continue
                if match[2] or (path / "meta.json").is_file():
                    yield stage, match[1], not match[2], path

    def gc(self, stages: tuple[str, ...] = ()) -> int:
        """Delete partial artifacts, all artifacts of `stages`, and what killed processes left.

        What another process is making or uses stays, and so does everything that is not part of a
        store.

        Returns:
            The number of bytes freed.

        Raises:
            SaBenchError: the folder is not a store.
        """
        if not _list_folder(self.root):
            return 0
        if not self.is_marked():
            raise SaBenchError(
                f"{self.root} is not a store of sa_bench (it holds no {MARKER}), so nothing is deleted. "
                "Does SA_BENCH_STORE name the right folder?"
            )
        self._open()
        freed = 0
        for stage, key, finished, path in list(self._walk_artifacts()):
            if finished and stage not in stages:
                continue
            size = _count_bytes(path)
            with suppress(Busy), self._lock(stage, key, wait=False):
                freed += size if self._remove(stage, path.name) else 0
        for stage in STAGES:
            for path in _list_folder(self.root / stage):
                if path.name.endswith(GONE) and NAME.fullmatch(path.name[1:17]):
                    _delete(path)
        for path in _list_folder(self.root / "locks"):
            stage, _, key = path.stem.rpartition("-")
            if path.suffix == ".lock" and stage in STAGES and NAME.fullmatch(key):
                # A lock's file is removed when the lock is released.
                with suppress(Busy), hold_lock(path, "gc", wait=False):
                    pass
        self._uses.others()  # deletes the files of dead processes
        return freed

    def _remove(self, stage: str, name: str) -> bool:
        """Delete the artifact `name`, whose lock is held, unless another process uses it.

        Returns:
            Whether it was deleted.
        """
        path = self.root / stage / name
        aside = path.with_name(f".{name[:16]}.{uuid.uuid4().hex}{GONE}")
        with disk_errors(self.root), self._uses.judged():
            if f"{stage}/{name}" in self._uses.others():
                return False
            with suppress(FileNotFoundError):
                path.rename(aside)
        self._verified.discard((stage, name))
        _delete(aside)
        return True

    @contextmanager
    def _lock(self, stage: str, key: str, wait: bool = True) -> Iterator[None]:
        """Hold the lock of one artifact within the block."""
        with hold_lock(self.root / "locks" / f"{stage}-{key}.lock", f"{stage}/{key}", wait):
            yield

    def is_marked(self) -> bool:
        """Return whether the folder is a store: marked as one, or made before stores were marked.

        Raises:
            SaBenchError: a later version of sa_bench made it.
        """
        try:
            marker = json.loads((self.root / MARKER).read_bytes())
            if int(marker["format"]) > FORMAT:
                raise SaBenchError(
                    f"{self.root} is the store of a later sa_bench ({marker.get('made_by')}, format "
                    f"{marker['format']}, this one knows {FORMAT}). Update sa_bench, or set SA_BENCH_STORE."
                )
            return True
        except FileNotFoundError:
            return any(
                _is_old(path, stage) for stage in STAGES for path in _list_folder(self.root / stage)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return True  # an unreadable marker is a marker too

    def _open(self) -> None:
        """Create the folder and mark it as a store, if it is not marked yet."""
        if not (self.root / MARKER).is_file():
            marker = {"format": FORMAT, "made_by": f"sa_bench {__version__}"}
            write_atomic(self.root / MARKER, json.dumps(marker).encode() + b"\n")
        self.is_marked()


def _is_old(path: Path, stage: str) -> bool:
    """Return whether `path` is an artifact of a store from before stores were marked."""
    if not NAME.fullmatch(path.name):
        return False
    try:
        return json.loads((path / "meta.json").read_bytes())["stage"] == stage
    except (OSError, ValueError, KeyError, TypeError):
        return path.name.endswith(".partial") and any(
            file.name == f"{stage}-{path.stem}.lock"
            for file in _list_folder(path.parent.parent / "locks")
        )


def _is_named(meta: Mapping[str, Any], stage: str, key: str) -> bool:
    """Return whether `key` is the hash of the inputs in `meta`; True if `meta` has no inputs."""
    if meta.get("stage", stage) != stage or "inputs" not in meta:
        return "inputs" not in meta and meta.get("stage", stage) == stage
    if "named_by" in meta:
        return hashlib.sha256(str(meta["named_by"]).encode()).hexdigest()[:16] == key
    return digest(meta["inputs"]) == key


def _name_process() -> str:
    """Name this process among those of all machines: `host-pid`."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _is_alive_elsewhere(name: str) -> bool:
    """Return whether `name` is the folder of another process's attempt that may still be under way.

    Of this machine's processes it is known; one of another machine is taken to be alive.
    """
    host, _, pid = name.removeprefix(ATTEMPT).rpartition("-")[0].rpartition("-")
    if not name.startswith(ATTEMPT) or not pid.isdecimal():
        return False
    if host != socket.gethostname():
        return True
    return int(pid) != os.getpid() and _is_running(int(pid))


def _is_running(pid: int) -> bool:
    """Return whether a process of this machine has the number `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _list_folder(folder: Path) -> list[Path]:
    """List a folder's content, sorted; [] if it is not a folder or cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _count_bytes(folder: Path) -> int:
    """Sum the bytes of all files below a folder that still exist."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(Path(parent) / name).st_size  # noqa: PTH116
    return total


def _delete(path: Path) -> None:
    """Delete a file, a link or a whole folder; a folder's errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def content_hash(path: Path) -> str:
    """Hash a file's bytes, or names and bytes of a folder's files.

    Hidden files (a file manager's, a killed write's) and `meta.json` are left out.
    """
    if path.is_file():
        return file_digest(path)
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.name != "meta.json" and not file.name.startswith(".")
    )
    return digest([(file.relative_to(path).as_posix(), file_digest(file)) for file in files])
