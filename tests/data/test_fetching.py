"""`fetch`: whole files or none, resumed where they were stopped, and one line for whatever goes wrong."""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from sa_bench.commands import fetch as command
from sa_bench.contracts import Prompts
from sa_bench.core import registry
from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError
from sa_bench.data.assets import catalogue
from sa_bench.data.assets import download as downloads
from sa_bench.data.assets.catalogue import CATALOGUE, Asset
from sa_bench.scoring.detectors import celebrities, clip

ROOT = Path(__file__).parents[2]
BODY = bytes(range(256)) * 4096  # 1 MiB
LONG = 600  # s after which a test no longer waits for an event


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty store, no caches, and no proxy between a test and its own server."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    for name in (
        "SA_BENCH_WEIGHTS",
        "SA_BENCH_DATA",
        "SA_BENCH_MIRROR",
        "HF_TOKEN",
        "http_proxy",
        "HTTP_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    return tmp_path


class Server:
    """Serves `body` with ranges; `cut` bytes at most a request, `status` and `headers` as told."""

    def __init__(self):
        self.body, self.cut, self.etag, self.status, self.headers = BODY, None, '"one"', 200, {}
        self.seen = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                server.seen.append(dict(self.headers.items()) | {"path": self.path})
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False  # closing waits for every answer, so none goes on unseen
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        start, status = 0, self.status
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked and status == 200 and handler.headers.get("If-Range", self.etag) == self.etag:
            start, status = int(asked[1]), 206
        if start >= len(self.body) and status == 206:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.body)}")
            handler.end_headers()
            return
        handler.send_response(status)
        for name, value in {**({"ETag": self.etag} if self.etag else {}), **self.headers}.items():
            handler.send_header(name, value)
        if status == 206:
            handler.send_header(
                "Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
            )
        rest = self.body[start:]
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever asked may have gone
            handler.wfile.write(rest[: self.cut])


@pytest.fixture
def serve():
    servers = []

    def start():
        servers.append(Server())
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def known(monkeypatch):
    """`known(name, url, ...)` puts an asset into the catalogue."""

    def put(name, url, file="thing.bin", sha256="", kind="weights", **more):
        asset = Asset(name, file, url, sha256, "1 MB", "MIT", False, "all", kind, **more)
        monkeypatch.setitem(CATALOGUE, name, asset)
        return asset

    return put


def get(name, source=None):
    lines = []
    return command.fetch(name, source, lines.append), lines


def refused(name, *parts, source=None, error=MissingAsset):
    with pytest.raises(error) as caught:
        command.fetch(name, source, lambda line: None)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    for part in parts:
        assert part in text
    return text


def sha(raw=BODY):
    return hashlib.sha256(raw).hexdigest()


def left(folder):
    """Names under `folder` that are neither locks nor parts."""
    if not folder.exists():
        return []
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


# whole and checked


def test_a_file_comes_once_and_stays(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha()[:8])
    (path,), lines = get("thing")
    assert path == nowhere / "store" / "weights" / "thing.bin"
    assert path.read_bytes() == BODY
    assert f"fetched, {len(BODY):,} bytes, sha256 {sha()}" in lines[-1]
    assert get("thing")[1] == [f"thing: here, {path}"]
    assert get("thing.bin")[0] == [path]
    assert len(server.seen) == 1
    assert "Range" not in server.seen[0]
    assert not list(path.parent.glob("*.part*"))


@pytest.mark.parametrize("sha256", [sha()[:8], ""])
def test_a_connection_that_breaks_is_gone_on_with(server, known, sha256):
    known("thing", f"{server.url}/thing.bin", sha256=sha256)
    server.cut = 300_000
    (path,), _ = get("thing")
    assert path.read_bytes() == BODY
    assert [s.get("Range") for s in server.seen] == [
        None,
        *(f"bytes={n * 300_000}-" for n in (1, 2, 3)),
    ]
    assert server.seen[1]["If-Range"] == '"one"'


