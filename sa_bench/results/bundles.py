"""Bundles: the results of a run as one file for others, `NAME.sabench.zip`, and how a stranger's file is opened.

A ZIP archive of `manifest.json` and a folder a cell: `result.json`, `scores/*.parquet`, the image sets and, if asked
for, the weights. The manifest has the sha256 of every member and of what was left out. The same content gives the
same file, whose hash names it. Nothing is unpacked before the names, the sizes and the manifest have been looked at.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import find_steering_characters
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest, file_digest, replace_when_written
from sa_bench.core.untrusted_arrays import is_zip, open_zip, read_member
from sa_bench.core.untrusted_text import MIB, parse_json
from sa_bench.core.version import __version__
from sa_bench.results.rows import may_be_explicit
from sa_bench.results.sealing import EDITED, FILES
from sa_bench.results.untrusted import (
    MODEL,
    Differs,
    require_plain,
    require_readable,
    validate_result,
)

SCHEMA = 1
BUNDLED = ".sabench.zip"
LIMIT = 16.0  # GB that a bundle may unpack to, unless asked otherwise
MANIFEST, LARGEST_TEXT = "manifest.json", 64 * MIB  # bytes of a JSON file
LONGEST = 60  # letters of a name to be shown
ENDINGS = (".json", ".parquet", ".safetensors")
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: when it was packed is no part of a bundle
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    AttributeError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    OSError,
)
"""What zipfile, its decompressors and a manifest of another form raise."""
BASE = "-base.safetensors"
AGAIN = "Make it again: the command of the run, with the same --out."
LEFT_OUT = "deleted by the run", "images left out", "may show nudity"


def write(
    rows: Sequence[Mapping[str, Any]],
    file: Path,
    by: str = "",
    images: bool = True,
    nudity: bool = False,
    models: bool = False,
) -> dict[str, Any]:
    """Pack results of run folders into `file`; returns the manifest.

    Args:
        rows: as `read_results` gives them.
        file: must end in `BUNDLED`.
        by: who made them, shown beside every row; at most 60 letters.
        images: False: of image sets the hashes alone.
        nudity: also images of c_f that may show nudity.
        models: also the forgotten weights, so that images can be made again.

    Raises:
        SaBenchError: another ending or name, a result that no run made, or a file that is gone.
    """
    if not file.name.endswith(BUNDLED):
        raise SaBenchError(f"{file}: a bundle is called NAME{BUNDLED}.")
    members: dict[str, Path] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for row in rows:
        folder = Path(row["folder"])
        if row.get("origin") == EDITED:
            raise SaBenchError(f"{folder}: its result was {EDITED}. {AGAIN}")
        if row["method"] == "external" or not row["folder"] or row.get("origin"):
            raise SaBenchError(
                f"{row['folder'] or row['task']} has no images of its own: a bundle is made of run folders."
            )
        if f"{folder.name}/result.json" in members:
            raise SaBenchError(f"Two of the runs hold {folder.name}; make a bundle of each.")
        members[f"{folder.name}/result.json"] = folder / "result.json"
        if row["status"] != "done":
            continue
        for path in sorted((folder / "scores").glob("*.parquet")):
            members[f"{folder.name}/scores/{path.name}"] = path
        for name in row["artifacts"]["samples"]:
            for path in (folder / f"{name}.safetensors", folder / f"{name}{BASE}"):
                if why := _why_left_out(path, name, row, images, nudity):
                    found = file_digest(path) if path.is_file() else None
                    left_out[f"{folder.name}/{path.name}"] = {"sha256": found, "why": why}
                else:
                    members[f"{folder.name}/{path.name}"] = path
        if models:
            members[f"{folder.name}/{MODEL}"] = folder / MODEL
    if gone := [path for path in members.values() if not path.is_file()]:
        raise SaBenchError(f"{gone[0]} is gone. {AGAIN}")
    for path in members.values():
        if path.name == "result.json":  # what nobody would open is not packed
            validate_result(path.read_bytes(), str(path))
    hashes = {name: file_digest(path) for name, path in members.items()}
    for row in rows:
        if changed := _changed(row, hashes):
            raise SaBenchError(
                f"{members[changed]} is not the file that its result.json names: {EDITED}. {AGAIN}"
            )
    manifest = {
        "bundle": SCHEMA,
        "sa_bench": __version__,
        "by": _name(by),
        "cells": [Path(r["folder"]).name for r in rows],
        **manifest_facts(rows),
        "left_out": left_out,
        "members": {
            n: {"sha256": hashes[n], "bytes": p.stat().st_size} for n, p in members.items()
        },
    }
    with replace_when_written(file) as part:
        pack(part, manifest, members)
    return manifest


def _changed(row: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """The first member of a cell whose hash is not the one that its result gives for it; empty: there is none."""
    cell = f"{Path(row['folder']).name}/"
    for name, sha256 in row.get(FILES, {}).items():
        if hashes.get(cell + name, sha256) != sha256:
            return cell + name
    for name, made in (row["artifacts"].get("samples") or {}).items():
        member = f"{cell}{name}.safetensors"
        if member in hashes and set_hash(name, hashes[member]) != made:
            return member
    return ""


def _why_left_out(path: Path, name: str, row: Mapping[str, Any], images: bool, nudity: bool) -> str:
    """Why a set's file is not packed; "" if it is."""
    if (
        name in ("forget", "families")
        and not row["task_values"].get("keep_images", True)
        and not path.is_file()
    ):
        return LEFT_OUT[0]
    if not images:
        return LEFT_OUT[1]
    if name in ("forget", "families") and not nudity and may_be_explicit(row["task_values"]):
        return LEFT_OUT[2]
    return ""


