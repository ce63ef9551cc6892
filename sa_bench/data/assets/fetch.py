"""`fetch`: what the catalogue lists, from the network or from a folder.

A file grows in `.<file>.part` and gets its own name when it is whole and right; whatever goes wrong before leaves
nothing under that name. Models of the Hugging Face hub go into its cache, by its own library.
"""

from __future__ import annotations

import hashlib
import pkgutil
import shutil
import tarfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import disk_errors, file_digest, write_atomic
from sa_bench.data import prompts
from sa_bench.data.archives import describe_error
from sa_bench.data.assets import catalogue, locate
from sa_bench.data.assets.catalogue import Asset
from sa_bench.data.assets.download import (
    DISK,
    Refused,
    Unreachable,
    describe_address,
    describe_failure,
    download,
    drop,
    open_url,
    partial_size,
)

LARGEST = 2**30  # bytes of an archive's file that is converted, at most
TEXTS = ("*.json", "*.txt")  # of the hub's models, in every folder
BESIDE = ("*.fp16.*", "*non_ema*", "safety_checker/*")  # what a base model is not made of

Say = Callable[[str], None]


class Wrong(MissingAsset):
    """Something came, but not the file."""


def _fetch_asset(asset: Asset, source: Path | None, say: Say) -> Path:
    try:
        if (path := catalogue.find(asset)) is not None:
            say(f"{asset.name}: here, {path}")
            return path
    except MissingAsset as error:
        if any(path.exists() and catalogue.is_own(path) for path in catalogue.list_places(asset)):
            raise  # what lies there would win over whatever is fetched
        say(f"{asset.name}: {error}")
    to = catalogue.download_target(asset)
    try:
        if asset.hub and source is None:
            path = _download_from_hub(asset, say)
        else:
            with disk_errors(to.parent):
                to.parent.mkdir(parents=True, exist_ok=True)
                with hold_lock(to.with_name(f".{to.name}.lock"), asset.name):
                    path = (
                        _copy_folder(asset, source, to)
                        if asset.hub and source
                        else _fetch_file(asset, source, to, say)
                    )
    except OSError as error:  # a disk that fails, a file where a folder should be
        raise CellFailed(f"{asset.name} cannot be kept: {error}.") from error
    if wrong := catalogue.describe_damage(asset, path):
        raise MissingAsset(f"{asset.name}: {path} {wrong}.")
    return path


def _fetch_file(asset: Asset, source: Path | None, to: Path, say: Say) -> Path:
    """One file at its place, checked before it gets its name."""
    if to.is_file() and not catalogue.describe_damage(asset, to):  # another process was quicker
        return to
    part = to.with_name(f".{to.name}.part")
    resumed = source is None and partial_size(part) > 0
    try:
        digest = _get_file(asset, source, part, to, say)
    except Wrong:
        if not resumed:  # what was kept from another time may have been another version's
            raise
        digest = _get_file(asset, source, part, to, say)
    if len(asset.sha256) < len(digest) and not locate.recorded_sha256(to):  # trusted the first time
        note = to.with_name(f"{to.name}.sha256")
        write_atomic(note, f"{digest}  {to.name}\n".encode())
        published = (
            f"only the first {len(asset.sha256)} digits of its sha256 are"
            if asset.sha256
            else "no sha256 is"
        )
        say(
            f"{asset.name}: {published} published; the one found is kept in {note.name} and compared from now on"
        )
    part.replace(to)
    drop(part)
    say(
        f"{asset.name}: {'copied' if source else 'fetched'}, {partial_size(to):,} bytes, sha256 {digest}, {to}"
    )
    return to


def _get_file(asset: Asset, source: Path | None, part: Path, to: Path, say: Say) -> str:
    """The sha256 of the right file, which is then in `part`.

    Raises:
        Wrong: another file came; it is dropped.
        MissingAsset: none came.
    """
    final = _copy_file(asset, source, part) if source else _download_file(asset, part, say)
    try:
        return _check_file(asset, part, to, source, final)
    except MissingAsset as error:
        drop(part)
        raise Wrong(str(error)) from error


