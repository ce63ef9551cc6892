"""The store: atomic, content-addressed, locked, and honest about a full disk."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from filelock import FileLock

from sa_bench.errors import CellFailed
from sa_bench.store import Store, digest, write_atomic

INPUTS = {"n": 3, "of": ["a", "b"]}


def build(folder):
    (folder / "numbers.bin").write_bytes(bytes(range(100)))
    return {"made": 1}


def test_an_artifact_is_named_by_its_inputs_and_made_once(tmp_path):
    calls = []
    store = Store(tmp_path)
    first = store.make("stage", INPUTS, lambda f: calls.append(1) or build(f))
    again = store.make("stage", {"of": ["a", "b"], "n": 3}, lambda f: calls.append(1) or build(f))
    assert (first.cached, again.cached, len(calls)) == (False, True, 1)
    assert first.key == again.key == digest(INPUTS)
    assert store.make("stage", INPUTS | {"n": 4}, build).key != first.key
    assert json.loads((first.path / "meta.json").read_text())["inputs"] == INPUTS


def test_a_broken_build_keeps_its_folder_and_leaves_no_artifact(tmp_path):
    store = Store(tmp_path)

    def breaks(folder):
        (folder / "half.bin").write_bytes(b"half")
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        store.make("stage", INPUTS, breaks)
    assert not store.has("stage", digest(INPUTS))
    seen = []
    store.make("stage", INPUTS, lambda f: seen.extend(p.name for p in f.iterdir()) or build(f))
    assert seen == ["half.bin"]


def test_what_a_killed_write_left_changes_no_hash(tmp_path):
    clean = Store(tmp_path / "a").make("stage", INPUTS, build)
    partial = tmp_path / "b" / "stage" / f"{clean.key}.partial"
    partial.mkdir(parents=True)
    (partial / ".numbers.bin.123.tmp").write_bytes(b"torn")
    assert Store(tmp_path / "b").make("stage", INPUTS, build).content == clean.content


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / "numbers.bin").write_bytes(b"other weights under the same name"),
        lambda p: (p / "numbers.bin").unlink(),
        lambda p: (p / "numbers.bin").write_bytes((p / "numbers.bin").read_bytes()[:-1]),
        lambda p: (p / "meta.json").write_text('{"cont'),
        lambda p: (p / "meta.json").unlink(),
    ],
    ids=["overwritten", "deleted", "truncated", "torn meta", "no meta"],
)
def test_a_changed_or_lost_file_is_never_trusted(tmp_path, harm):
    artifact = Store(tmp_path).make("stage", INPUTS, build)
    harm(artifact.path)
    again = Store(tmp_path).make("stage", INPUTS, build)
    assert not again.cached
    assert again.content == artifact.content
    assert (again.path / "numbers.bin").read_bytes() == bytes(range(100))


def test_a_file_managers_hidden_file_spoils_nothing(tmp_path):
    artifact = Store(tmp_path).make("stage", INPUTS, build)
    (artifact.path / ".DS_Store").write_bytes(b"x")
    assert Store(tmp_path).make("stage", INPUTS, build).cached


def _race(root, barrier, queue):
    def slow(folder):
        with (root / "calls").open("a") as file:
            file.write("x")
        return build(folder)

    barrier.wait()
    queue.put(Store(root).make("stage", INPUTS, slow).content)


def test_processes_on_one_cold_store_make_it_once_and_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path, barrier, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    contents = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(contents) == 1
    assert (tmp_path / "calls").read_text() == "x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch, number):
    target = tmp_path / "result.json"
    write_atomic(target, b"old")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CellFailed, match=r"disk is full.*SA_BENCH_STORE.*run the same command again"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_name_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "folder",
        tmp_path / "file" / "x.tex",
        tmp_path / "file" / "y" / "x",
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(CellFailed, match="Give another --out") as found:
            write_atomic(path, b"x")
        assert "\n" not in str(found.value)
    assert not list(tmp_path.rglob(".*"))


def test_an_unwritable_folder_is_one_line(tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(CellFailed, match="No permission to write"):
        Store(tmp_path / "no").make("stage", INPUTS, build)


def test_gc_deletes_what_killed_runs_left_but_not_what_another_process_works_on(tmp_path):
    store = Store(tmp_path)
    kept = store.make("stage", INPUTS, build)
    (tmp_path / "locks").mkdir(exist_ok=True)
    for key in ("dead", "alive"):
        (tmp_path / "stage" / f"{key}.partial").mkdir()
        (tmp_path / "stage" / f"{key}.partial" / "x").write_bytes(b"1234")
    with FileLock(tmp_path / "locks" / "stage-alive.lock"):
        assert store.gc() == 4
    assert (tmp_path / "stage" / "alive.partial").exists()
    assert not (tmp_path / "stage" / "dead.partial").exists()
    assert kept.path.exists()
    store.gc(("stage",))
    assert not kept.path.exists()
