"""Artifacts: content-addressed, atomic, locked, resumable.

An artifact is a folder `<root>/<stage>/<key>/` with the files of one finished stage and `meta.json`.
While it is made it is called `<key>.partial`, so a killed process leaves either a finished artifact
or a partial one that the next run resumes; never a half one under the final name.

The root holds `sa_bench-store.json` with the format's version. Whatever else lies there is somebody else's: it is
neither listed nor deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "measure",
    "judge",
    "prompts",
    "bundles",
)
"""Every kind of artifact; nothing else is a store's."""
MARKER, FORMAT = "sa_bench-store.json", 1
PARTS = ".parts"  # in a partial artifact: what the next attempt may go on from; everything else is made anew
NAME = re.compile(r"([0-9a-f]{16})(\.partial)?")
GONE = ".gone"  # the end of the name of what is being deleted


def digest(value: Any) -> str:
    """A 16-hex-digit hash of plain values (dicts, lists, strings, numbers), independent of order."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """The text that `digest` hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder, its key and the hash of its content."""

    path: Path
    key: str
    content: str  # hash over names and bytes of all files
    meta: Mapping[str, Any]
    cached: bool  # True if it was there before this call


class Store:
    """A folder of artifacts. Any number of processes, and of a group's members, may share one."""

    def __init__(self, root: Path) -> None:
        """Use `root`, created on first write."""
        self.root = root
        self._verified: set[tuple[str, str]] = set()
        self._uses = uses.uses_of_store(root.absolute(), root.absolute() / MARKER)

    def path(self, stage: str, key: str) -> Path:
        """Where the finished artifact lies or would lie."""
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is finished, is the one of this key, and holds what was written (looked at once)."""
        if (stage, key) not in self._verified:
            path = self.path(stage, key)
            try:
                meta = read_json(path / "meta.json")
                right = _is_named(meta, stage, key) and meta["content"] == content_hash(path)
            except (OSError, ValueError, KeyError, TypeError):
                return False
            if not right:
                return False
            self._verified.add((stage, key))
        return True

    def get(self, stage: str, key: str, cached: bool = True) -> Artifact:
        """A finished artifact."""
        path = self.path(stage, key)
        meta = read_json(path / "meta.json")
        return Artifact(path, key, meta["content"], meta, cached)

    def _used(self, stage: str, key: str, cached: bool = True) -> Artifact | None:
        """A finished artifact, which nobody deletes as long as this process lives; None: it is not there."""
        self._uses.note(
            f"{stage}/{key}"
        )  # before it is looked for, so that it cannot go in between
        if not (self.path(stage, key) / "meta.json").is_file():
            self._verified.discard((stage, key))
        return self.get(stage, key, cached) if self.has(stage, key) else None

    def make(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        build: Callable[[Path], Mapping[str, Any] | None],
    ) -> Artifact:
        """The artifact that `inputs` name; `build(folder)` makes it if it is not there.

        `build` writes its files into the folder it is given and returns what `meta.json` should
        record (costs, counts). What it puts into the folder's `PARTS` (see `sa_bench.core.parts`) is there again when it is
        called after a kill, and is no part of the artifact. An artifact whose files were changed or lost since is
        made anew.
        """
        if stage not in STAGES:
            raise ValueError(f"{stage!r} is no stage of a store: add it to STAGES")
        key = digest(inputs)
        if (artifact := self._used(stage, key)) is not None:
            return artifact
        self._open()
        with self._locked(stage, key):
            if (artifact := self._used(stage, key)) is not None:
                return artifact
            with disk_errors(self.root):
                self._build(stage, key, inputs, build)
            self._uses.note(f"{stage}/{key}")
        return self.get(stage, key, cached=False)

    def _build(self, stage: str, key: str, inputs: Mapping[str, Any], build: Callable) -> None:
        final = self.path(stage, key)
        partial = final.with_name(f"{key}.partial")
        _delete(final)
        make_folder(partial)
        for left_over in partial.iterdir():
            if left_over.name != PARTS:
                _delete(left_over)
        meta = dict(build(partial) or {})
        _delete(partial / PARTS)
        meta |= {"stage": stage, "inputs": dict(inputs), "content": content_hash(partial)}
        if (
            digest(json.loads(json.dumps(meta["inputs"], default=str))) != key
        ):  # of keys that are no texts
            meta["named_by"] = canonical(inputs)
        for path in (partial, *partial.rglob("*")):
            share(path)
            if path.is_file():
                sync(path)
        write_atomic(partial / "meta.json", json.dumps(meta, indent=1, default=str).encode())
        sync(partial)
        partial.rename(final)
        sync(final.parent)

    def drop(self, stage: str, key: str) -> None:
        """Delete an artifact, finished or not, unless another process uses it; whoever needs it again makes it again."""
        path = self.path(stage, key)
        names = [name for name in (key, f"{key}.partial") if path.with_name(name).exists()]
        if not names:
            return
        self._open()
        with self._locked(stage, key):
            for name in names:
                self._remove(stage, name)

    def entries(self) -> list[tuple[str, str, int, bool]]:
        """(stage, key, bytes, finished) of everything in the store; what comes and goes meanwhile does not disturb."""
        return [
            (stage, key, _size(path), finished) for stage, key, finished, path in self._folders()
        ]

    def metas(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(stage, what its meta.json says) of everything finished; what cannot be read is left out."""
        for stage, _, finished, path in self._folders():
            if finished:
                with suppress(OSError, ValueError):
                    yield stage, json.loads((path / "meta.json").read_bytes())

    def _folders(self) -> Iterator[tuple[str, str, bool, Path]]:
        if not self.is_marked():
            return
        for stage in sorted(STAGES):
            for path in _listed(self.root / stage):
                match = NAME.fullmatch(path.name)
                if match is None or path.is_symlink() or not path.is_dir():
                    continue
                if match[2] or (path / "meta.json").is_file():
                    yield stage, match[1], not match[2], path

    def gc(self, stages: tuple[str, ...] = ()) -> int:
        """Delete partial artifacts, all of `stages`, and what killed processes left; returns the bytes freed.

        What another process is making or has taken is left alone, and so is everything that is not a store's.

        Raises:
            SaBenchError: the folder is no store.
        """
        if not _listed(self.root):
            return 0
        if not self.is_marked():
            raise SaBenchError(
                f"{self.root} is no store of sa_bench (it holds no {MARKER}), so nothing is deleted. "
                "Does SA_BENCH_STORE name the right folder?"
            )
        self._open()
        freed = 0
        for stage, key, finished, path in list(self._folders()):
            if finished and stage not in stages:
                continue
            size = _size(path)
            with suppress(Busy), self._locked(stage, key, wait=False):
                freed += size if self._remove(stage, path.name) else 0
        for stage in STAGES:
            for path in _listed(self.root / stage):
                if path.name.endswith(GONE) and NAME.fullmatch(path.name[1:17]):
                    _delete(path)
        for path in _listed(self.root / "locks"):
            stage, _, key = path.stem.rpartition("-")
            if path.suffix == ".lock" and stage in STAGES and NAME.fullmatch(key):
                with (
                    suppress(Busy),
                    hold_lock(path, "gc", wait=False),
                ):  # taken, it is removed when it is let go
                    pass
        self._uses.others()  # sweeps those of the dead
        return freed

    def _remove(self, stage: str, name: str) -> bool:
        """Delete `name` of a stage, whose lock is held, unless another process uses it; whether it is gone."""
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
    def _locked(self, stage: str, key: str, wait: bool = True) -> Iterator[None]:
        with hold_lock(self.root / "locks" / f"{stage}-{key}.lock", f"{stage}/{key}", wait):
            yield

    def is_marked(self) -> bool:
        """Whether the folder is a store: marked as one, or made before stores were marked.

        Raises:
            SaBenchError: it is a later version's.
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
                _is_old(path, stage) for stage in STAGES for path in _listed(self.root / stage)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return True  # a marker that cannot be read is a marker

    def _open(self) -> None:
        """Make the folder and mark it as a store, if it is not yet."""
        if not (self.root / MARKER).is_file():
            facts = {"format": FORMAT, "made_by": f"sa_bench {__version__}"}
            write_atomic(self.root / MARKER, json.dumps(facts).encode() + b"\n")
        self.is_marked()


def _is_old(path: Path, stage: str) -> bool:
    """Whether `path` is an artifact as stores held it before they were marked."""
    if not NAME.fullmatch(path.name):
        return False
    try:
        return json.loads((path / "meta.json").read_bytes())["stage"] == stage
    except (OSError, ValueError, KeyError, TypeError):
        return path.name.endswith(".partial") and any(
            file.name == f"{stage}-{path.stem}.lock"
            for file in _listed(path.parent.parent / "locks")
        )


def _is_named(meta: Mapping[str, Any], stage: str, key: str) -> bool:
    """Whether `key` is the name of what `meta` says it is; of one that says nothing of its inputs it is believed."""
    if meta.get("stage", stage) != stage or "inputs" not in meta:
        return "inputs" not in meta and meta.get("stage", stage) == stage
    if "named_by" in meta:
        return hashlib.sha256(str(meta["named_by"]).encode()).hexdigest()[:16] == key
    return digest(meta["inputs"]) == key


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing if it is none, or not to be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Bytes of all files that are still there."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(Path(above) / name).st_size  # noqa: PTH116
    return total


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def content_hash(path: Path) -> str:
    """A hash of a file's bytes, or over names and bytes of a folder's files.

    Hidden files (a file manager's, a killed write's) and `meta.json` do not count.
    """
    if path.is_file():
        return file_digest(path)
    files = sorted(
        f
        for f in path.rglob("*")
        if f.is_file() and f.name != "meta.json" and not f.name.startswith(".")
    )
    return digest([(f.relative_to(path).as_posix(), file_digest(f)) for f in files])
