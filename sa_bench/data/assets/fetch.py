"""Fetch the assets of the catalogue, from the network or from a folder.

A file grows in `.<file>.part` and gets its own name when it is complete and checked; any failure
before leaves nothing under that name. Models of the Hugging Face hub go into its cache, by its own
library.
"""

from __future__ import annotations

import hashlib
import pkgutil
import shutil
import tarfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError, first_line
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import disk_errors, file_digest, write_atomic
from sa_bench.data import prompts
from sa_bench.data.assets import catalogue, locate
from sa_bench.data.assets.catalogue import Asset
from sa_bench.data.assets.download import (
    DISK,
    HUGGING_FACE,
    Refused,
    Unreachable,
    describe_address,
    describe_failure,
    download,
    drop,
    open_url,
    partial_size,
)

LARGEST = 2**30  # most bytes of an archive's member that is converted
TEXTS = ("*.json", "*.txt")  # text files of a hub model, in every folder
BESIDE = ("*.fp16.*", "*non_ema*", "safety_checker/*")
"""Files of a hub model that a base model does not need."""

Say = Callable[[str], None]


class Wrong(MissingAsset):
    """A file came, but not the right one."""


def _fetch_asset(asset: Asset, source: Path | None, say: Say) -> Path:
    """Fetch one asset, unless it is on this machine already, and return its path."""
    try:
        if (path := catalogue.find(asset)) is not None:
            say(f"{asset.name}: here, {path}")
            return path
    except MissingAsset as error:
        if any(path.exists() and catalogue.is_own(path) for path in catalogue.list_places(asset)):
            raise  # the damaged file would be used before whatever is fetched
        say(f"{asset.name}: {error}")
    target = catalogue.download_target(asset)
    try:
        if asset.hub and source is None:
            path = _download_from_hub(asset, say)
        else:
            with disk_errors(target.parent):
                target.parent.mkdir(parents=True, exist_ok=True)
                with hold_lock(target.with_name(f".{target.name}.lock"), asset.name):
                    path = (
                        _copy_folder(asset, source, target)
                        if asset.hub and source
                        else _fetch_file(asset, source, target, say)
                    )
    except OSError as error:  # a failing disk, or a file where a folder should be
        raise CellFailed(f"{asset.name} cannot be stored: {error}.") from error
    if damage := catalogue.describe_damage(asset, path):
        raise MissingAsset(f"{asset.name}: {path} {damage}.")
    return path


def _fetch_file(asset: Asset, source: Path | None, target: Path, say: Say) -> Path:
    """Fetch one file to its place; it is checked before it gets its name."""
    # Another process may have fetched it meanwhile.
    if target.is_file() and not catalogue.describe_damage(asset, target):
        return target
    partial_file = target.with_name(f".{target.name}.part")
    resumed = source is None and partial_size(partial_file) > 0
    try:
        digest = _get_file(asset, source, partial_file, target, say)
    except Wrong:
        if not resumed:  # the earlier part may belong to another version of the file
            raise
        digest = _get_file(asset, source, partial_file, target, say)
    # Without a published hash the first file is trusted, and its hash recorded.
    if len(asset.sha256) < len(digest) and not locate.recorded_sha256(target):
        note = target.with_name(f"{target.name}.sha256")
        write_atomic(note, f"{digest}  {target.name}\n".encode())
        published = (
            f"only the first {len(asset.sha256)} digits of its sha256 are"
            if asset.sha256
            else "no sha256 is"
        )
        say(
            f"{asset.name}: {published} published; this file's is recorded in {note.name} and compared from now on"
        )
    partial_file.replace(target)
    drop(partial_file)
    say(
        f"{asset.name}: {'copied' if source else 'fetched'}, {partial_size(target):,} bytes, sha256 {digest}, {target}"
    )
    return target


def _get_file(asset: Asset, source: Path | None, partial_file: Path, target: Path, say: Say) -> str:
    """Get the file into `partial_file` and check it.

    Returns:
        Its sha256.

    Raises:
        Wrong: another file came; it is deleted.
        MissingAsset: none came.
    """
    is_final = (
        _copy_file(asset, source, partial_file)
        if source
        else _download_file(asset, partial_file, say)
    )
    try:
        return _check_file(asset, partial_file, target, source, is_final)
    except MissingAsset as error:
        drop(partial_file)
        raise Wrong(str(error)) from error


