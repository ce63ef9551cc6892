"""Published archives, read without unpacking them, and pickles read without running them.

An archive is looked for in the folder SA_BENCH_DATA (as the archive or extracted), then in the store, then
fetched. What is fetched or kept must be the published one. A local one may differ (a smaller extract, a
corrected copy): then its content hash is that of its files, and it is marked as not published.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import digest, disk_errors

TIMEOUT = 4.0  # seconds a server may keep silent
LARGEST = 2**30  # bytes of a member; the largest that is read, STL10's test_X.bin, has 221 MB

Arrays = dict[str, np.ndarray]
Parse = Callable[[Mapping[str, bytes]], Arrays]


class Contents(NamedTuple):
    """A data set as it was found."""

    arrays: (
        Arrays  # `train_images` uint8 (N, H, W, C), `train_labels` uint8 (N,), `test_*` likewise
    )
    content: str  # a hash that is part of every key and fingerprint
    published: bool


@dataclass(frozen=True)
class Archive:
    """A published `.tar.gz` with the members that are read from it."""

    title: str
    size: str
    url: str
    md5: str  # of the archive
    folder: str  # the one folder in it
    members: Mapping[str, str]  # name in `folder` -> md5
    recipe: str  # what `parse` does; named in the content hash

    @property
    def file(self) -> str:
        """The archive's file name."""
        return self.url.rpartition("/")[2]

    @property
    def content(self) -> str:
        """The content hash of the published archive, known without reading it."""
        return digest({"title": self.title, "members": dict(self.members), "recipe": self.recipe})

    def local(self, folder: Path | None) -> Path | None:
        """The extracted folder or else the archive in the folder SA_BENCH_DATA; None if neither is there.

        Raises:
            MissingAsset: `folder` is given and is no folder.
        """
        if folder is None:
            return None
        if not folder.is_dir():
            raise MissingAsset(
                f"SA_BENCH_DATA={folder} is no folder; put {self.file} into one or unset SA_BENCH_DATA."
            )
        inside = [path for path in (folder / self.folder, folder / self.file) if path.exists()]
        return inside[0] if inside else folder if folder.name == self.folder else None

    def load(self, cache: Path, local: Path | None, parse: Parse) -> Contents:
        """What `parse` makes of the members, from `local` (SA_BENCH_DATA), `cache` or the network.

        Raises:
            MissingAsset: it is nowhere and cannot be fetched; says what was tried and what to do.
            SaBenchError: the local one is damaged; names the file and what is wrong.
        """
        found = self.local(local)
        if found is not None:
            try:
                return self._read(found, parse)
            except SaBenchError as error:
                raise SaBenchError(
                    f"{error} Get {self.file} ({self.size}) from {self.url}, or take it out of SA_BENCH_DATA."
                ) from error
        kept, tried = cache / self.file, []
        if kept.exists():
            try:
                contents = self._read(kept, parse)
                if contents.published:
                    return contents
                tried.append(f"{kept} is not the published archive")
            except SaBenchError as error:  # fetched again below, which replaces it
                tried.append(str(error).rstrip("."))
        try:
            self._fetch(kept)
            return self._read(kept, parse)
        except CellFailed:  # the disk, which no other source would mend
            raise
        except (SaBenchError, OSError, HTTPException) as error:
            tried.append(f"{self.url}: {describe_error(error)}")
        raise MissingAsset(
            f"{self.title} cannot be had ({'; '.join(tried)}). Put {self.file} ({self.size}) into a folder "
            "and set SA_BENCH_DATA to it, or go online once."
        )

    def _read(self, path: Path, parse: Parse) -> Contents:
        """Errors name `path`."""
        try:
            members = self._from_folder(path) if path.is_dir() else self._from_tar(path)
            arrays = parse(members)
        except SaBenchError as error:
            raise SaBenchError(f"{path}: {error}") from error
        except OSError as error:
            raise SaBenchError(f"{path}: it cannot be read ({describe_error(error)}).") from error
        if all(_md5(members[name]).hexdigest() == md5 for name, md5 in self.members.items()):
            return Contents(arrays, self.content, published=True)
        hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in members.items()}
        content = digest({"title": self.title, "sha256": hashes, "recipe": self.recipe})
        return Contents(arrays, content, published=False)

    def _from_folder(self, path: Path) -> dict[str, bytes]:
        if absent := [name for name in self.members if not (path / name).is_file()]:
            raise SaBenchError(f"it holds no {', no '.join(absent)}.")
        for name in self.members:
            _require_size(name, (path / name).stat().st_size)
        return {name: (path / name).read_bytes() for name in self.members}

    def _from_tar(self, path: Path) -> dict[str, bytes]:
        """The members in one pass that ends with the last of them; nothing is written to disk."""
        with path.open("rb") as file:
            start = file.read(12)
        if start[:2] != b"\x1f\x8b":
            kind = "it is empty" if not start else f"it is no gzip file (it starts with {start!r})"
            raise SaBenchError(f"{kind}.")
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if name.is_absolute() or ".." in name.parts:
                        raise SaBenchError(
                            f"it holds {member.name!r}, a path that leads out of it."
                        )
                    wanted = name.name in self.members and name.parts == (self.folder, name.name)
                    if wanted and member.isfile() and (file := tar.extractfile(member)):
                        _require_size(member.name, member.size)
                        found[name.name] = file.read()
                    if len(found) == len(self.members):
                        break
        except SaBenchError:
            raise
        except Exception as error:  # tarfile, gzip, zlib and the allocator all have their own
            raise SaBenchError(f"it is damaged or cut short ({describe_error(error)}).") from error
        if absent := [f"{self.folder}/{name}" for name in self.members if name not in found]:
            raise SaBenchError(f"it holds no {', no '.join(absent)}.")
        return found

    def _fetch(self, to: Path) -> None:
        """Download to a hidden name, compare the checksum, rename. One process at a time.

        Raises:
            SaBenchError: what came is not the published archive.
            OSError: the server cannot be reached.
        """
        part, md5, before = to.with_name(f".{to.name}.part"), _md5(), _file_stamp(to)
        with disk_errors(to.parent):
            to.parent.mkdir(parents=True, exist_ok=True)
            with hold_lock(to.with_name(f".{to.name}.lock"), self.title):
                if _file_stamp(to) != before:  # another process was quicker
                    return
                if sys.stderr.isatty():
                    print(f"Fetching {self.title} ({self.size}) from {self.url}", file=sys.stderr)
                try:
                    with (
                        urllib.request.urlopen(self.url, timeout=TIMEOUT) as answer,
                        part.open("wb") as file,
                    ):
                        while block := answer.read(2**20):
                            md5.update(block)
                            file.write(block)
                        file.flush()
                        os.fsync(file.fileno())
                    if md5.hexdigest() != self.md5:
                        raise SaBenchError(
                            f"{self.url}: what came is not the archive (md5 {md5.hexdigest()})"
                        )
                    part.replace(to)
                finally:
                    part.unlink(missing_ok=True)


def _file_stamp(path: Path) -> tuple[int, int] | None:
    return ((found := path.stat()).st_ino, found.st_mtime_ns) if path.exists() else None


def _md5(raw: bytes = b"") -> Any:
    return hashlib.md5(raw, usedforsecurity=False)  # as published; it tells damage, not malice


def _require_size(name: str, size: int) -> None:
    if not 0 <= size <= LARGEST:
        raise SaBenchError(f"{name} has {size:,} bytes, which cannot be right.")


def describe_error(error: Exception) -> str:
    """The first line of the error's message, or its type."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class ArraysOnly(pickle.Unpickler):
    """Unpickles plain containers of numpy arrays and nothing else: no other global is ever imported."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        """Admit numpy's array constructors.

        Raises:
            SaBenchError: the pickle asks for any other name.
        """
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            return self._constructor(name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise SaBenchError(f"a pickle asks for {module}.{name}; only numpy arrays are admitted")

    @staticmethod
    def _constructor(name: str) -> Callable[..., Any]:
        from numpy._core import multiarray, numeric

        return getattr(numeric if name == "_frombuffer" else multiarray, name)