def _download_file(asset: Asset, part: Path, say: Say) -> bool:
    say(f"{asset.name}: fetching {asset.size} from {describe_address(asset.url)}")
    try:
        download(
            asset.url,
            part,
            asset.name,
            bool(asset.sha256 or asset.md5),
            catalogue.largest_download(asset),
        )
    except Refused as refused:
        raise MissingAsset(f"{asset.name}: {_advice(asset, refused)}") from refused
    except MissingAsset as error:
        raise type(error)(f"{asset.name}: {error}. {_offline(asset)}") from error
    return not asset.convert


def _copy_file(asset: Asset, source: Path, part: Path) -> bool:
    """Copy the file, or what it is made from; whether it is the file itself.

    Raises:
        MissingAsset: the folder has neither, or it cannot be read.
    """
    made = [asset.member] if asset.member else []
    for name in dict.fromkeys((asset.file, asset.url.rpartition("/")[2], *made)):
        if (source / name).is_file():
            try:
                (source / name).open("rb").close()
            except OSError as error:
                raise MissingAsset(
                    f"{asset.name}: {source / name} cannot be read ({error.strerror})."
                ) from error
            shutil.copyfile(source / name, part)
            return name == asset.file or not asset.convert
    raise MissingAsset(
        f"{asset.name}: {source} has no {asset.file} ({asset.size}, from {asset.url})."
    )


def _check_file(asset: Asset, part: Path, to: Path, source: Path | None, final: bool) -> str:
    """The sha256 of what came, after a comparison with all that is known of the file.

    Raises:
        MissingAsset: it is not the file.
    """
    came = f"{asset.name}: what came from {source or describe_address(asset.url)}"
    if wrong := prompts.find_problem(part):
        raise MissingAsset(f"{came} {wrong}.")
    if not final:
        _convert(asset, part, came)
    digest = file_digest(part)
    if not digest.startswith(asset.sha256):
        raise MissingAsset(f"{came} is not the file: its sha256 is {digest}, not {asset.sha256}.")
    if len(asset.sha256) < len(digest) and not digest.startswith(
        noted := locate.recorded_sha256(to)
    ):
        raise MissingAsset(
            f"{came} is another file than the first time: its sha256 is {digest}, {to.name}.sha256 has {noted}. Delete "
            f"{to}.sha256 if you trust the new one."
        )
    if asset.md5:
        with part.open("rb") as file:
            found = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        if found != asset.md5:
            raise MissingAsset(f"{came} is not the file: its md5 is {found}, not {asset.md5}.")
    try:
        if asset.kind == "prompts":
            (prompts.read_csv if to.suffix == ".csv" else prompts.read_lines)(part)
        elif asset.check:
            pkgutil.resolve_name(asset.check)(part)
    except (SaBenchError, UnicodeDecodeError) as error:
        raise MissingAsset(
            f"{asset.name}: {str(error).replace(str(part), str(source or asset.url))}"
        ) from error
    return digest


def _convert(asset: Asset, part: Path, came: str) -> None:
    """Make an asset's file from what came: an archive, or the file from it that is converted.

    Raises:
        MissingAsset: it is neither.
    """
    source, made = part.with_name(f"{part.name}.source"), part.with_name(f"{part.name}.made")
    try:
        if tarfile.is_tarfile(part):
            with tarfile.open(part, "r:*") as tar:
                member = next(
                    (m for m in tar if m.isfile() and m.name.rpartition("/")[2] == asset.member),
                    None,
                )
                file = tar.extractfile(member) if member and member.size <= LARGEST else None
                if file is None:
                    raise MissingAsset(f"it holds no {asset.member}.")
                with source.open("wb") as to:
                    shutil.copyfileobj(file, to)
        else:
            shutil.copyfile(part, source)
        pkgutil.resolve_name(asset.convert)(source, made).replace(part)
    except Exception as error:  # tarfile, gzip and zlib have their own, the conversion ours
        if isinstance(error, CellFailed) or getattr(error, "errno", None) in DISK:
            raise
        said = describe_error(error).replace(str(source), asset.member)
        raise MissingAsset(f"{came} cannot be converted: {said}") from error
    finally:
        source.unlink(missing_ok=True)
        made.unlink(missing_ok=True)