def _download_file(asset: Asset, partial_file: Path, say: Say) -> bool:
    """Download into `partial_file`; return whether that is the asset's file, not its source."""
    say(f"{asset.name}: fetching {asset.size} from {describe_address(asset.url)}")
    try:
        download(
            asset.url,
            partial_file,
            asset.name,
            bool(asset.sha256 or asset.md5),
            catalogue.largest_download(asset),
        )
    except Refused as refused:
        raise MissingAsset(f"{asset.name}: {_explain_refusal(asset, refused)}") from refused
    except MissingAsset as error:
        raise type(error)(f"{asset.name}: {error}. {_suggest_sources(asset)}") from error
    return not asset.convert


def _copy_file(asset: Asset, source: Path, partial_file: Path) -> bool:
    """Copy the file, or what it is converted from, into `partial_file`.

    Returns:
        Whether it is the asset's file itself.

    Raises:
        MissingAsset: the folder has neither, or it cannot be read.
    """
    members = [asset.member] if asset.member else []
    for name in dict.fromkeys((asset.file, asset.url.rpartition("/")[2], *members)):
        if (source / name).is_file():
            try:
                (source / name).open("rb").close()
            except OSError as error:
                raise MissingAsset(
                    f"{asset.name}: {source / name} cannot be read ({error.strerror})."
                ) from error
            shutil.copyfile(source / name, partial_file)
            return name == asset.file or not asset.convert
    raise MissingAsset(
        f"{asset.name}: {source} has no {asset.file} ({asset.size}, from {asset.url})."
    )


def _check_file(
    asset: Asset, partial_file: Path, target: Path, source: Path | None, is_final: bool
) -> str:
    """Check what came against all that is known about the file.

    Returns:
        Its sha256.

    Raises:
        MissingAsset: it is not the file.
    """
    subject = f"{asset.name}: what came from {source or describe_address(asset.url)}"
    if problem := prompts.find_problem(partial_file):
        raise MissingAsset(f"{subject} {problem}.")
    if not is_final:
        _convert(asset, partial_file, subject)
    digest = file_digest(partial_file)
    if not digest.startswith(asset.sha256):
        raise MissingAsset(
            f"{subject} is not the file: its sha256 is {digest}, not {asset.sha256}."
        )
    if len(asset.sha256) < len(digest) and not digest.startswith(
        recorded := locate.recorded_sha256(target)
    ):
        raise MissingAsset(
            f"{subject} differs from the file of the first time: its sha256 is {digest}, {target.name}.sha256 has "
            f"{recorded}. Delete {target}.sha256 if you trust the new one."
        )
    if asset.md5:
        with partial_file.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != asset.md5:
            raise MissingAsset(f"{subject} is not the file: its md5 is {md5}, not {asset.md5}.")
    try:
        if asset.kind == "prompts":
            (prompts.read_csv if target.suffix == ".csv" else prompts.read_lines)(partial_file)
        elif asset.check:
            pkgutil.resolve_name(asset.check)(partial_file)
    except (SaBenchError, UnicodeDecodeError) as error:
        raise MissingAsset(
            f"{asset.name}: {str(error).replace(str(partial_file), str(source or asset.url))}"
        ) from error
    return digest


def _convert(asset: Asset, partial_file: Path, subject: str) -> None:
    """Convert what came (an archive, or its member) to the asset's file, in place.

    Raises:
        MissingAsset: it cannot be converted.
    """
    source, converted = (
        partial_file.with_name(f"{partial_file.name}.source"),
        partial_file.with_name(f"{partial_file.name}.made"),
    )
    try:
        if tarfile.is_tarfile(partial_file):
            with tarfile.open(partial_file, "r:*") as tar:
                member = next(
                    (
                        entry
                        for entry in tar
                        if entry.isfile() and entry.name.rpartition("/")[2] == asset.member
                    ),
                    None,
                )
                file = tar.extractfile(member) if member and member.size <= LARGEST else None
                if file is None:
                    raise MissingAsset(f"it holds no {asset.member}.")
                with source.open("wb") as output:
                    shutil.copyfileobj(file, output)
        else:
            shutil.copyfile(partial_file, source)
        pkgutil.resolve_name(asset.convert)(source, converted).replace(partial_file)
    except Exception as error:  # tarfile, gzip and zlib raise errors of their own
        if isinstance(error, CellFailed) or getattr(error, "errno", None) in DISK:
            raise
        reason = first_line(error).replace(str(source), asset.member)
        raise MissingAsset(f"{subject} cannot be converted: {reason}") from error
    finally:
        source.unlink(missing_ok=True)
        converted.unlink(missing_ok=True)


