"""Download one file: continue an earlier attempt, and give up if the server does not answer."""

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

from sa_bench.core.errors import CellFailed, MissingAsset, first_line
from sa_bench.core.version import __version__

HUGGING_FACE = "https://huggingface.co"
LARGEST = 2**33  # most bytes of a file whose size is not known
DEADLINE = 6.0  # most seconds until the answer, and of silence later on
TRIES = 5  # most consecutive attempts that end early
SLOWEST, WINDOW = (1024, 30.0)
"""Bytes per second, averaged over this many seconds, below which a download is given up."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)

Clock = Callable[[], float]  # seconds
Advance = Callable[[int, int | None], None]  # (bytes so far, bytes in all)


class Unreachable(MissingAsset):
    """A server that does not answer."""


class Refused(MissingAsset):
    """A server that answers, but without the file."""

    def __init__(self, url: str, code: int, reason: str, kind: str) -> None:
        """Describe the refusal; `kind` is the hub's name for it: `GatedRepo`, `EntryNotFound`..."""
        super().__init__(f"{url} answers HTTP {code} {reason}")
        self.code, self.kind = code, kind


def download(
    url: str,
    part: Path,
    name: str,
    is_hash_known: bool,
    limit: int = LARGEST,
    clock: Clock = time.monotonic,
) -> None:
    """Download all of `url` into the file `part`.

    Args:
        url: address of the file.
        part: the file that grows; what it holds already is continued.
        name: for the progress bar.
        is_hash_known: True if the file's hash is known, so that a download may be continued
            without proof that the server still has the same file.
        limit: most bytes of the file.
        clock: for the rate of the download.

    Raises:
        Unreachable: the server does not answer.
        Refused: the server has no such file, or no access to it is granted.
        MissingAsset: it keeps ending early, comes too slowly, or is larger than `limit`.
        CellFailed: the disk is full.
    """
    with _show_progress(name) as advance:
        for tries_left in reversed(range(TRIES)):
            size_before = partial_size(part)
            try:
                return _continue(url, part, is_hash_known, advance, limit, clock)
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in DISK:
                    raise
                has_grown = partial_size(part) > size_before
                if tries_left and has_grown:
                    continue
                progress = (
                    f"; {partial_size(part):,} bytes are stored; the same command goes on from there"
                    if partial_size(part)
                    else ""
                )
                raise (MissingAsset if has_grown or size_before else Unreachable)(
                    f"{describe_address(url)} {describe_failure(error)}{progress}"
                ) from error


def _continue(
    url: str, part: Path, is_hash_known: bool, advance: Advance, limit: int, clock: Clock
) -> None:
    """Download the rest of `url` into `part`, in one attempt."""
    tag, headers = tag_file(part), {}
    validator = tag.read_text(encoding="utf-8") if tag.exists() else ""
    # Without a hash or a validator, two versions of the file could be mixed unnoticed.
    start = partial_size(part) if is_hash_known or validator else 0
    if start:
        headers = {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        answer = open_url(url, headers)
    except Refused as refused:
        if refused.code != 416:
            raise
        if refused.kind == f"bytes */{start}":
            return  # it was complete already
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
            raise ConnectionError(f"sends a Content-Length that is not a number ({length[:20]!r})")
        total = start + int(length) if length else None
        if total is not None and total > limit:
            drop(part)
            raise MissingAsset(
                f"{describe_address(url)} announces {total:,} bytes; at most {limit:,} are accepted"
            )
        if total is not None:
            _require_room(part, total, total - start)
        with part.open("ab" if partial else "wb") as file:
            advance(start, total)
            window_start, bytes_in_window = clock(), 0
            while block := answer.read1(2**18):
                file.write(block)
                advance(file.tell(), total)
                bytes_in_window += len(block)
                if file.tell() > limit:
                    file.close()
                    drop(part)
                    raise MissingAsset(
                        f"{describe_address(url)} sends more than {limit:,} bytes, the most that is accepted"
                    )
                if (elapsed := clock() - window_start) >= WINDOW:
                    if bytes_in_window < SLOWEST * elapsed:
                        raise TimeoutError(
                            f"sends fewer than {SLOWEST:,} bytes a second for {elapsed:.0f} s"
                        )
                    window_start, bytes_in_window = clock(), 0
            file.flush()
            os.fsync(file.fileno())
    if total is not None and partial_size(part) != total:
        raise ConnectionError(f"ended at {partial_size(part):,} of {total:,} bytes")


def _require_room(part: Path, total: int, missing_bytes: int) -> None:
    """Require that the disk has room for the rest of the file."""
    free = shutil.disk_usage(part.parent).free
    if missing_bytes > free:
        raise CellFailed(
            f"The disk is full: the file takes {total:,} bytes, {free:,} are free at {part.parent}. Free some space or "
            "point SA_BENCH_STORE elsewhere."
        )


def describe_address(url: str) -> str:
    """Return a file's address; for the hub's files at the mirror that HF_ENDPOINT names, if any."""
    from huggingface_hub import constants

    hub = url == HUGGING_FACE or url.startswith(f"{HUGGING_FACE}/")
    return constants.ENDPOINT + url.removeprefix(HUGGING_FACE) if hub else url


def open_url(url: str, headers: dict[str, str] | None = None) -> Any:
    """Open a URL within `DEADLINE`, including the name look-up; only the hub gets the hub's token.

    Raises:
        OSError: no answer.
        Refused: an answer without the file.
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
    is_awaited = threading.Event()
    is_awaited.set()

    def ask() -> None:
        answer: Any
        try:
            answer = urllib.request.urlopen(request, timeout=DEADLINE)
        except Exception as error:
            answer = error
        answers.put(answer)
        if not is_awaited.is_set() and hasattr(answer, "close"):
            answer.close()  # it came too late

    # The timeout does not apply to the name look-up.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=DEADLINE)
    except queue.Empty:
        is_awaited.clear()
        raise TimeoutError(f"gives no answer within {DEADLINE:.0f} s") from None
    if isinstance(answer, HTTPError):
        kind = answer.headers.get("Content-Range" if answer.code == 416 else "X-Error-Code") or ""
        answer.close()
        raise Refused(url, answer.code, answer.reason, kind) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def describe_failure(error: Exception) -> str:
    """Describe a connection's failure in words that follow the address."""
    cause = getattr(error, "reason", error)
    message = first_line(cause)
    is_plain = isinstance(cause, (ConnectionError, TimeoutError)) and not getattr(
        cause, "errno", None
    )
    return message if is_plain and " " in message else f"cannot be reached ({message})"


def partial_size(path: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def drop(part: Path) -> None:
    """Delete what was downloaded so far."""
    part.unlink(missing_ok=True)
    tag_file(part).unlink(missing_ok=True)


def tag_file(part: Path) -> Path:
    """Return the file that holds the server's name (ETag) for this version during the download."""
    return part.with_name(f"{part.name}.etag")


@contextmanager
def _show_progress(name: str) -> Iterator[Advance]:
    """Yield a function that advances a progress bar on a terminal, and does nothing elsewhere."""
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
