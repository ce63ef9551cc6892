"""Bundles: write the results of a run into one file, `NAME.sabench.zip`, and open such a file.

A bundle is a ZIP archive of `manifest.json` and a folder a cell: `result.json`, `scores/*.parquet`,
the image sets, the source of plug-ins and, if asked for, the weights. The manifest has the sha256 of every member and of
what was left out. The same content gives the same file, whose hash names it. Nothing is unpacked
before the names, the sizes and the manifest have been checked.
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
from sa_bench.results.schema import ResultRow
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
LIMIT = 16.0  # GB that a bundle may unpack to, by default
MANIFEST, LARGEST_TEXT = "manifest.json", 64 * MIB  # bytes of a JSON file
LONGEST = 60  # characters of the name given with --by
ENDINGS = (".json", ".parquet", ".safetensors")
EPOCH = (1980, 1, 1, 0, 0, 0)  # date of every member, so that equal content gives equal files
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
"""Errors that zipfile, its decompressors and a manifest of another form raise."""
BASE = "-base.safetensors"
AGAIN = "Make it again: the command of the run, with the same --out."
LEFT_OUT = "deleted by the run", "images left out", "may show nudity"
SOURCE = "source"  # folder in a cell's: the code of its plug-ins, `source/method-mine/mine.py`


def write(
    rows: Sequence[ResultRow],
    file: Path,
    by: str = "",
    images: bool = True,
    nudity: bool = False,
    models: bool = False,
    source: bool = True,
    licence: str = "",
) -> dict[str, Any]:
    """Pack results of run folders into the bundle `file` and return its manifest.

    Args:
        rows: result rows as `read_results` gives them.
        file: path that ends in `BUNDLED`.
        by: name of who made the results, shown beside every row; at most 60 characters.
        images: False leaves the images out and keeps only the hashes of their sets.
        nudity: True also packs images of c_f that may show nudity.
        models: True also packs the forgotten weights, so that images can be drawn again.
        source: False leaves the code of plug-ins out and keeps only its hashes.
        licence: licence of that code, such as `MIT`; needed where any is packed.

    Raises:
        SaBenchError: the file's ending or the name is wrong, a result comes from no run, a file
            is gone, or code would be packed without a licence.
    """
    if not file.name.endswith(BUNDLED):
        raise SaBenchError(f"{file}: a bundle is called NAME{BUNDLED}.")
    members: dict[str, Path] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for row in rows:
        folder = Path(row.get("folder", ""))
        if row.get("origin") == EDITED:
            raise SaBenchError(f"{folder}: its result was {EDITED}. {AGAIN}")
        if row["method"] == "external" or not row.get("folder") or row.get("origin"):
            raise SaBenchError(
                f"{row.get('folder') or row['task']} has no images of its own: a bundle is made of run folders."
            )
        if f"{folder.name}/result.json" in members:
            raise SaBenchError(f"Two of the runs hold {folder.name}; make a bundle of each.")
        members[f"{folder.name}/result.json"] = folder / "result.json"
        if row["status"] != "done":
            continue
        for path in sorted((folder / "scores").glob("*.parquet")):
            members[f"{folder.name}/scores/{path.name}"] = path
        for name in row["artifacts"].get("samples", {}):
            for path in (folder / f"{name}.safetensors", folder / f"{name}{BASE}"):
                if why := _why_left_out(path, name, row, images, nudity):
                    sha256 = file_digest(path) if path.is_file() else None
                    left_out[f"{folder.name}/{path.name}"] = {"sha256": sha256, "why": why}
                else:
                    members[f"{folder.name}/{path.name}"] = path
        if models:
            members[f"{folder.name}/{MODEL}"] = folder / MODEL
        if source:
            members |= {
                f"{folder.name}/{path.relative_to(folder).as_posix()}": path
                for path in sorted((folder / SOURCE).glob("*/*.py"))
            }
    sources = [name for name in members if _is_source(name)]
    if sources and not licence:
        raise SaBenchError(
            f"The bundle would hold your code ({members[sources[0]]}): name its licence, for example "
            "--licence MIT, or leave it out: --without-source."
        )
    if gone := [path for path in members.values() if not path.is_file()]:
        raise SaBenchError(f"{gone[0]} is gone. {AGAIN}")
    for path in members.values():
        if path.name == "result.json":  # `open_bundle` would refuse an invalid one
            validate_result(path.read_bytes(), str(path))
    hashes = {name: file_digest(path) for name, path in members.items()}
    for row in rows:
        if changed := _find_changed_member(row, hashes):
            raise SaBenchError(
                f"{members[changed]} is not the file that its result.json names: {EDITED}. {AGAIN}"
            )
    manifest = {
        "bundle": SCHEMA,
        "sa_bench": __version__,
        "by": _check_name(by),
        **({"licence": _check_name(licence, "--licence")} if sources else {}),
        "cells": [Path(r.get("folder", "")).name for r in rows],
        **manifest_facts(rows),
        "left_out": left_out,
        "members": {
            n: {"sha256": hashes[n], "bytes": p.stat().st_size} for n, p in members.items()
        },
    }
    with replace_when_written(file) as part:
        pack(part, manifest, members)
    return manifest


def _find_changed_member(row: ResultRow, hashes: Mapping[str, str]) -> str:
    """Find the first member of a cell whose hash is not the one in its result.

    Returns "" if there is none.
    """
    cell = f"{Path(row.get('folder', '')).name}/"
    for name, sha256 in row.get(FILES, {}).items():
        if hashes.get(cell + name, sha256) != sha256:
            return cell + name
    for name, set_sha256 in (row["artifacts"].get("samples") or {}).items():
        member = f"{cell}{name}.safetensors"
        if member in hashes and set_hash(name, hashes[member]) != set_sha256:
            return member
    return ""


def _why_left_out(path: Path, name: str, row: ResultRow, images: bool, nudity: bool) -> str:
    """Say why the file of a set is not packed; "" if it is packed."""
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


def _check_name(text: str, option: str = "--by") -> str:
    """Return the text given with `option` if it can be shown: short, on one line, printable."""
    if len(text) > LONGEST or find_steering_characters(text) or "\n" in text or "\t" in text:
        raise SaBenchError(f"{option} takes at most {LONGEST} letters on one line.")
    return text


def _is_source(member: str) -> bool:
    """True for the member of a plug-in's code, `CELL/source/COMPONENT/MODULE.py`."""
    parts = member.split("/")
    return len(parts) == 4 and parts[1] == SOURCE and member.endswith(".py")