def _copy_folder(asset: Asset, source: Path, to: Path) -> Path:
    """Copy a model's folder; it gets its name when it is whole."""
    inside = source / asset.file
    if not inside.is_dir():
        raise MissingAsset(
            f"{asset.name}: {source} has no folder {asset.file} ({asset.size}, from {asset.url})."
        )
    if wrong := catalogue.describe_damage(asset, inside):
        raise MissingAsset(f"{asset.name}: {inside} {wrong}.")
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(inside, part)
    if to.exists():
        shutil.rmtree(to)
    part.rename(to)
    return to


def _download_from_hub(asset: Asset, say: Say) -> Path:
    """A model's folder in the hub's cache.

    Raises:
        Unreachable: the hub gives no answer.
        MissingAsset: it refuses, or the model is incomplete there.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    say(
        f"{asset.name}: fetching {asset.size} from {describe_address(asset.url)} into the Hugging Face cache (HF_HOME "
        f"moves it), as `hf download {asset.hub}` would"
    )
    weights = "*/*"  # a pipeline's lie in its folders; beside them may be the same ones again, in one file
    try:
        open_url(f"{asset.url}/resolve/main/model_index.json").close()
    except Refused as refused:
        if refused.kind != "EntryNotFound":
            raise MissingAsset(f"{asset.name}: {_advice(asset, refused)}") from refused
        weights = "*"  # a network alone
    except (OSError, HTTPException) as error:
        raise Unreachable(
            f"{asset.name}: {describe_address(asset.url)} {describe_failure(error)}. {_offline(asset)}"
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
            raise MissingAsset(f"{asset.name}: {_advice(asset, gated)}") from error
        except Exception as error:  # of several libraries
            if getattr(error, "errno", None) in DISK:
                raise CellFailed(
                    f"{asset.name} cannot be kept in {constants.HF_HUB_CACHE} ({describe_error(error)}); "
                    "HF_HOME moves that folder."
                ) from error
            raise MissingAsset(
                f"{asset.name}: {describe_address(asset.url)} cannot be had ({describe_error(error)}). "
                "The same command goes on where this one was."
            ) from error
        if not catalogue.describe_damage(asset, path):
            say(f"{asset.name}: fetched, {path}")
            break
    return path


def _advice(asset: Asset, refused: Refused) -> str:
    """What a refusal means and what to do."""
    local = f"A local copy goes to {catalogue.download_target(asset)}."
    if not asset.url.startswith(catalogue.HUGGING_FACE) or refused.code not in (401, 403, 404):
        again = refused.code in (408, 425, 429) or refused.code >= 500
        return f"{refused}: {'try again later' if again else 'it may have moved'}. {local}"
    page = asset.url.partition("/resolve/")[0]
    if refused.kind == "GatedRepo" or refused.code == 403:
        return (
            f"accept its licence at {page}, make a token in your account's settings there, set HF_TOKEN to it, and run "
            f"this again. {local}"
        )
    note = f"; {asset.note}" if asset.note else ""
    return (
        f"the hub shows no {describe_address(page)} (HTTP {refused.code}): removed, renamed or private{note}. Who has "
        f"access sets HF_TOKEN. {local}"
    )


def _offline(asset: Asset) -> str:
    return f"Go online, or put it into {catalogue.download_target(asset)}, or name a folder that has it (--from)."
