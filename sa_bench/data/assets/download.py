"""One file from the network: begun where an earlier try ended, given up on when nobody answers."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from sa_bench.core.errors import CellFailed, MissingAsset
from sa_bench.core.version import __version__
from sa_bench.data.assets.catalogue import HUGGING_FACE, LARGEST

DEADLINE = 6.0  # seconds for an answer, and for a server's silence later on
TRIES = 5  # in a row that end early
SLOWEST, WINDOW = (1024, 30.0)
"""Bytes a second, on average over so many seconds, below which nobody waits any longer."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)

Clock = Callable[[], float]  # seconds
Advance = Callable[[int, int | None], None]  # bytes here, bytes in all


class Unreachable(MissingAsset):
    """A server that gives no answer at all."""


class Refused(MissingAsset):
    """A server that answers, but not with the file."""

    def __init__(self, url: str, code: int, reason: str, kind: str) -> None:
        """`kind` is what the hub calls the refusal: `GatedRepo`, `EntryNotFound`, ..."""
        super().__init__(f"{url} answers HTTP {code} {reason}")
        self.code, self.kind = code, kind


def download(
    url: str,
    part: Path,
    name: str,
    known: bool,
    limit: int = LARGEST,
    clock: Clock = time.monotonic,
) -> None:
    """The whole of `url` in the file `part`.

    Args:
        url: what to get.
        part: where it grows; what is there already is gone on from.
        name: for the progress bar.
        known: the file's hash is known, so that going on needs no proof that the server's file is still the same.

        limit: bytes that it may have.
        clock: for the rate at which it comes.

    Raises:
        Unreachable: nobody answers.
        Refused: the server has no such file, or not for us.
        MissingAsset: it keeps ending early, comes too slowly, or is larger than `limit`.
        CellFailed: the disk is full.
    """
    with _bar(name) as advance:
        for left in reversed(range(TRIES)):
            before = partial_size(part)
            try:
                return _continue(url, part, known, advance, limit, clock)
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in DISK:
                    raise
                grown = partial_size(part) > before
                if left and grown:
                    continue
                kept = (
                    f"; {partial_size(part):,} bytes are kept, the same command goes on from there"
                    if partial_size(part)
                    else ""
                )
                raise (MissingAsset if grown or before else Unreachable)(
                    f"{describe_address(url)} {describe_failure(error)}{kept}"
                ) from error


def _continue(
    url: str, part: Path, known: bool, advance: Advance, limit: int, clock: Clock
) -> None:
    tag, headers = tag_file(part), {}
    validator = tag.read_text(encoding="utf-8") if tag.exists() else ""
    # else two versions could be mixed unseen
    start = partial_size(part) if known or validator else 0
    if start:
        headers = {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        answer = open_url(url, headers)
    except Refused as refused:
        if refused.code != 416:
            raise
        if refused.kind == f"bytes */{start}":
            return  # it was whole already
        drop(part)
        raise ConnectionError(
            "has another size than before: run the same command again"
        ) from refused
    with answer:
        partial = answer.status == 206
        if partial and not str(answer.headers.get("Content-Range")).startswith(f"bytes {start}-"):
            drop(part)
            raise ConnectionError("sent another part than asked for: run the same command again")
        start = start if partial else 0
        etag = answer.headers.get("ETag") or ""
        tag.write_text("" if etag.startswith("W/") else etag, encoding="utf-8")
        length = answer.headers.get("Content-Length")
        if length and not (length.isascii() and length.isdecimal()):
            raise ConnectionError(f"sends a Content-Length that is no number ({length[:20]!r})")
        total = start + int(length) if length else None
        if total is not None and total > limit:
            drop(part)
            raise MissingAsset(
                f"{describe_address(url)} says that it has {total:,} bytes; {limit:,} are the most that it may have"
            )
        if total is not None:
            _require_room(part, total, total - start)
        with part.open("ab" if partial else "wb") as file:
            advance(start, total)
            since, came = clock(), 0
            while block := answer.read1(2**18):
                file.write(block)
                advance(file.tell(), total)
                came += len(block)
                if file.tell() > limit:
                    file.close()
                    drop(part)
                    raise MissingAsset(
                        f"{describe_address(url)} sends more than {limit:,} bytes, the most that it may have"
                    )
                if (waited := clock() - since) >= WINDOW:
                    if came < SLOWEST * waited:
                        raise TimeoutError(
                            f"sends fewer than {SLOWEST:,} bytes a second for {waited:.0f} s"
                        )
                    since, came = clock(), 0
            file.flush()
            os.fsync(file.fileno())
    if total is not None and partial_size(part) != total:
        raise ConnectionError(f"ended at {partial_size(part):,} of {total:,} bytes")


def _require_room(part: Path, total: int, left: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if left > free:
        raise CellFailed(
            f"The disk is full: the file takes {total:,} bytes, {free:,} are free at {part.parent}. Free some space or "
            "point SA_BENCH_STORE elsewhere."
        )


def describe_address(url: str) -> str:
    """Where a file is asked for: of the hub's, at the mirror that HF_ENDPOINT names, if it does."""
    from huggingface_hub import constants

    hub = url == HUGGING_FACE or url.startswith(f"{HUGGING_FACE}/")
    return constants.ENDPOINT + url.removeprefix(HUGGING_FACE) if hub else url


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """The answer to a GET within `DEADLINE`, name look-up included; the hub's token is shown to the hub alone.

    Raises:
        OSError: no answer.
        Refused: an answer other than the file.
    """
    from huggingface_hub import constants, get_token

    if url.startswith(f"{HUGGING_FACE}/"):
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("is not asked: HF_HUB_OFFLINE is set")
        url = describe_address(url)
    request = urllib.request.Request(
        url, headers={"User-Agent": f"sa_bench/{__version__}", **(headers or {})}
    )
    if urlsplit(url).netloc == urlsplit(constants.ENDPOINT).netloc and (token := get_token()):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=DEADLINE))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # a name look-up heeds no timeout of its own
    try:
        answer = answers.get(timeout=DEADLINE)
    except queue.Empty:
        raise TimeoutError(f"gives no answer within {DEADLINE:.0f} s") from None
    if isinstance(answer, HTTPError):
        kind = answer.headers.get("Content-Range" if answer.code == 416 else "X-Error-Code") or ""
        raise Refused(url, answer.code, answer.reason, kind) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def describe_failure(error: Exception) -> str:
    """What went wrong with a connection, in words that follow the address."""
    inner = getattr(error, "reason", error)
    text = str(inner).splitlines()[0] if str(inner) else type(inner).__name__
    plain = isinstance(inner, (ConnectionError, TimeoutError)) and not getattr(inner, "errno", None)
    return text if plain and " " in text else f"cannot be reached ({text})"


def partial_size(path: Path) -> int:
    """Bytes of a file; 0: there is none."""
    return path.stat().st_size if path.exists() else 0


def drop(part: Path) -> None:
    """Forget what was downloaded so far."""
    part.unlink(missing_ok=True)
    tag_file(part).unlink(missing_ok=True)


def tag_file(part: Path) -> Path:
    """Where the server's name for this version of the file is kept while it is downloaded."""
    return part.with_name(f"{part.name}.etag")


@contextmanager
def _bar(name: str) -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        DownloadColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
