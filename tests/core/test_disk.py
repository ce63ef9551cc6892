"""Files written whole by any number of writers, and locks that tell who holds them."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from sa_bench.core import disk, locks
from sa_bench.core.disk import copy_atomic, replace_when_written, write_atomic
from sa_bench.core.errors import CellFailed, is_out_of_memory
from sa_bench.core.locks import Busy, SoftLock, hold_lock

FORK = multiprocessing.get_context("fork")
BIG = 300_000


def _writes(path, letter):
    real, os.getpid = os.getpid, lambda: 7  # as in every container
    try:
        for _ in range(60):
            write_atomic(path, letter * BIG)
            assert path.read_bytes() in (b"a" * BIG, b"b" * BIG, b"c" * BIG)
    finally:
        os.getpid = real


def test_writers_of_one_process_number_never_harm_each_other(tmp_path):
    path = tmp_path / "run.json"
    writers = [FORK.Process(target=_writes, args=(path, letter)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def _dies_writing(path, begun):
    with replace_when_written(path) as temporary:
        temporary.write_bytes(b"half")
        begun.set()
        time.sleep(600)


def test_what_a_dead_writer_left_is_swept_and_a_living_ones_file_stays(tmp_path):
    path, begun = tmp_path / "result.json", FORK.Event()
    writer = FORK.Process(target=_dies_writing, args=(path, begun))
    writer.start()
    assert begun.wait(60)
    write_atomic(path, b"one")
    (living,) = tmp_path.glob(".result.json.*.tmp")
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    write_atomic(tmp_path / "other.json", b"x")
    assert living.exists(), "another file's writer has no business with it"
    write_atomic(path, b"two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.json", "result.json"]


def test_a_strangers_file_that_looks_a_little_like_a_left_over_stays(tmp_path):
    for name in (".result.json.tmp", ".result.json.backup.tmp", "result.json.tmp"):
        (tmp_path / name).write_text("theirs")
    write_atomic(tmp_path / "result.json", b"ours")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_copy_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")

    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.shutil, "copyfile", full)
    with pytest.raises(CellFailed, match="disk is full"):
        copy_atomic(source, target)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("number", "says"), [
    (errno.ENOLCK, "The disk fails at .*no locks available"), (errno.EIO, "The disk fails at .*input/output error"),
    (errno.EACCES, "No permission to write"), (errno.ENOSPC, "disk is full"),
])  # fmt: skip
def test_a_lock_that_cannot_be_had_is_one_line_that_names_it(tmp_path, monkeypatch, number, says):
    def fails(descriptor, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(CellFailed, match=says) as found, hold_lock(tmp_path / "x.lock", "x"):
        pass
    assert str(tmp_path) in str(found.value)
    assert "\n" not in str(found.value)


def _holds(path, begun, done):
    with hold_lock(path, "the base model"):
        begun.set()
        done.wait(60)


@pytest.fixture
def held(tmp_path):
    path, begun, done = tmp_path / "x.lock", FORK.Event(), FORK.Event()
    process = FORK.Process(target=_holds, args=(path, begun, done))
    process.start()
    assert begun.wait(60)
    yield path, process, done
    process.kill()
    process.join()


def test_who_waits_is_told_for_whom(held, monkeypatch, capsys):
    path, process, done = held
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: done.set())
    with hold_lock(path, "the base model"):
        pass
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert (
        f"waiting for the base model: process {process.pid} on {socket.gethostname()}, since 20"
        in said
    )
    assert str(path) in said


def test_a_lock_that_is_held_is_busy_and_one_of_a_killed_process_is_free(held):
    path, process, _ = held
    with pytest.raises(Busy), hold_lock(path, "x", wait=False):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with hold_lock(path, "x", wait=False):
        pass
    assert not path.exists()


def _counts(path, number):
    for _ in range(100):
        with hold_lock(path, "a count"):
            number.write_text(str(int(number.read_text()) + 1))


def test_a_lock_that_is_removed_after_every_use_still_lets_one_in_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PAUSE", 0.001)
    number = tmp_path / "number"
    number.write_text("0")
    others = [FORK.Process(target=_counts, args=(tmp_path / "x.lock", number)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert number.read_text() == "300"
    assert [p.name for p in tmp_path.iterdir()] == ["number"]


@pytest.fixture
def no_flock(monkeypatch):
    def missing(descriptor, kind):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)


def test_without_locks_of_the_file_system_one_process_alone_gets_in(tmp_path, no_flock):
    path = tmp_path / "x.lock"
    with hold_lock(path, "x"):
        assert [p.name for p in tmp_path.iterdir()] == ["x.lock.held"]
        with pytest.raises(Busy), hold_lock(path, "x", wait=False):
            pass
    assert not list(tmp_path.iterdir())


def test_a_dead_holder_on_another_machine_is_named_and_then_not_waited_for(
    tmp_path, no_flock, monkeypatch, capsys
):
    path = tmp_path / "x.lock"
    card = {"host": "node17", "pid": 7, "what": "x", "since": "2026-01-01T00:00:00+00:00"}
    SoftLock(path).path.write_text(json.dumps(card))
    clock = [0.0]
    monkeypatch.setattr(locks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: clock.append(clock.pop() + 2.0))
    with hold_lock(path, "x"):
        assert clock[0] >= locks.DEAD
    assert "process 7 on node17, since 2026-01-01" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_holder_that_still_touches_its_lock_is_waited_for(tmp_path, no_flock, monkeypatch):
    path = tmp_path / "x.lock"
    SoftLock(path).path.write_text("{}")
    clock = [0.0]

    def sleep(seconds):
        clock[0] += 2.0
        if SoftLock(path).path.exists():
            os.utime(SoftLock(path).path, (clock[0], clock[0]))
        if clock[0] > 3 * locks.DEAD:
            SoftLock(path).path.unlink(missing_ok=True)

    monkeypatch.setattr(locks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(locks.time, "sleep", sleep)
    with hold_lock(path, "x"):
        assert clock[0] > 3 * locks.DEAD


@pytest.mark.parametrize(("error", "is_memory"), [
    (MemoryError(), True), (RuntimeError("std::bad_alloc"), True), (OSError(errno.ENOMEM, "x"), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True), (RuntimeError("shapes differ"), False),
    (ValueError("out of memory"), False),
])  # fmt: skip
def test_what_counts_as_out_of_memory(error, is_memory):
    assert is_out_of_memory(error) == is_memory