def _copy_folder(asset: Asset, source: Path, target: Path) -> Path:
    """Copy a model's folder; it gets its name when it is complete."""
    folder = source / asset.file
    if not folder.is_dir():
        raise MissingAsset(
            f"{asset.name}: {source} has no folder {asset.file} ({asset.size}, from {asset.url})."
        )
    if damage := catalogue.describe_damage(asset, folder):
        raise MissingAsset(f"{asset.name}: {folder} {damage}.")
    partial_folder = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial_folder, ignore_errors=True)
    shutil.copytree(folder, partial_folder)
    if target.exists():
        shutil.rmtree(target)
    partial_folder.rename(target)
    return target


def _download_from_hub(asset: Asset, say: Say) -> Path:
    """Download a model's folder into the hub's cache.

    Raises:
        Unreachable: the hub does not answer.
        MissingAsset: it refuses, or its copy of the model is incomplete.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    say(
        f"{asset.name}: fetching {asset.size} from {describe_address(asset.url)} into the Hugging Face cache (HF_HOME "
        f"moves it), as `hf download {asset.hub}` would"
    )
    # A pipeline's weights lie in its folders; a single file beside them may hold them once more.
    weights = "*/*"
    try:
        open_url(f"{asset.url}/resolve/main/model_index.json").close()
    except Refused as refused:
        if refused.kind != "EntryNotFound":
            raise MissingAsset(f"{asset.name}: {_explain_refusal(asset, refused)}") from refused
        weights = "*"  # a single network
    except (OSError, HTTPException) as error:
        raise Unreachable(
            f"{asset.name}: {describe_address(asset.url)} {describe_failure(error)}. {_suggest_sources(asset)}"
        ) from error
    path = Path()
    for ending in ("safetensors", "bin"):
        patterns = [*TEXTS, f"{weights}.{ending}"]
        try:
            path = Path(
                snapshot_download(asset.hub, allow_patterns=patterns, ignore_patterns=list(BESIDE))
            )
        except GatedRepoError as error:
            gated = Refused(asset.url, 403, "", "GatedRepo")
            raise MissingAsset(f"{asset.name}: {_explain_refusal(asset, gated)}") from error
        except Exception as error:  # errors of several libraries
            if getattr(error, "errno", None) in DISK:
                raise CellFailed(
                    f"{asset.name} cannot be stored in {constants.HF_HUB_CACHE} ({first_line(error)}); "
                    "HF_HOME moves that folder."
                ) from error
            raise MissingAsset(
                f"{asset.name}: {describe_address(asset.url)} cannot be downloaded ({first_line(error)}). "
                "The same command goes on where this one was."
            ) from error
        if not catalogue.describe_damage(asset, path):
            say(f"{asset.name}: fetched, {path}")
            break
    return path


def _explain_refusal(asset: Asset, refused: Refused) -> str:
    """Explain a refusal, and say what to do."""
    local_hint = f"A local copy goes to {catalogue.download_target(asset)}."
    if not asset.url.startswith(HUGGING_FACE) or refused.code not in (401, 403, 404):
        is_temporary = refused.code in (408, 425, 429) or refused.code >= 500
        return (
            f"{refused}: {'try again later' if is_temporary else 'it may have moved'}. {local_hint}"
        )
    page = asset.url.partition("/resolve/")[0]
    if refused.kind == "GatedRepo" or refused.code == 403:
        return (
            f"accept its licence at {page}, make a token in your account's settings there, set HF_TOKEN to it, and run "
            f"this again. {local_hint}"
        )
    note = f"; {asset.note}" if asset.note else ""
    return (
        f"the hub shows no {describe_address(page)} (HTTP {refused.code}): removed, renamed or private{note}. If you "
        f"have access, set HF_TOKEN. {local_hint}"
    )


def _suggest_sources(asset: Asset) -> str:
    """Say where to get an asset without a connection."""
    return f"Go online, or put it into {catalogue.download_target(asset)}, or name a folder that has it (--from)."
