"""The store: atomic, content-addressed, locked, and honest about a full disk."""

import errno
import json
import multiprocessing
import os
import re
import signal
import traceback
from pathlib import Path

import pytest

from sa_bench.core.errors import CellFailed, SaBenchError
from sa_bench.core.locks import hold_lock
from sa_bench.core.parts import parts_of
from sa_bench.core.store import MARKER, PARTS, STAGES, Store, digest, write_atomic

INPUTS = {"n": 3, "of": ["a", "b"]}


def build(folder):
    (folder / "numbers.bin").write_bytes(bytes(range(100)))
    return {"made": 1}


def test_an_artifact_is_named_by_its_inputs_and_made_once(tmp_path):
    calls = []
    store = Store(tmp_path)
    first = store.make("measure", INPUTS, lambda f: calls.append(1) or build(f))
    again = store.make("measure", {"of": ["a", "b"], "n": 3}, lambda f: calls.append(1) or build(f))
    assert (first.cached, again.cached, len(calls)) == (False, True, 1)
    assert first.key == again.key == digest(INPUTS)
    assert store.make("measure", INPUTS | {"n": 4}, build).key != first.key
    assert json.loads((first.path / "meta.json").read_text())["inputs"] == INPUTS


def test_a_broken_build_keeps_its_folder_and_leaves_no_artifact(tmp_path):
    store = Store(tmp_path)

    def breaks(folder):
        (folder / "half.bin").write_bytes(b"half")
        write_atomic(parts_of(folder) / "part.bin", b"part")
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        store.make("measure", INPUTS, breaks)
    assert not store.has("measure", digest(INPUTS))
    seen = []
    store.make(
        "measure", INPUTS, lambda f: seen.extend(p.name for p in parts_of(f).iterdir()) or build(f)
    )
    assert seen == ["part.bin"]


def test_what_a_killed_write_left_changes_no_hash(tmp_path):
    clean = Store(tmp_path / "a").make("measure", INPUTS, build)
    partial = tmp_path / "b" / "measure" / f"{clean.key}.partial"
    partial.mkdir(parents=True)
    (partial / ".numbers.bin.123.tmp").write_bytes(b"torn")
    assert Store(tmp_path / "b").make("measure", INPUTS, build).content == clean.content


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
    artifact = Store(tmp_path).make("measure", INPUTS, build)
    harm(artifact.path)
    again = Store(tmp_path).make("measure", INPUTS, build)
    assert not again.cached
    assert again.content == artifact.content
    assert (again.path / "numbers.bin").read_bytes() == bytes(range(100))


def test_a_file_managers_hidden_file_spoils_nothing(tmp_path):
    artifact = Store(tmp_path).make("measure", INPUTS, build)
    (artifact.path / ".DS_Store").write_bytes(b"x")
    assert Store(tmp_path).make("measure", INPUTS, build).cached


def _race(root, barrier, queue):
    def slow(folder):
        with (root / "calls").open("a") as file:
            file.write("x")
        return build(folder)

    barrier.wait()
    queue.put(Store(root).make("measure", INPUTS, slow).content)


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
    with pytest.raises(
        CellFailed, match=r"disk is full.*SA_BENCH_STORE.*run the same command again"
    ):
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
        with pytest.raises(CellFailed, match="Write to another place") as found:
            write_atomic(path, b"x")
        assert "\n" not in str(found.value)
    assert not list(tmp_path.rglob(".*"))


