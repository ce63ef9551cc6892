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
from command_line import TINY, call_main

from sa_bench.data import datasets

ROOT = Path(__file__).parents[2]
SMALL = [
    *TINY, "--set", "sa.steps=30", "--set", "sa.fisher.n=2000",
    "--set", "task.metrics=forget_top1,recovery,retain_log_likelihood",
]  # fmt: skip
LONG = 600  # s that a test waits for an event before it gives up
pytestmark = pytest.mark.process


def arguments(out, *more, method="sa", settings=SMALL):
    return ["run", "--task", "mnist_0", "--method", method, *settings, "--out", str(out), *more]


def prepare(store, shared_store):
    """Make a store that has MNIST but nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_BENCH_STORE", str(shared_store))
        datasets.load("mnist")
    (store / "data").mkdir(parents=True, exist_ok=True)
    data = store / "data" / "mnist.safetensors"
    if not data.exists():
        data.symlink_to(shared_store / "data" / "mnist.safetensors")


@pytest.fixture
def start(shared_store, tmp_path):
    """Start `run` as a process, on a store of its own."""

    def call(store, out, *more, **options):
        prepare(tmp_path / store, shared_store)
        env = {
            **os.environ,
            "SA_BENCH_STORE": str(tmp_path / store),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

        def before() -> None:
            # a test run in the background has it ignored
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return subprocess.Popen(
            [sys.executable, "-m", "sa_bench", *arguments(tmp_path / out, *more, **options)], cwd=tmp_path, env=env,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before, start_new_session=True,
        )  # fmt: skip

    return call


@pytest.fixture
def go_on(shared_store, tmp_path):
    """Give the same command in this process, to its end."""

    def call(store, out, *more, **options):
        prepare(tmp_path / store, shared_store)
        done = call_main(
            *arguments(tmp_path / out, *more, **options), store=tmp_path / store, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def whole(shared_store, tmp_path_factory):
    """What the command gives that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder / "store", shared_store)
    done = call_main(*arguments(folder / "out"), store=folder / "store", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(folder / "out")


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
        p.parent: p.stat().st_mtime_ns
        for p in store.glob("*/*/meta.json")
        if p.parent.suffix != ".partial"
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


def wait_for(event, process):
    """Wait until `event()` is true while the process runs."""
    deadline = time.monotonic() + LONG
    while not event() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    assert event(), "it never came to that"


def kill(process, store):
    """SIGKILL the run; its workers follow it."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + LONG
    while alive(store) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(store), "a worker outlived the run"


def nothing_was_done_twice(store, kept):
    after = finished_stages(store)
    assert {path: after[path] for path in kept} == kept, "a finished stage was done twice"
    assert not list(store.glob("*/*.partial"))


def test_sigkill_in_each_stage_changes_no_bit_and_repeats_no_stage(start, go_on, whole, tmp_path):
    store, kept = tmp_path / "killed", {}
    for stage in ("fisher", "forget", "measure"):
        process = start("killed", "out-killed")
        wait_for(lambda stage=stage: list((store / stage).glob("*")), process)
        kill(process, store)
        assert not list((tmp_path / "out-killed").glob("*/result.json")), (
            f"done before {stage} was seen"
        )
        kept = finished_stages(store) | kept
    assert {"fisher", "forget"} <= {path.parent.name for path in kept}
    go_on("killed", "out-killed")
    nothing_was_done_twice(store, kept)
    assert results(tmp_path / "out-killed") == whole


def workers(store):
    """Processes that were forked from the one that imports for all."""
    return [
        pid
        for pid in alive(store)
        if b"forkserver" in cmdline(pid) and b"forkserver" in cmdline(parent_of(pid))
    ]


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize(
    "moment", [pytest.param("workers begin", marks=pytest.mark.slow), "a cell is forgetting"]
)
def test_ctrl_c_stops_at_once_and_says_that_it_resumes(start, tmp_path, moment):
    """A terminal sends Ctrl-C to every process of the run, also to workers that are still importing."""
    store = tmp_path / "stopped"
    process = start("stopped", "out", "--jobs", "2", "--set", "sa.steps=1000000", method="sa,no_gr")
    events = {
        "workers begin": lambda: len(workers(store)) == 2,
        "a cell is forgetting": lambda: list((store / "forget").glob("*.partial")),
    }
    wait_for(events[moment], process)
    os.killpg(
        process.pid, signal.SIGINT
    )  # a million steps take many hours: that it ends is the test
    _, err = finish(process, 130)
    assert "continues where this one stopped" in err
    assert not alive(store)


def test_two_processes_on_one_cold_store_agree_and_share_the_work(start, whole, tmp_path):
    first, second = start("shared", "out-1"), start("shared", "out-2")
    finish(first)
    finish(second)
    assert results(tmp_path / "out-1") == results(tmp_path / "out-2") == whole
    costs = [
        json.loads(next((tmp_path / out).glob("*/result.json")).read_text())["cost"]
        for out in ("out-1", "out-2")
    ]
    for stage in costs[0].keys() & costs[1].keys():
        assert costs[0][stage]["cached"] or costs[1][stage]["cached"], f"{stage} was done twice"


@pytest.mark.parametrize(
    "limit", [5_000, 300_000], ids=["measurements do not fit", "the model does not fit"]
)
def test_a_full_disk_is_one_clear_line_and_the_same_command_goes_on(
    shared_store, go_on, whole, tmp_path, limit
):
    """A limit on file size fails a write exactly as a full disk does."""
    store, words = tmp_path / "full", arguments(tmp_path / "out-full")
    prepare(store, shared_store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = call_main(*words, store=store, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 1
    assert "The disk is full" in done.stdout + done.stderr
    assert "run the same command again" in " ".join((done.stdout + done.stderr).split())
    go_on("full", "out-full")
    assert results(tmp_path / "out-full") == whole


def test_a_worker_killed_by_the_system_is_started_again(start, tmp_path):
    """The worker is killed while its cell forgets; how long that takes is not what ends it."""
    store = tmp_path / "oom"
    few = ("--set", "task.metrics=forget_top1")
    process = start("oom", "out-oom", "--jobs", "2", *few, method="sa,relabel")
    wait_for(lambda: list((store / "forget").glob("*")) and workers(store), process)
    os.kill(workers(store)[-1], signal.SIGKILL)
    finish(process)
    assert {
        json.loads(p.read_text())["status"] for p in (tmp_path / "out-oom").glob("*/result.json")
    } == {"done"}


@pytest.mark.slow
def test_sigkill_of_many_cells_side_by_side(start, tmp_path):
    """Killed eight times, each after a few more finished stages, how many the dice say."""
    options = {"method": "original,relabel,sa,retrain", "settings": TINY}
    finish(start("whole", "out-whole", "--jobs", "2", **options))
    stages, dice, kept = len(finished_stages(tmp_path / "whole")), random.Random(20231), {}
    for target in sorted(dice.sample(range(stages), 8)):
        process = start("killed", "out-killed", "--jobs", "2", **options)
        wait_for(lambda n=target: len(finished_stages(tmp_path / "killed")) >= n, process)
        kill(process, tmp_path / "killed")
        kept = finished_stages(tmp_path / "killed") | kept
    finish(start("killed", "out-killed", "--jobs", "2", **options))
    nothing_was_done_twice(tmp_path / "killed", kept)
    assert results(tmp_path / "out-killed") == results(tmp_path / "out-whole")