def _name(by: str) -> str:
    if len(by) > LONGEST or find_steering_characters(by) or "\n" in by or "\t" in by:
        raise SaBenchError(f"--by takes at most {LONGEST} letters on one line.")
    return by


def manifest_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Environments and hashes behind results, each once: what a reader wants to see before anything is unpacked."""
    environments: list[Any] = []
    found: dict[str, dict[str, Any]] = {"bases": {}, "models": {}, "judges": {}, "data": {}}
    for row in rows:
        environment = {k: row["provenance"][k] for k in ("versions", "hardware")}
        environments += [] if environment in environments else [environment]
        for kind in ("base", "model"):
            if kind in row["artifacts"]:
                found[f"{kind}s"][
                    f"{row['task']}/{row['base_seed']}" if kind == "base" else row["cell"]
                ] = row["artifacts"][kind]
        for m in row["measurements"]:
            found["judges"] |= m["fingerprint"].get("judges") or {}
            if "data" in m["fingerprint"]:
                found["data"][m["fingerprint"]["dataset"]] = m["fingerprint"]["data"]
    return {"environments": environments, **found}


def pack(file: Path, manifest: Mapping[str, Any], members: Mapping[str, Path]) -> None:
    """Write the archive: the manifest first, then the members by name, without times."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        archive.writestr(_info(MANIFEST), text, zipfile.ZIP_DEFLATED)
        for name, path in sorted(members.items()):
            with path.open("rb") as source, archive.open(_info(name), "w", force_zip64=True) as out:
                while block := source.read(2**20):
                    out.write(block)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return info


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every member has the hash that the manifest gives, and nothing else is in it."""

    file: Path
    sha256: str  # of the file
    folder: Path  # unpacked, in the store
    manifest: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """Whose it is, for people: the name given, or the file's, and the first digits of the hash."""
        return f"{self.manifest['by'] or self.file.name.removesuffix(BUNDLED)[:LONGEST]} [{self.sha256[:8]}]"

    def rows(self) -> list[dict[str, Any]]:
        """Its results, with their folder and `origin`.

        Raises:
            Differs: a result that is not of the form that `run` writes, or that makes a method of a control.
            SaBenchError: one of a newer schema.
        """
        found, known = (
            [],
            {e.name: e.standing for e in registry.list_entries("method") if e.standing},
        )
        for name in self.manifest["cells"]:
            row = validate_result(
                (self.folder / name / "result.json").read_bytes(), f"{self.file}: {name}"
            )
            stands = known.get(row["method"], row["standing"])
            if (row["standing"], row["control"]) != (stands, stands == "control"):
                raise Differs(
                    f"{self.file}: {name}: standing: it says {row['standing']}; {row['method']} is a {stands}."
                )
            row |= {"folder": str(self.folder / name), "origin": self.origin}
            hashes = {member: entry["sha256"] for member, entry in self.manifest["members"].items()}
            if changed := _changed({**row, "artifacts": {}}, hashes):
                raise Differs(
                    f"{self.file}: {changed} is not the file that its result.json names: {EDITED}."
                )
            found.append(row)
        return found


def open_bundle(file: Path, limit: float = LIMIT) -> Bundle:
    """Look at a stranger's archive, unpack it into the store and compare every hash.

    Args:
        file: the archive.
        limit: GB that it may unpack to.

    Raises:
        SaBenchError: it is no bundle, not a whole one, of a newer schema, too large, or has a member that leads out
            of it.
        Differs: a member is missing, changed, or in the archive alone.
    """
    if not file.is_file():
        raise SaBenchError(f"There is no bundle {file}.")
    if not is_zip(file):
        with file.open("rb") as opened_file:
            start = opened_file.read(12)
        raise SaBenchError(
            f"{file} is no bundle, or one cut short (it starts with {start!r}). Get it again."
        )
    try:
        with open_zip(file) as archive:
            infos = {info.filename: info for info in _inspect_members(archive, limit)}
            manifest = _manifest(read_member(archive, MANIFEST, LARGEST_TEXT))
            _compare_names(infos, manifest)
            sha256 = file_digest(file)
            made = Store(store_folder()).make(
                "bundles",
                {"bundle": sha256, "version": 1},
                lambda folder: _unpack_bundle(archive, manifest, folder),
            )
    except SaBenchError as error:
        raise (Differs if isinstance(error, Differs) else SaBenchError)(
            f"{file}: {str(error).rstrip('.')}."
        ) from error
    except DAMAGE as error:
        raise SaBenchError(
            f"{file} is a damaged bundle, or no bundle ({type(error).__name__}: {error}). Get it again."
        ) from error
    return Bundle(file, sha256, made.path, manifest)