def find_source(folder: Path, component: str) -> dict[str, bytes]:
    """Find the packed code of a plug-in of a cell, by dotted name; {} if it was left out."""
    name = component.replace(" ", "-", 1)
    # a stranger's result may name a component after a path
    paths = sorted((folder / SOURCE / name).glob("*.py")) if Path(name).name == name else []
    return {path.name.removesuffix(".py"): path.read_bytes() for path in paths}


def manifest_facts(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Collect the environments and hashes behind results, each once, for the manifest."""
    environments: list[Any] = []
    hashes: dict[str, dict[str, Any]] = {"bases": {}, "models": {}, "judges": {}, "data": {}}
    for row in rows:
        environment = {k: row["provenance"][k] for k in ("versions", "hardware")}
        if environment not in environments:
            environments.append(environment)
        if "base" in row["artifacts"]:
            hashes["bases"][f"{row['task']}/{row['base_seed']}"] = row["artifacts"]["base"]
        if "model" in row["artifacts"]:
            hashes["models"][row["cell"]] = row["artifacts"]["model"]
        for measurement in row["measurements"]:
            fingerprint = measurement["fingerprint"]
            hashes["judges"] |= fingerprint.get("judges") or {}
            if "data" in fingerprint:
                hashes["data"][fingerprint["dataset"]] = fingerprint["data"]
    return {"environments": environments, **hashes}


def pack(file: Path, manifest: Mapping[str, Any], members: Mapping[str, Path]) -> None:
    """Write the archive: the manifest first, then the members by name, without times."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        archive.writestr(_make_zip_info(MANIFEST), text, zipfile.ZIP_DEFLATED)
        for name, path in sorted(members.items()):
            with (
                path.open("rb") as source,
                archive.open(_make_zip_info(name), "w", force_zip64=True) as out,
            ):
                while block := source.read(2**20):
                    out.write(block)


def _make_zip_info(name: str) -> zipfile.ZipInfo:
    """Make the archive entry of a member, with a fixed date and plain file rights."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return info


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose members are exactly those that its manifest lists, by hash."""

    file: Path
    sha256: str  # of the archive
    folder: Path  # where it lies unpacked, in the store
    manifest: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """Name of the maker (else of the file), and the first digits of the archive's hash."""
        return f"{self.manifest['by'] or self.file.name.removesuffix(BUNDLED)[:LONGEST]} [{self.sha256[:8]}]"

    def rows(self) -> list[ResultRow]:
        """Read the results of the bundle, with their folder and `origin`.

        Raises:
            Differs: a result is not of the form that `run` writes, or gives a method another
                standing.
            SaBenchError: a result has a newer schema.
        """
        rows = []
        standings = {e.name: e.standing for e in registry.list_entries("method") if e.standing}
        for name in self.manifest["cells"]:
            row = validate_result(
                (self.folder / name / "result.json").read_bytes(), f"{self.file}: {name}"
            )
            standing = standings.get(row["method"], row["standing"])
            if (row["standing"], row["control"]) != (standing, standing == "control"):
                raise Differs(
                    f"{self.file}: {name}: standing: it says {row['standing']}; {row['method']} is a {standing}."
                )
            row["folder"], row["origin"] = str(self.folder / name), self.origin
            hashes = {member: entry["sha256"] for member, entry in self.manifest["members"].items()}
            if changed := _find_changed_member({**row, "artifacts": {}}, hashes):
                raise Differs(
                    f"{self.file}: {changed} is not the file that its result.json names: {EDITED}."
                )
            rows.append(row)
        return rows


def open_bundle(file: Path, limit: float = LIMIT) -> Bundle:
    """Check an archive from elsewhere, unpack it into the store and compare every hash.

    Args:
        file: the archive.
        limit: GB that it may unpack to.

    Raises:
        SaBenchError: the file is no bundle, cut short, of a newer schema, too large, or has a
            member whose path leads out of it.
        Differs: a member is missing, changed, or not listed in the manifest.
    """
    if not file.is_file():
        if file.is_dir():
            raise SaBenchError(f"{file} is a folder; `bundle {file}` makes a bundle of a run.")
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
            manifest = _parse_manifest(read_member(archive, MANIFEST, LARGEST_TEXT))
            _compare_names(infos, manifest)
            sha256 = file_digest(file)
            artifact = Store(store_folder()).make(
                "bundles",
                {"bundle": sha256, "version": 1},
                lambda folder: _unpack_bundle(archive, manifest, folder),
            )
    except SaBenchError as error:
        kind = Differs if isinstance(error, Differs) else SaBenchError
        raise kind(f"{file}: {str(error).rstrip('.')}.") from error
    except DAMAGE as error:
        raise SaBenchError(
            f"{file} is a damaged bundle, or no bundle ({type(error).__name__}: {error}). Get it again."
        ) from error
    return Bundle(file, sha256, artifact.path, manifest)


def _inspect_members(archive: zipfile.ZipFile, limit: float) -> Iterator[zipfile.ZipInfo]:
    """Yield the entries of an archive once sizes, paths and kinds are checked."""
    infos = archive.infolist()
    size = sum(info.file_size for info in infos)
    if size > limit * 1e9:
        raise SaBenchError(
            f"it would unpack to {size / 1e9:.3g} GB, more than {limit:g}. If you trust it: verify --limit GB."
        )
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not _is_member_name(info.filename) or kind not in (0, stat.S_IFREG):
            raise SaBenchError(
                f"it holds {info.filename!r}, which no bundle has: neither of its files nor a plug-in's code."
            )
        if info.filename.endswith(".json") and info.file_size > LARGEST_TEXT:
            raise SaBenchError(
                f"{info.filename} has {info.file_size:,} bytes, which cannot be right."
            )
    if MANIFEST not in archive.namelist():
        raise SaBenchError(f"it has no {MANIFEST}: an archive of something else.")
    yield from infos


def _is_member_name(name: str) -> bool:
    """True for names that `write` gives: `manifest.json`, `CELL/FILE`, `CELL/scores/FILE` or a plug-in's code."""
    parts = name.split("/")
    has_safe_parts = all(
        part
        and len(part) <= 200
        and part[0] not in ". "
        and not find_steering_characters(part)
        and not set('\\:*?"<>|\n\t') & set(part)
        for part in parts
    )
    has_known_depth = (
        name == MANIFEST or len(parts) == 2 or (len(parts) == 3 and parts[1] == "scores")
    )
    is_known = (has_known_depth and name.endswith(ENDINGS)) or _is_source(name)
    return has_safe_parts and is_known and parts[-1] != "meta.json"


def _parse_manifest(raw: bytes) -> dict[str, Any]:
    """Parse and check a manifest.

    Raises:
        SaBenchError, Differs: it has a newer schema, or it is not of the form that `write` gives.
    """
    manifest = parse_json(raw, strict=True)
    if manifest["bundle"] > SCHEMA:
        raise SaBenchError(
            f"it has schema {manifest['bundle']}; this sa_bench reads {SCHEMA}. Upgrade it."
        )
    require_plain(manifest)
    _check_name(manifest["by"])
    _check_name(manifest.get("licence", ""), "licence")
    if unknown_reasons := [
        e["why"] for e in manifest["left_out"].values() if e["why"] not in LEFT_OUT
    ]:
        raise Differs(
            f"{MANIFEST} has a reason for what is left out that no bundle has: {unknown_reasons[0]!r}."
        )
    for name, entry in manifest["members"].items():
        if len(entry["sha256"]) != 64 or not isinstance(entry["bytes"], int):
            raise SaBenchError(f"{MANIFEST} gives no sha256 or size of {name}.")
    if not isinstance(manifest["cells"], list) or len(set(manifest["cells"])) != len(
        manifest["cells"]
    ):
        raise SaBenchError(f"{MANIFEST} must list every cell once.")
    if cells_without_result := [
        c for c in manifest["cells"] if f"{c}/result.json" not in manifest["members"]
    ]:
        raise Differs(f"{MANIFEST} lists the cell {cells_without_result[0]}, but no result of it.")
    return manifest


def _compare_names(infos: Mapping[str, zipfile.ZipInfo], manifest: Mapping[str, Any]) -> None:
    """Check that the archive holds exactly the members that its manifest lists."""
    members, listed = set(infos) - {MANIFEST}, set(manifest["members"])
    if missing := sorted(listed - members):
        raise Differs(f"{missing[0]} is missing; {MANIFEST} lists it.")
    if extra := sorted(members - listed):
        raise Differs(f"{extra[0]} is in the archive, but {MANIFEST} does not list it.")
    if stray := sorted(name for name in members if name.partition("/")[0] not in manifest["cells"]):
        raise Differs(f"{stray[0]} belongs to no cell that {MANIFEST} lists.")


def _unpack_bundle(archive: zipfile.ZipFile, manifest: Mapping[str, Any], folder: Path) -> None:
    """Unpack a bundle into `folder`; delete the folder if anything is wrong."""
    try:
        _unpack(archive, manifest, folder)
    except BaseException:  # leave nothing half unpacked
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack(archive: zipfile.ZipFile, manifest: Mapping[str, Any], folder: Path) -> None:
    """Unpack the members and compare their hashes.

    Raises:
        Differs: a member is not the one that the manifest lists.
    """
    for name, entry in manifest["members"].items():
        path, sha256 = folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, path.open("wb") as out:
            # The sizes in the archive's directory may lie, so that the bytes are counted here too.
            bytes_left = entry["bytes"]
            while (block := source.read(MIB)) and (bytes_left := bytes_left - len(block)) >= 0:
                sha256.update(block)
                out.write(block)
        if sha256.hexdigest() != entry["sha256"]:
            raise Differs(
                f"{name} was changed: its sha256 is {sha256.hexdigest()[:12]}…, {MANIFEST} says "
                f"{entry['sha256'][:12]}…."
            )
        require_readable(path, name)


def set_hash(name: str, sha256: str) -> str:
    """Compute the hash that a result gives for the set `name`, from the sha256 of its file."""
    return digest([(f"{name}.safetensors", sha256)])
