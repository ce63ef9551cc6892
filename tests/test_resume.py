"""Nothing is lost: SIGKILL, two processes, a full disk. Real commands on real MNIST, seconds long."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = ["--set", "sa.steps=120", "--set", "sa.fisher.n=2000"]


@pytest.fixture
def start(store_env, tmp_path, tiny):
    """Start `run` on a store of its own that has MNIST but nothing else."""
    from sa_bench.data import datasets

    datasets.load("mnist")

    def call(store, out, *more, method="sa", settings=(*tiny, *SMALL), preexec=None):
        (tmp_path / store / "data").mkdir(parents=True, exist_ok=True)
        data = tmp_path / store / "data" / "mnist.safetensors"
        if not data.exists():
            data.symlink_to(store_env / "data" / "mnist.safetensors")
        env = {
            **os.environ,
            "SA_BENCH_STORE": str(tmp_path / store),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

        def before() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background has it ignored
            if preexec is not None:
                preexec()

        command = [sys.executable, "-m", "sa_bench", "run", "--task", "mnist_0", "--method", method]
        return subprocess.Popen(
            [*command, *settings, "--out", str(tmp_path / out), *more], cwd=tmp_path, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before, start_new_session=True,
        )  # fmt: skip

    return call


def finish(process, code=0):
    out, err = process.communicate(timeout=1200)
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out, err


def results(folder):
    """Measurements and the bytes of models, samples and scores, by cell."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        row = json.loads(path.read_text())
        files = {
            str(p.relative_to(path.parent)): p.read_bytes()
            for p in path.parent.rglob("*")
            if p.suffix in (".safetensors", ".parquet")
        }
        found[path.parent.name] = (row["measurements"], row["artifacts"], files)
    return found


def finished_stages(store):
    return {
        p.parent: p.stat().st_mtime_ns for p in store.glob("*/*/meta.json") if p.parent.suffix != ".partial"
    }


def alive(store):
    """Processes that were started for `store`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if str(store).encode() in (entry / "environ").read_bytes() and state != "Z":
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_until_done(start, tmp_path, kills, seconds, *more, **options):
    """Kill at random moments, checking that what was finished stays; then let it end."""
    dice, kept = random.Random(20231), {}
    for _ in range(kills):
        process = start("killed", "out-killed", *more, **options)
        time.sleep(dice.uniform(*seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 30
        while alive(tmp_path / "killed") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive(tmp_path / "killed"), "a worker outlived the run"
        kept = finished_stages(tmp_path / "killed") | kept
    finish(start("killed", "out-killed", *more, **options))
    after = finished_stages(tmp_path / "killed")
    assert {path: after[path] for path in kept} == kept, "a finished stage was done twice"
    assert kept, "no kill came late enough to test anything"
    assert not list((tmp_path / "killed").glob("*/*.partial"))


def test_sigkill_at_random_moments_changes_no_bit_and_repeats_no_stage(start, tmp_path):
    finish(start("whole", "out-whole"))
    kill_until_done(start, tmp_path, kills=3, seconds=(3.0, 9.0))
    assert results(tmp_path / "out-killed") == results(tmp_path / "out-whole")


def workers(store):
    return [pid for pid in alive(store) if b"spawn_main" in cmdline(pid)]


@pytest.mark.parametrize("moment", ["workers begin", "a cell is forgetting"])
def test_ctrl_c_stops_at_once_and_says_that_it_resumes(start, tmp_path, moment):
    """A terminal sends Ctrl-C to every process of the run, also to workers that are still importing."""
    store = tmp_path / "whole"
    process = start("whole", "out", "--jobs", "2", "--set", "sa.steps=1000000", method="sa,no_gr")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if moment == "workers begin" and len(workers(store)) == 2:
            break
        if moment == "a cell is forgetting" and list((store / "forget").glob("*.partial")):
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # a million steps take many hours: that it ends is the test
    _, err = finish(process, 130)
    assert "continues where this one stopped" in err
    assert not alive(store)


def test_two_processes_on_one_cold_store_agree_and_share_the_work(start, tmp_path):
    first, second = start("shared", "out-1"), start("shared", "out-2")
    finish(first)
    finish(second)
    assert results(tmp_path / "out-1") == results(tmp_path / "out-2")
    costs = [
        json.loads(next((tmp_path / out).glob("*/result.json")).read_text())["cost"]
        for out in ("out-1", "out-2")
    ]
    for stage in costs[0].keys() & costs[1].keys():
        assert costs[0][stage]["cached"] or costs[1][stage]["cached"], f"{stage} was done twice"


@pytest.mark.parametrize("limit", [5_000, 300_000], ids=["measurements do not fit", "the model does not fit"])
def test_a_full_disk_is_one_clear_line_and_the_same_command_goes_on(start, tmp_path, limit):
    """A limit on file size fails a write exactly as a full disk does."""
    process = start(
        "full", "out-full", preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    out, err = finish(process, 1)
    assert "The disk is full" in out + err
    assert "run the same command again" in " ".join((out + err).split())
    finish(start("full", "out-full"))
    finish(start("whole", "out-whole"))
    assert results(tmp_path / "out-full") == results(tmp_path / "out-whole")


def test_a_worker_killed_by_the_system_is_started_again(start, tmp_path):
    process = start("oom", "out-oom", "--jobs", "2", "--set", "sa.steps=400", method="sa,relabel")
    victim, deadline = None, time.monotonic() + 60
    while victim is None and time.monotonic() < deadline:
        time.sleep(0.2)
        forgetting = list((tmp_path / "oom" / "forget").glob("*.partial"))
        started = workers(tmp_path / "oom")
        victim = started[-1] if forgetting and started else None
    os.kill(victim, signal.SIGKILL)
    finish(process)
    assert {json.loads(p.read_text())["status"] for p in (tmp_path / "out-oom").glob("*/result.json")} == {
        "done"
    }


@pytest.mark.slow
def test_sigkill_of_many_cells_side_by_side(start, tmp_path, tiny):
    options = {"method": "original,relabel,sa,retrain", "settings": (*tiny,)}
    finish(start("whole", "out-whole", "--jobs", "2", **options))
    kill_until_done(start, tmp_path, 8, (4.0, 25.0), "--jobs", "2", **options)
    assert results(tmp_path / "out-killed") == results(tmp_path / "out-whole")