def _inspect_members(archive: zipfile.ZipFile, limit: float) -> Iterator[zipfile.ZipInfo]:
    """The entries, once none of them can do harm."""
    infos = archive.infolist()
    size = sum(info.file_size for info in infos)
    if size > limit * 1e9:
        raise SaBenchError(
            f"it would unpack to {size / 1e9:.1f} GB, more than {limit:g}. If you trust it: verify --limit GB."
        )
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not _read_inside(info.filename) or kind not in (0, stat.S_IFREG):
            raise SaBenchError(f"it holds {info.filename!r}, which no bundle has (a path or link).")
        if info.filename.endswith(".json") and info.file_size > LARGEST_TEXT:
            raise SaBenchError(
                f"{info.filename} has {info.file_size:,} bytes, which cannot be right."
            )
    if MANIFEST not in archive.namelist():
        raise SaBenchError(f"it has no {MANIFEST}: an archive of something else.")
    yield from infos


def _read_inside(name: str) -> bool:
    """Whether a member's name is one that `write` may give: `manifest.json`, `CELL/FILE`, `CELL/scores/FILE`."""
    parts = name.split("/")
    plain = all(
        part
        and len(part) <= 200
        and part[0] not in ". "
        and not find_steering_characters(part)
        and not set('\\:*?"<>|\n\t') & set(part)
        for part in parts
    )
    shape = name == MANIFEST or len(parts) == 2 or (len(parts) == 3 and parts[1] == "scores")
    return plain and shape and name.endswith(ENDINGS) and parts[-1] != "meta.json"


def _manifest(raw: bytes) -> dict[str, Any]:
    manifest = parse_json(raw, strict=True)
    if manifest["bundle"] > SCHEMA:
        raise SaBenchError(
            f"it has schema {manifest['bundle']}; this sa_bench reads {SCHEMA}. Upgrade it."
        )
    require_plain(manifest)
    _name(manifest["by"])
    if strange := [e["why"] for e in manifest["left_out"].values() if e["why"] not in LEFT_OUT]:
        raise Differs(
            f"{MANIFEST} has a reason for what is left out that no bundle has: {strange[0]!r}."
        )
    for name, entry in manifest["members"].items():
        if len(entry["sha256"]) != 64 or not isinstance(entry["bytes"], int):
            raise SaBenchError(f"{MANIFEST} says nothing of {name}.")
    if not isinstance(manifest["cells"], list) or len(set(manifest["cells"])) != len(
        manifest["cells"]
    ):
        raise SaBenchError(f"{MANIFEST} has no list of cells, each once.")
    if lost := [c for c in manifest["cells"] if f"{c}/result.json" not in manifest["members"]]:
        raise Differs(f"{MANIFEST} lists the cell {lost[0]}, but no result of it.")
    return manifest


def _compare_names(infos: Mapping[str, zipfile.ZipInfo], manifest: Mapping[str, Any]) -> None:
    there, listed = set(infos) - {MANIFEST}, set(manifest["members"])
    if missing := sorted(listed - there):
        raise Differs(f"{missing[0]} is missing; {MANIFEST} lists it.")
    if extra := sorted(there - listed):
        raise Differs(f"{extra[0]} is in the archive, but {MANIFEST} does not list it.")
    if stray := sorted(name for name in there if name.partition("/")[0] not in manifest["cells"]):
        raise Differs(f"{stray[0]} belongs to no cell that {MANIFEST} lists.")


def _unpack_bundle(archive: zipfile.ZipFile, manifest: Mapping[str, Any], folder: Path) -> None:
    try:
        _unpack(archive, manifest, folder)
    except BaseException:  # nothing of it stays
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack(archive: zipfile.ZipFile, manifest: Mapping[str, Any], folder: Path) -> None:

    for name, entry in manifest["members"].items():
        path, found = folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, path.open("wb") as out:
            left = entry[
                "bytes"
            ]  # the sizes were added up above; what comes is counted all the same
            while (block := source.read(MIB)) and (left := left - len(block)) >= 0:
                found.update(block)
                out.write(block)
        if found.hexdigest() != entry["sha256"]:
            raise Differs(
                f"{name} was changed: its sha256 is {found.hexdigest()[:12]}…, {MANIFEST} says "
                f"{entry['sha256'][:12]}…."
            )
        require_readable(path, name)


def set_hash(name: str, sha256: str) -> str:
    """The hash that a result gives for the set `name`, from the sha256 of its file."""
    return digest([(f"{name}.safetensors", sha256)])