def test_an_unwritable_folder_is_one_line(tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(CellFailed, match="No permission to write"):
        Store(tmp_path / "no").make("measure", INPUTS, build)


@pytest.fixture
def stranger(tmp_path):
    """A folder that is no store and holds what looks a little like one."""
    for name in ("Downloads/dataset.partial/data.csv", "samples/holiday/1.jpg", "locks/door.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    return tmp_path


def files(folder):
    """But for what a living process notes of itself."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if not name.endswith(".use"))


def test_gc_in_a_folder_that_is_no_store_deletes_nothing_and_says_so(stranger):
    before = files(stranger)
    with pytest.raises(SaBenchError, match=r"is not a store of sa_bench.*nothing is deleted"):
        Store(stranger).gc(STAGES)
    assert files(stranger) == before
    assert Store(stranger).entries() == []


def test_a_store_in_a_folder_of_other_things_never_touches_them(stranger):
    before = set(files(stranger))
    store = Store(stranger)
    key = store.make("samples", INPUTS, build).key
    assert json.loads((stranger / MARKER).read_text())["format"] == 1
    assert [(stage, k) for stage, k, _, _ in store.entries()] == [("samples", key)]
    Store(stranger).gc(STAGES)
    assert store.entries() == []
    assert set(files(stranger)) == before | {MARKER}


def test_a_store_from_before_the_mark_is_adopted_and_one_of_a_later_version_is_refused(tmp_path):
    store = Store(tmp_path)
    artifact = store.make("measure", INPUTS, build)
    (tmp_path / MARKER).unlink()
    assert Store(tmp_path).entries() == [("measure", artifact.key, _bytes(artifact.path), True)]
    assert Store(tmp_path).gc() == 0
    assert (tmp_path / MARKER).is_file()
    (tmp_path / MARKER).write_text('{"format": 2, "made_by": "sa_bench 9.0"}')
    for call in (
        lambda: Store(tmp_path).gc(),
        lambda: Store(tmp_path).make("measure", {"n": 1}, build),
    ):
        with pytest.raises(SaBenchError, match=r"later sa_bench \(sa_bench 9\.0, format 2"):
            call()


def _bytes(folder):
    return sum(p.stat().st_size for p in folder.rglob("*"))


def test_every_stage_that_the_code_makes_is_a_stores():
    root = Path(__file__).parents[2]
    made = set()
    for path in [*root.glob("sa_bench/**/*.py"), *root.glob("m*/*.py")]:
        made |= set(re.findall(r"(?:\.make|\bStage)\(\s*\"(\w+)\"", path.read_text()))
    assert len(made) > 8
    assert made == set(STAGES)
    with pytest.raises(ValueError, match="STAGES"):
        Store(root / "nowhere").make("stage", INPUTS, build)


def _hold(root, ready, done):
    store = Store(root)
    store.make("measure", INPUTS, build)
    ready.set()
    done.wait(60)


def test_gc_leaves_what_a_living_process_took_and_deletes_it_when_that_is_over(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    mine = Store(tmp_path).make("measure", {"n": 4}, build)
    Store(tmp_path).gc(STAGES)
    assert not mine.path.exists()
    held = Store(tmp_path).path("measure", digest(INPUTS))
    assert held.exists()
    Store(tmp_path).drop("measure", digest(INPUTS))
    assert held.exists()
    os.kill(process.pid, signal.SIGKILL)  # a killed process uses nothing any more
    process.join()
    Store(tmp_path).gc(STAGES)
    assert not held.exists()


def test_gc_deletes_what_killed_runs_left_but_not_what_another_process_works_on(tmp_path):
    store = Store(tmp_path)
    kept = store.make("measure", INPUTS, build)
    dead, alive = "d" * 16, "a" * 16
    for key in (dead, alive):
        write_atomic(tmp_path / "measure" / f"{key}.partial" / "x", b"1234")
    write_atomic(tmp_path / "locks" / f"measure-{dead}.lock", b"")
    with hold_lock(tmp_path / "locks" / f"measure-{alive}.lock", "a stage"):
        assert store.gc() == 4
    assert (tmp_path / "measure" / f"{alive}.partial").exists()
    assert not (tmp_path / "measure" / f"{dead}.partial").exists()
    assert not list((tmp_path / "locks").glob("*.lock"))
    assert kept.path.exists()
    store.gc(("measure",))
    assert not kept.path.exists()


def test_listing_while_artifacts_come_and_go_never_fails(tmp_path):
    Store(tmp_path).make("measure", INPUTS, build)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_come_and_go, args=(tmp_path,))
    process.start()
    looks = 0
    while process.is_alive():
        Store(tmp_path).entries()
        Store(tmp_path).gc()
        looks += 1
    process.join()
    assert process.exitcode == 0
    assert looks


def _come_and_go(root):
    store = Store(root)
    for i in range(60):
        key = store.make("measure", {"n": i}, build).key
        store.drop("measure", key)


def test_two_artifacts_under_each_others_keys_are_made_anew(tmp_path):
    store = Store(tmp_path)
    a = store.make("measure", {"n": 1}, lambda f: (f / "x").write_bytes(b"one") and None)
    b = store.make("measure", {"n": 2}, lambda f: (f / "x").write_bytes(b"two") and None)
    a.path.rename(tmp_path / "aside")
    b.path.rename(a.path)
    (tmp_path / "aside").rename(b.path)
    assert not Store(tmp_path).has("measure", a.key)
    again = Store(tmp_path).make(
        "measure", {"n": 1}, lambda f: (f / "x").write_bytes(b"one") and None
    )
    assert (again.cached, (again.path / "x").read_bytes()) == (False, b"one")


def test_keys_that_are_no_texts_and_meta_without_inputs_stay_readable(tmp_path):
    numbered = {"rows": {9: "a", 10: "b"}, "of": (1, 2)}
    key = Store(tmp_path).make("measure", numbered, build).key
    assert Store(tmp_path).has("measure", key)
    meta = tmp_path / "measure" / key / "meta.json"
    older = json.loads(meta.read_text())
    del older["inputs"], older["named_by"]
    meta.write_text(json.dumps(older))
    assert Store(tmp_path).has("measure", key)


def test_a_strangers_file_in_a_partial_changes_no_hash(tmp_path):
    clean = Store(tmp_path / "a").make("measure", INPUTS, build)
    partial = tmp_path / "b" / "measure" / f"{clean.key}.partial"
    write_atomic(partial / "notes.txt", b"unknown")
    write_atomic(partial / "folder" / "numbers.bin", b"unknown")
    write_atomic(partial / PARTS / "old.safetensors", b"unknown")
    made = Store(tmp_path / "b").make("measure", INPUTS, build)
    assert made.content == clean.content
    assert files(made.path) == ["meta.json", "numbers.bin"]


def as_nobody(call):
    """Run `call` in a child without root's rights; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            status = call() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_read_only_store_serves_what_it_has_and_says_what_it_cannot(tmp_path):
    root = tmp_path / "store"
    Store(root).make("measure", INPUTS, build)
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == os.getuid():
            path.chmod(0o755)
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def call():
        assert Store(root).make("measure", INPUTS, build).cached
        with pytest.raises(CellFailed, match=r"No permission to write under .*SA_BENCH_STORE"):
            Store(root).make("measure", {"n": 4}, build)

    try:
        assert as_nobody(call) == 0
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


def test_a_groups_store_is_open_to_the_group_whatever_the_umask(tmp_path):
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2775)
    before = os.umask(0o077)
    try:
        artifact = Store(root).make("measure", INPUTS, build)
    finally:
        os.umask(before)
    for path in (
        root / MARKER,
        root / "measure",
        root / "locks",
        artifact.path,
        *artifact.path.rglob("*"),
    ):
        mode = path.stat().st_mode
        assert mode & 0o060 == 0o060, path
        assert not path.is_dir() or mode & 0o2010 == 0o2010, path


def test_the_newest_artifacts_of_each_stage_tell_what_stages_take(tmp_path):
    store = Store(tmp_path)
    for stage in ("base", "measure"):
        for n in range(4):
            folder = store.make(stage, {"n": n}, build).path
            os.utime(folder, (n, n))
    told = [(stage, meta["inputs"]["n"]) for stage, meta in store.iterate_meta(newest=2)]
    assert sorted(told) == [("base", 2), ("base", 3), ("measure", 2), ("measure", 3)]
    assert len(list(store.iterate_meta())) == 8