def test_one_that_keeps_breaking_is_resumed_by_the_next_command(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    server.cut = 10_000
    refused(
        "thing",
        "ended at",
        f"of {len(BODY):,} bytes",
        "50,000 bytes are stored",
        "goes on from there",
    )
    assert left(nowhere / "store") == []
    assert len(server.seen) == downloads.TRIES
    server.cut = None
    assert get("thing")[0][0].read_bytes() == BODY
    assert server.seen[-1]["Range"] == "bytes=50000-"


def test_another_version_is_not_glued_to_the_first(server, known):
    known("thing", f"{server.url}/thing.bin")
    server.cut = 10_000
    refused("thing", "ended at")
    server.cut, server.etag, server.body = None, '"two"', BODY[::-1]
    assert get("thing")[0][0].read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_proof_of_sameness_it_starts_over(server, known, nowhere, etag):
    known("thing", f"{server.url}/thing.bin")
    server.etag = etag
    part = nowhere / "store" / "weights" / ".thing.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"stale")
    assert get("thing")[0][0].read_bytes() == BODY
    assert "Range" not in server.seen[0]


def test_a_stale_part_of_a_known_file_is_dropped(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    part = nowhere / "store" / "weights" / ".thing.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"stale")
    assert get("thing")[0][0].read_bytes() == BODY
    assert [s.get("Range") for s in server.seen] == ["bytes=5-", None]


def test_a_part_that_was_whole_is_taken(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    part = nowhere / "store" / "weights" / ".thing.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert get("thing")[0][0].read_bytes() == BODY
    part.write_bytes(BODY + b"more")
    (nowhere / "store" / "weights" / "thing.bin").unlink()
    refused("thing", "has another size than before")
    assert get("thing")[0][0].read_bytes() == BODY


@pytest.mark.process
def test_a_killed_download_leaves_no_file_and_is_resumed(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    server.body = BODY * 4
    answer, killed = server.answer, threading.Event()

    def slowly(handler):
        handler.send_response(200)
        handler.send_header("ETag", server.etag)
        handler.send_header("Content-Length", str(len(server.body)))
        handler.end_headers()
        handler.wfile.write(server.body[:700_000])
        handler.wfile.flush()
        killed.wait(60)

    server.answer = slowly
    code = f"""
        from sa_bench.commands import fetch as command
        from sa_bench.data.assets import catalogue
        url, sha256 = "{server.url}/thing.bin", "{sha(BODY * 4)}"
        asset = catalogue.Asset("thing", "thing.bin", url, sha256, "", "", False, "", "weights")
        catalogue.CATALOGUE["thing"] = asset
        command.fetch("thing")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    part = nowhere / "store" / "weights" / ".thing.bin.part"
    try:
        until = time.monotonic() + 60
        while downloads.partial_size(part) < 524_288 and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
    assert left(nowhere / "store") == []
    kept = downloads.partial_size(part)
    assert kept >= 524_288
    server.answer = answer
    known("thing", f"{server.url}/thing.bin", sha256=sha(BODY * 4))
    assert get("thing")[0][0].read_bytes() == BODY * 4
    assert server.seen[-1]["Range"] == f"bytes={kept}-"


def test_two_at_once_fetch_it_once(server, known):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    found = []
    threads = [threading.Thread(target=lambda: found.extend(get("thing")[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(server.seen) == 1


# what is not the file


def test_another_hash_leaves_nothing(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256="0" * 64)
    refused("thing", f"its sha256 is {sha()}, not {'0' * 64}", server.url)
    assert left(nowhere / "store") == []
    assert not list((nowhere / "store" / "weights").glob(".thing.bin.part*"))


def test_an_unknown_hash_is_noted_and_compared_from_then_on(server, known, nowhere):
    asset = known("thing", f"{server.url}/thing.bin")
    (path,), lines = get("thing")
    note = path.with_name("thing.bin.sha256")
    assert note.read_text() == f"{sha()}  thing.bin\n"
    assert any("no sha256 is published" in line for line in lines)
    path.write_bytes(b"changed")
    with pytest.raises(MissingAsset, match="is damaged or another file"):
        catalogue.find(asset)
    server.body, server.etag = b"new", '"two"'
    refused("thing", "differs from the file of the first time", sha(b"new"), f"Delete {note}")
    assert path.read_bytes() == b"changed"
    server.body, server.etag = BODY, '"one"'
    assert get("thing")[0][0].read_bytes() == BODY
    server.body = b"new"
    path.unlink()
    note.unlink()
    assert get("thing")[0][0].read_bytes() == b"new"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<!DOCTYPE html><p>log in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_a_page_in_its_place_leaves_nothing(server, known, nowhere, body, says):
    known("thing", f"{server.url}/thing.bin")
    server.body = body
    refused("thing", says)
    assert left(nowhere / "store") == []


@pytest.mark.parametrize(
    ("file", "body", "says"),
    [
        ("p.txt", b"\xff\xfe", "is not UTF-8"),
        ("p.csv", b"text\na\n", "no column `prompt`"),
        ("p.csv", b"prompt,seed\na,x\n", "row 1: seed is 'x'"),
    ],
)
def test_prompt_files_are_read_before_they_are_kept(server, known, nowhere, file, body, says):
    known("thing", f"{server.url}/{file}", file=file, kind="prompts")
    server.body = body
    refused("thing", says, server.url)
    assert left(nowhere / "store") == []
    server.body = b"prompt\na cat\n"
    assert get("thing")[0] == [nowhere / "store" / "data" / file]


def test_an_archive_is_compared_with_its_md5(server, known, nowhere):
    known("thing", f"{server.url}/t.gz", file="t.gz", md5=hashlib.md5(BODY).hexdigest())
    assert get("thing")[0][0].read_bytes() == BODY
    known("other", f"{server.url}/o.gz", file="o.gz", md5="0" * 32)
    refused("other", "its md5 is")
    assert left(nowhere / "store") == ["t.gz", "t.gz.sha256"]


def test_a_damaged_file_in_the_store_is_replaced_and_an_own_one_named(
    server, known, nowhere, monkeypatch
):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    path = nowhere / "store" / "weights" / "thing.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert get("thing")[0][0].read_bytes() == BODY
    own = nowhere / "own" / "thing.bin"
    own.parent.mkdir()
    own.write_bytes(b"damaged")
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(own.parent))
    refused("thing", f"{own} is damaged", "Remove it")
    assert own.read_bytes() == b"damaged"


# the disk


def test_a_file_larger_than_the_disk_is_not_begun(server, known, nowhere, monkeypatch):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    usage = shutil.disk_usage(nowhere)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused("thing", "The disk is full", f"{len(BODY):,} bytes", error=CellFailed)
    assert left(nowhere / "store") == []


def test_a_disk_that_fills_up_leaves_no_file(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        refused("thing", "The disk is full", error=CellFailed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(nowhere / "store") == []
    assert get("thing")[0][0].read_bytes() == BODY


# nobody there, or not for us


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_a_server_that_is_not_there(known, nowhere):
    known("thing", f"http://127.0.0.1:{closed_port()}/thing.bin")
    refused(
        "thing",
        "cannot be reached",
        "Connection refused",
        "--from",
        str(nowhere / "store" / "weights" / "thing.bin"),
    )


class Unanswered:
    """Whoever asks waits until the test has ended; `asked` counts them and `answered` those that went on."""

    def __init__(self):
        self.ended, self.asked, self.answered = threading.Event(), 0, 0

    def __call__(self, *question, **options):
        self.asked += 1
        self.ended.wait(LONG)
        self.answered += 1
        raise OSError("no longer asked for")


@pytest.fixture
def unanswered():
    question = Unanswered()
    yield question
    question.ended.set()


@pytest.mark.parametrize("silent", ["the name look-up", "the server"])
def test_nobody_waits_for_a_name_look_up_or_a_silent_server(
    server, known, monkeypatch, unanswered, silent
):
    monkeypatch.setattr(downloads, "DEADLINE", 0.5)
    if silent == "the server":
        known("thing", f"{server.url}/thing.bin", sha256=sha())
        server.answer = lambda handler: unanswered.ended.wait(LONG)
        text = refused("thing", "127.0.0.1")
        assert "no answer within" in text or "timed out" in text  # whichever deadline is first
        assert len(server.seen) == 1
    else:
        known("thing", "http://nowhere.invalid/thing.bin")
        monkeypatch.setattr(socket, "getaddrinfo", unanswered)
        refused("thing", "no answer within")
        assert unanswered.asked == 1
    assert not unanswered.ended.is_set()
    assert not unanswered.answered


def test_where_nothing_answers_the_rest_is_not_tried(known, monkeypatch, unanswered):
    monkeypatch.setattr(downloads, "DEADLINE", 0.5)
    monkeypatch.setattr(command, "DEADLINE", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    many = [known(f"a{n}", f"http://nowhere.invalid/{n}", file=f"{n}.bin") for n in range(20)]
    monkeypatch.setattr(command, "_find_tasks", lambda name: [name])
    monkeypatch.setattr(command, "fetchable_assets", lambda tasks: many)
    with pytest.raises(
        MissingAsset, match=r"20 of 20 could not be fetched: a0: .*a1: not tried, nothing answers"
    ):
        command.fetch("many", None, lambda line: None)
    assert unanswered.asked == 1
    assert not unanswered.answered


@pytest.mark.parametrize(("status", "says"), [(404, "it may have moved"), (503, "try again later")])
def test_a_refusal_is_told(server, known, nowhere, status, says):
    known("thing", f"{server.url}/thing.bin")
    server.status = status
    refused("thing", f"HTTP {status}", says, str(nowhere / "store" / "weights" / "thing.bin"))
    assert left(nowhere / "store") == []


@pytest.fixture
def hub(server, monkeypatch):
    """The test's server as the hub."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    return server


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (
            401,
            "GatedRepo",
            (
                "accept its licence at https://huggingface.co/CompVis/stable-diffusion-v1-4",
                "HF_TOKEN",
            ),
        ),
        (403, "GatedRepo", ("accept its licence", "HF_TOKEN")),
        (401, "RepoNotFound", ("removed, renamed or private", "HF_TOKEN", "stable-diffusion-v1-4")),
        (404, "RepoNotFound", ("removed, renamed or private",)),
        (500, "", ("HTTP 500", "try again later")),
    ],
)
def test_the_hub_says_no(hub, monkeypatch, status, code, says):
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("not asked")
    )
    hub.status, hub.headers = status, {"X-Error-Code": code}
    refused("sd-v1-4", *says)
    assert hub.seen[0]["path"] == "/CompVis/stable-diffusion-v1-4/resolve/main/model_index.json"


def test_a_model_that_is_gone_says_why(hub):
    hub.status, hub.headers = 401, {"X-Error-Code": "RepoNotFound"}
    refused("sd-v2-1", "took it off the hub in November 2025")


def test_the_token_is_for_the_hub_alone(hub, serve, known, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    other = serve()
    hub.status, hub.headers = 302, {"Location": f"{other.url}/cdn"}
    known("thing", "https://huggingface.co/datasets/a/b/resolve/main/thing.bin", sha256=sha())
    assert get("thing")[0][0].read_bytes() == BODY
    assert hub.seen[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in other.seen[0]
    known("there", f"{other.url}/x", file="x.bin", sha256=sha())
    get("there")
    assert "Authorization" not in other.seen[-1]


def test_an_offline_hub_is_not_asked(hub, known, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("sd-v1-4", "HF_HUB_OFFLINE is set")
    assert not hub.seen


# models of the hub


def pipeline(folder, ending="safetensors"):
    parts = ("unet", "vae", "text_encoder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(
        '{"unet": ["a", "b"], "vae": ["a", "b"], "text_encoder": ["a", "b"]}'
    )
    for part in parts:
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"model.{ending}").write_bytes(b"x")
    return folder


def test_a_model_goes_through_the_hubs_own_library(hub, monkeypatch, nowhere):
    asked = []

    def download(repository, allow_patterns, ignore_patterns):
        asked.append((repository, "*/*.bin" in allow_patterns))
        assert "*.safetensors" not in allow_patterns, "the same weights again in one file"
        folder = pipeline(nowhere / "snapshot" / repository)
        if "old" in repository:
            for path in folder.rglob("*.safetensors"):
                path.rename(path.with_suffix(".bin" if asked[-1][1] else ".nothing"))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (path,), lines = get("sd-v1-4")
    assert path == nowhere / "snapshot" / "CompVis" / "stable-diffusion-v1-4"
    assert "hf download CompVis/stable-diffusion-v1-4" in lines[0]
    get("someone/old")
    assert asked == [
        ("CompVis/stable-diffusion-v1-4", False),
        ("someone/old", False),
        ("someone/old", True),
    ]


def test_a_network_alone_has_its_weights_beside_its_configuration(hub, monkeypatch, nowhere):
    def download(repository, allow_patterns, ignore_patterns):
        assert "*.safetensors" in allow_patterns
        for name in clip.FILES:
            (nowhere / name).write_bytes(b"{}")
        return str(nowhere)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.status, hub.headers = 404, {"X-Error-Code": "EntryNotFound"}
    assert get("clip-vit-base-patch32")[0] == [nowhere]


def test_a_store_that_is_a_file_is_one_line(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin")
    (nowhere / "store").write_text("")
    refused("thing", "Cannot write", "not a directory", "SA_BENCH_STORE", error=CellFailed)


def test_what_the_hubs_library_raises_is_one_line(hub, monkeypatch, nowhere):
    def fail(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    gated = GatedRepoError("401\nmany\nlines", response=SimpleNamespace(headers={}, request=None))
    fail(gated)
    refused("sd-v1-4", "accept its licence")
    fail(RuntimeError("first line\nsecond"))
    refused("sd-v1-4", "cannot be downloaded (first line)")
    fail(OSError(28, "No space left on device"))
    refused("sd-v1-4", "cannot be stored in", "No space left", "HF_HOME", error=CellFailed)


def test_an_incomplete_model_is_not_accepted(hub, monkeypatch, nowhere):
    folder = pipeline(nowhere / "snapshot")
    (folder / "vae" / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    refused("sd-v1-4", "lacks the weights in vae/")


# from a folder


def test_a_mirror_is_copied_from_and_nothing_else_asked(server, known, nowhere):
    known("thing", f"{server.url}/thing.bin", sha256=sha())
    mirror = nowhere / "mirror"
    mirror.mkdir()
    refused("thing", f"{mirror} has no thing.bin (1 MB", source=mirror)
    (mirror / "thing.bin").write_bytes(b"other")
    refused("thing", f"what came from {mirror} is not the file", source=mirror)
    assert left(nowhere / "store") == []
    (mirror / "thing.bin").write_bytes(BODY)
    (path,), lines = get("thing", mirror)
    assert path.read_bytes() == BODY
    assert "copied" in lines[-1]
    assert not server.seen
    refused("thing", "There is no folder", source=nowhere / "none", error=SaBenchError)


def test_a_mirrors_model_is_copied_whole_or_not(nowhere):
    mirror = nowhere / "mirror"
    mirror.mkdir()
    refused("sd-v1-4", "has no folder stable-diffusion-v1-4", source=mirror)
    folder = pipeline(mirror / "stable-diffusion-v1-4")
    (folder / "unet" / "model.safetensors").unlink()
    refused("sd-v1-4", "lacks the weights in unet/", source=mirror)
    assert left(nowhere / "store") == []
    pipeline(folder)
    (path,), _ = get("sd-v1-4", mirror)
    assert path == nowhere / "store" / "weights" / "stable-diffusion-v1-4"
    assert catalogue.find("sd-v1-4") == path
    for name in clip.FILES:
        (mirror / clip.FOLDER).mkdir(exist_ok=True)
        (mirror / clip.FOLDER / name).write_bytes(b"{}")
    get(clip.FOLDER, mirror)
    assert clip.missing() is None


def archive(path, **files):
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(f"resources/face_recognition/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path.read_bytes()


@pytest.mark.parametrize("name", ["resources.tar.gz", "best_model_states.pkl"])
def test_giphys_archive_becomes_the_converted_file(server, nowhere, monkeypatch, name):
    def convert(source, target):
        assert source.read_bytes() == b"pickle"
        target.write_bytes(b"tensors")
        return target

    monkeypatch.setattr(celebrities, "convert", convert)
    mirror = nowhere / "mirror"
    mirror.mkdir()
    raw = archive(
        mirror / "resources.tar.gz", **{"best_model_states.pkl": b"pickle", "labels.csv": b"x"}
    )
    if name != "resources.tar.gz":
        (mirror / "resources.tar.gz").unlink()
        (mirror / name).write_bytes(b"pickle")
    (path,), _ = get("giphy-celebrities", mirror)
    assert path.read_bytes() == b"tensors"
    assert left(nowhere / "store") == [celebrities.FILE, f"{celebrities.FILE}.sha256"]
    path.unlink()
    server.body = raw
    known = dataclasses.replace(
        CATALOGUE["giphy-celebrities"], url=f"{server.url}/resources.tar.gz"
    )
    monkeypatch.setitem(CATALOGUE, "giphy-celebrities", known)
    assert get("giphy-celebrities")[0][0].read_bytes() == b"tensors"


def test_an_archive_without_it_leaves_nothing(nowhere):
    mirror = nowhere / "mirror"
    mirror.mkdir()
    archive(mirror / "resources.tar.gz", other=b"x")
    refused("giphy-celebrities", "holds no best_model_states.pkl", source=mirror)
    (mirror / "resources.tar.gz").write_bytes(b"\x1f\x8bdamaged")
    refused("giphy-celebrities", f"what came from {mirror} cannot be converted", source=mirror)
    whole = archive(mirror / "resources.tar.gz", **{"best_model_states.pkl": os.urandom(100_000)})
    refused("giphy-celebrities", "best_model_states.pkl holds more than tensors", source=mirror)
    (mirror / "resources.tar.gz").write_bytes(whole[:5000] + bytes(5000) + whole[10_000:])
    refused("giphy-celebrities", "cannot be converted", source=mirror)
    (mirror / celebrities.LABELS).write_text("Labels,Index\nBrad_Pitt,x\n")
    refused("giphy-labels", "is not GIPHY's labels.csv", source=mirror)
    assert left(nowhere / "store") == []
    assert not list(nowhere.rglob("*.part*"))


# tasks


def test_a_tasks_name_fetches_what_it_can_use(nowhere, monkeypatch):
    files = Prompts(files={"test": "coco_30k", "replay": "fim_prompts", "kept": "fim_prompts"})
    task = replace(
        registry.get_task("mnist_0_t2i"),
        name="mine",
        dataset="",
        judges=(),
        metrics=("clip_score",),
        primary=(),
        model="CompVis/stable-diffusion-v1-4",
        prompts=files,
    )
    monkeypatch.setattr(registry, "get_task", lambda name: task)
    monkeypatch.setattr(command, "_find_tasks", lambda name: [name])
    mirror = nowhere / "mirror"
    mirror.mkdir()
    (mirror / "coco_30k.csv").write_text("prompt,evaluation_seed\na cat,1\n")
    (mirror / "fim_prompts.txt").write_text("Create a cat.\n")
    refused("mine", "2 of 4 could not be fetched: sd-v1-4", clip.FOLDER, source=mirror)
    assert left(nowhere / "store" / "data") == [
        "coco_30k.csv", "coco_30k.csv.sha256", "fim_prompts.txt", "fim_prompts.txt.sha256"
    ]  # fmt: skip
    pipeline(mirror / "stable-diffusion-v1-4")
    for name in clip.FILES:
        (mirror / clip.FOLDER).mkdir(exist_ok=True)
        (mirror / clip.FOLDER / name).write_bytes(b"{}")
    assert len(get("mine", mirror)[0]) == 4


def test_unknown_names_are_answered():
    refused("alexnt", "Did you mean alexnet", error=SaBenchError)
    refused("cifar10_aeroplane", "Did you mean cifar10_airplane", error=SaBenchError)
    refused("./none.py", "/none.py, so no task can be read from it", error=SaBenchError)


def test_the_command(cli, nowhere, tmp_path, monkeypatch):
    offline = {
        name: f"http://127.0.0.1:{closed_port()}"
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy")
    }
    store = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda s: pytest.fail(f"nothing is worth waiting {s} s for"))
        done = cli("fetch", "coco_30k", store=store, env=offline)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be reached" in done.stderr
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "coco_30k.csv").write_text("prompt\na cat\n")
    done = cli("fetch", "coco_30k", "--from", "mirror", store=store, env=offline, check=0)
    assert "coco_30k: copied" in done.stdout
    assert done.stderr == ""
    assert "here, " in cli("fetch", "coco_30k.csv", store=store, env=offline, check=0).stdout
    (tmp_path / "mirror" / "fim_prompts.txt").write_text("Create a cat.\n")
    cli("fetch", "fim_prompts", store=store, env={**offline, "SA_BENCH_MIRROR": "mirror"}, check=0)
    assert cli("fetch", "nothing-like-it", store=store, env=offline).returncode == 2
    assert os.listdir(store / "data")  # noqa: PTH208


def begin(handler, headers=()):
    handler.send_response(200)
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()


def endless(handler, headers=()):
    begin(handler, headers)
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 65536)


def test_a_server_that_does_not_say_when_it_ends_is_stopped_at_what_the_file_may_have(
    server, known, nowhere
):
    server.answer = endless
    known("thing", server.url, sha256="0" * 64)
    text = refused("thing", "sends more than 16,000,000 bytes")
    assert "\n" not in text
    assert not left(nowhere / "store")


def test_a_server_that_says_too_much_is_not_listened_to(server, known, nowhere):
    server.answer = lambda handler: endless(handler, headers=[("Content-Length", "3000000000")])
    known("thing", server.url)
    refused("thing", "announces 3,000,000,000 bytes; at most 16,000,000 are accepted")
    assert not left(nowhere / "store")


@pytest.mark.parametrize("length", ["abc", "-1", "1e9", "\u0663"])
def test_a_length_that_is_no_number_is_one_line(server, known, length):
    value = length.encode("utf-8").decode("latin1")
    server.answer = lambda handler: begin(handler, [("Content-Length", value)])
    known("thing", server.url)
    refused("thing", "sends a Content-Length that is not a number")


class Slow:
    """An answer of a byte at a time, 10 seconds apart on the clock that it carries."""

    status, headers = 200, {}

    def __init__(self, block=b"x"):
        self.now, self.block = 0.0, block

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def read1(self, n):
        self.now += 10
        return self.block


@pytest.mark.parametrize(("block", "stops"), [(b"x", True), (b"x" * 20_000, False)])
def test_nobody_waits_for_a_byte_a_second(tmp_path, monkeypatch, block, stops):
    answers = []

    def ask(url, headers=None):
        answers.append(Slow(block))
        return answers[-1]

    monkeypatch.setattr(downloads, "open_url", ask)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    with pytest.raises(
        MissingAsset, match="1,024 bytes a second for 30 s" if stops else "more than 1,000,000"
    ):
        downloads.download(
            "http://x/y", tmp_path / "part", "x", True, 10**6, lambda: answers[-1].now
        )


def test_a_hash_published_in_part_is_trusted_once_and_compared_from_then_on(server, known, nowhere):
    known("thing", server.url, sha256=sha()[:8])
    _, lines = get("thing")
    assert "only the first 8 digits of its sha256 are published" in "".join(lines)
    assert sha() in (nowhere / "store" / "weights" / "thing.bin.sha256").read_text()
    path = nowhere / "store" / "weights" / "thing.bin"
    assert catalogue.describe_damage(CATALOGUE["thing"], path) is None
    (nowhere / "store" / "weights" / "thing.bin.sha256").write_text(sha()[:8] + "0" * 56)
    assert "is damaged or another file" in str(catalogue.describe_damage(CATALOGUE["thing"], path))


def test_the_whole_hash_of_what_is_published_by_eight_digits_is_pinned():
    for name in ("inception-v3-compat", "alexnet"):
        asset = CATALOGUE[name]
        assert len(asset.sha256) == 64
        assert asset.sha256[:8] in asset.file


def test_messages_name_the_mirror(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example")
    assert downloads.describe_address("https://huggingface.co/a/b") == "https://mirror.example/a/b"
    assert (
        downloads.describe_address("https://huggingface.co.evil/a")
        == "https://huggingface.co.evil/a"
    )
    assert downloads.describe_address("https://elsewhere/a") == "https://elsewhere/a"
