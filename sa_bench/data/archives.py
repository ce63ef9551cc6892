"""Read published archives without unpacking them, and pickles without running them.

An archive is looked for in the folder SA_BENCH_DATA (as the archive or extracted), then in the
store, then it is downloaded. What is downloaded or stored must be the published one. A local one
may differ (a smaller extract, a corrected copy): then its content hash is that of its files, and it
is marked as not published.
"""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError, first_line
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import digest, disk_errors
from sa_bench.data.assets.download import download, drop

LARGEST = 2**30  # most bytes of a member; the largest one, STL10's test_X.bin, has 221 MB

Arrays = dict[str, np.ndarray]
Parse = Callable[[Mapping[str, bytes]], Arrays]


class Contents(NamedTuple):
    """The arrays of a data set, and what they are."""

    arrays: Arrays  # `train_images` uint8 (N, H, W, C), `train_labels` uint8 (N,), also `test_*`
    content: str  # a hash that is part of every key and fingerprint
    published: bool


@dataclass(frozen=True)
class Archive:
    """A published `.tar.gz` with the members that are read from it."""

    title: str
    size: str
    url: str
    md5: str  # of the archive
    folder: str  # the only folder in the archive
    members: Mapping[str, str]  # md5 by name in `folder`
    recipe: str  # what `parse` does, in words; part of the content hash

    @property
    def file(self) -> str:
        """File name of the archive."""
        return self.url.rpartition("/")[2]

    @property
    def content(self) -> str:
        """Content hash of the published archive, known without reading it."""
        return digest({"title": self.title, "members": dict(self.members), "recipe": self.recipe})

    def local(self, folder: Path | None) -> Path | None:
        """Find the extracted folder, or else the archive, in the folder SA_BENCH_DATA.

        Returns:
            Its path; None if neither is there.

        Raises:
            MissingAsset: `folder` is not None and not a folder.
        """
        if folder is None:
            return None
        if not folder.is_dir():
            raise MissingAsset(
                f"SA_BENCH_DATA={folder} is not a folder; put {self.file} into one or unset SA_BENCH_DATA."
            )
        for path in (folder / self.folder, folder / self.file):
            if path.exists():
                return path
        return folder if folder.name == self.folder else None

    def load(self, cache: Path, local: Path | None, parse: Parse) -> Contents:
        """Load the arrays that `parse` makes of the members.

        Args:
            cache: folder where the archive is stored.
            local: the folder SA_BENCH_DATA, which is searched first; None if it is not set.
            parse: function that makes the arrays of the members' bytes.

        Raises:
            MissingAsset: it is nowhere and cannot be downloaded; the message says what was tried
                and what to do.
            SaBenchError: the local one is damaged; the message names the file and what is wrong.
        """
        local_path = self.local(local)
        if local_path is not None:
            try:
                return self._read(local_path, parse)
            except SaBenchError as error:
                raise SaBenchError(
                    f"{error} Get {self.file} ({self.size}) from {self.url}, or take it out of SA_BENCH_DATA."
                ) from error
        stored_file, attempts = cache / self.file, []
        if stored_file.exists():
            try:
                contents = self._read(stored_file, parse)
                if contents.published:
                    return contents
                attempts.append(f"{stored_file} is not the published archive")
            except SaBenchError as error:  # downloaded again below, which replaces it
                attempts.append(str(error).rstrip("."))
        try:
            self._fetch(stored_file)
            return self._read(stored_file, parse)
        except CellFailed:  # a disk's failure, which no other source would mend
            raise
        except (SaBenchError, OSError) as error:
            attempts.append(first_line(error))
        raise MissingAsset(
            f"{self.title} is not available ({'; '.join(attempts)}). Put {self.file} ({self.size}) into a folder "
            "and set SA_BENCH_DATA to it, or go online once."
        )

    def _read(self, path: Path, parse: Parse) -> Contents:
        """Read the archive or extracted folder at `path`; errors name `path`."""
        try:
            members = self._read_folder(path) if path.is_dir() else self._read_tar(path)
            arrays = parse(members)
        except SaBenchError as error:
            raise SaBenchError(f"{path}: {error}") from error
        except OSError as error:
            raise SaBenchError(f"{path}: it cannot be read ({first_line(error)}).") from error
        if all(_md5(members[name]).hexdigest() == md5 for name, md5 in self.members.items()):
            return Contents(arrays, self.content, published=True)
        hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in members.items()}
        content = digest({"title": self.title, "sha256": hashes, "recipe": self.recipe})
        return Contents(arrays, content, published=False)

    def _read_folder(self, path: Path) -> dict[str, bytes]:
        """Read the members from an extracted folder."""
        if missing_files := [name for name in self.members if not (path / name).is_file()]:
            raise SaBenchError(f"it holds no {', no '.join(missing_files)}.")
        for name in self.members:
            _require_size(name, (path / name).stat().st_size)
        return {name: (path / name).read_bytes() for name in self.members}

    def _read_tar(self, path: Path) -> dict[str, bytes]:
        """Read the members in one pass, up to the last of them; nothing is written to disk."""
        with path.open("rb") as file:
            start = file.read(12)
        if start[:2] != b"\x1f\x8b":
            problem = (
                "it is empty" if not start else f"it is not a gzip file (it starts with {start!r})"
            )
            raise SaBenchError(f"{problem}.")
        contents: dict[str, bytes] = {}
        try:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if name.is_absolute() or ".." in name.parts:
                        raise SaBenchError(
                            f"it holds {member.name!r}, a path that leads out of the archive."
                        )
                    is_member = name.name in self.members and name.parts == (self.folder, name.name)
                    if is_member and member.isfile() and (file := tar.extractfile(member)):
                        _require_size(member.name, member.size)
                        contents[name.name] = file.read()
                    if len(contents) == len(self.members):
                        break
        except SaBenchError:
            raise
        except Exception as error:
            # tarfile, gzip, zlib and the allocator raise errors of their own.
            raise SaBenchError(f"it is damaged or cut short ({first_line(error)}).") from error
        if missing_files := [
            f"{self.folder}/{name}" for name in self.members if name not in contents
        ]:
            raise SaBenchError(f"it holds no {', no '.join(missing_files)}.")
        return contents

    def _fetch(self, target: Path) -> None:
        """Download to a hidden name, compare the checksum, rename; one process at a time.

        What an earlier attempt has left is continued.

        Raises:
            SaBenchError: what came is not the published archive, or the server cannot be reached.
            CellFailed: the disk is full.
        """
        partial_file, stamp_before = target.with_name(f".{target.name}.part"), _read_stamp(target)
        with disk_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with hold_lock(target.with_name(f".{target.name}.lock"), self.title):
                if _read_stamp(target) != stamp_before:  # another process was quicker
                    return
                download(self.url, partial_file, self.title, is_hash_known=True)
                with partial_file.open("rb") as file:
                    md5 = hashlib.file_digest(file, _md5).hexdigest()
                if md5 != self.md5:
                    drop(partial_file)
                    raise SaBenchError(
                        f"{self.url} sent another file than the published archive (md5 {md5})"
                    )
                partial_file.replace(target)
                drop(partial_file)  # what the server called this version


def _read_stamp(path: Path) -> tuple[int, int] | None:
    """Return a file's inode and time of change; None if there is no file."""
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _md5(raw: bytes = b"") -> Any:
    return hashlib.md5(raw, usedforsecurity=False)  # as published; it detects damage, not malice


def _require_size(name: str, size: int) -> None:
    """Reject a member that is larger than `LARGEST`."""
    if not 0 <= size <= LARGEST:
        raise SaBenchError(f"{name} has {size:,} bytes, which cannot be right.")


class ArraysOnly(pickle.Unpickler):
    """Unpickler for plain containers of numpy arrays; it imports no other global."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> Any:
        """Return one of numpy's array constructors.

        Raises:
            SaBenchError: the pickle asks for anything else.
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
