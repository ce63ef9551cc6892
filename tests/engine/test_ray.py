"""A real Ray on this machine: the bits of a run in one process, whatever dies meanwhile."""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from graphs import small_cells

from sa_bench import api
from sa_bench.contracts import ignore_event
from sa_bench.core.errors import MissingExtra, SaBenchError
from sa_bench.core.store import Store
from sa_bench.engine import ray_workers, runner
from sa_bench.engine.ray_workers import Demand, RayWorkers
from sa_bench.engine.workers import Run

pytestmark = pytest.mark.process
METHODS = ["sa", "relabel", "original"]


@pytest.fixture(scope="module")
def cluster(shared_store):
    """Two nodes with a processor each."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        from ray.cluster_utils import Cluster

        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        made.second = made.add_node(num_cpus=1)
        yield made
        made.shutdown()


def results(rows, out):
    """Measurements, artifacts, and the bytes of models and samples."""
    files = {
        f"{p.parent.name.rpartition('-')[2]}/{p.name}": p.read_bytes()
        for p in out.glob("*/*.safetensors")
    }
    return [(r["status"], r["measurements"], r["artifacts"]) for r in rows], files


def run(folder, workers=None, finished=ignore_event):
    cells = small_cells(METHODS)
    rows = runner.run_cells(
        cells, Store(folder / "store"), folder / "run", ignore_event, finished, workers=workers
    )
    return results(rows, folder / "run")


def ray_run(folder, cluster):
    return RayWorkers(
        Run(folder / "store", folder / "run", ""), Demand("cpu", 2, 100), cluster.address
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_store):
    """The run in one process."""
    return run(tmp_path_factory.mktemp("whole"))


def worker_pids():
    """Find the processes of our actors."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Actor" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_two_nodes_and_a_killed_worker_give_the_bits_of_one_process(cluster, whole, tmp_path):
    """A worker is killed with -9 after the first result: its job is repeated, nothing else."""
    killed = []

    def finished(row):
        if not killed and (pids := worker_pids()):
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    workers = ray_run(tmp_path, cluster)
    assert run(tmp_path, workers, finished) == whole
    assert killed
    assert len(workers.places) == 2
    assert not list((tmp_path / "store").glob("*/*.partial"))
    assert not list(tmp_path.rglob(".token-*"))


def test_a_node_that_goes_away_costs_what_it_was_at(cluster, whole, tmp_path):
    """The second node is removed in the middle: the first one does the rest."""
    gone = threading.Event()

    def finished(row):
        if not gone.is_set():
            gone.set()
            cluster.remove_node(cluster.second, allow_graceful=False)

    assert run(tmp_path, ray_run(tmp_path, cluster), finished) == whole
    assert gone.is_set()


def test_an_address_that_nobody_answers_is_told_in_one_line(cli, tmp_path):
    command = [
        "run",
        "--task",
        "mnist_0",
        "--method",
        "original",
        "--engine",
        "ray",
        "--scale",
        "quick",
    ]
    said = cli(*command, "--address", "127.0.0.1:1", "--out", str(tmp_path / "r"), check=2).stderr
    assert "--address 127.0.0.1:1: nobody answers there" in said
    assert "Traceback" not in said
    said = cli(
        *command, "--address", "somewhere:port", "--out", str(tmp_path / "r"), check=2
    ).stderr
    assert "give auto, HOST:PORT or ray://HOST:PORT" in said


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtra, match=r"--engine ray needs ray: pip install 'sa_bench\[ray\]'"
    ):
        api.run_folder(
            small_cells(["original"]), jobs=1, out=tmp_path / "r", overwrite=False, device="cpu", engine="ray"
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "slurm"}, "slurm"),
        ({"address": "auto"}, "--address is for --engine ray"),
        ({"engine": "ray", "device": "cuda:0"}, "with --engine ray give cpu or cuda"),
        ({"jobs": 0}, "--jobs 0: at least 1"),
        ({"jobs": "some"}, "--jobs some: a number, or auto"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(tmp_path, options, said):
    settings = {"jobs": 1, "device": "cpu"} | options
    with pytest.raises(SaBenchError, match=said):
        api.run_folder(small_cells(["original"]), out=tmp_path / "r", overwrite=False, **settings)
    assert not (tmp_path / "r").exists()


def test_a_node_that_differs_is_refused_by_name_with_the_first_difference(tmp_path):
    run = Run(tmp_path / "store", tmp_path / "run", "")
    plug_in = str(tmp_path / "mine.py")
    with ray_workers._tokens(run) as tokens:
        expected = {**ray_workers.describe_code(), plug_in: "a" * 64, **tokens}
        there = ray_workers.examine(tokens, {plug_in: ""}) | {plug_in: "a" * 64}
        ray_workers._require_same("n1", there, expected, tokens, run)
        store_token, out_token = tokens
        for changed, said in (
            ({"torch": "2.7"}, "The node n1 differs: torch is 2.7 there"),
            ({"sa_bench's code": "x"}, "The node n1 differs: sa_bench's code is x there"),
            ({plug_in: "not there"}, f"The node n1 has another {plug_in} \\(not there, here aaaa"),
            ({store_token: "not there"}, "The node n1 does not see the store"),
            ({out_token: "not there"}, "The node n1 does not see the run folder"),
        ):
            with pytest.raises(SaBenchError, match=said):
                ray_workers._require_same("n1", there | changed, expected, tokens, run)
    assert not list(tmp_path.rglob(".token-*"))


def test_more_workers_than_the_cluster_has_room_for_are_refused(tmp_path):
    class Small:
        @staticmethod
        def cluster_resources():
            return {"CPU": 2.0}

    for demand, said in (
        (Demand("cpu", 3, 1), "--jobs 3: the cluster has 2 CPU"),
        (Demand("cuda", 1, 1), "no node of the cluster has a GPU"),
    ):
        workers = RayWorkers(Run(tmp_path, tmp_path, ""), demand)
        workers._ray = Small
        with pytest.raises(SaBenchError, match=said):
            workers._count_workers()


@pytest.mark.parametrize(
    ("gpus", "jobs", "share"), [(8, None, 1.0), (8, 16, 0.5), (2, 3, 0.5), (4, 2, 1.0)]
)
def test_workers_of_small_models_share_gpus(tmp_path, gpus, jobs, share):
    class Large:
        @staticmethod
        def cluster_resources():
            return {"CPU": 64.0, "GPU": float(gpus)}

    workers = RayWorkers(Run(tmp_path, tmp_path, ""), Demand("cuda", jobs, 1))
    workers._ray = Large
    assert workers._count_workers() == (jobs or gpus, share)


def test_the_command_joins_and_leaves(cli, tmp_path, cluster, store_env):
    """Ray's own lines are kept away; the answer is that of a run without it."""
    command = ["run", "--task", "mnist_0", "--method", "original", "--scale", "quick"]
    for setting in ("task.n_forget=10", "task.n_retain=2", "task.metrics=forget_top1"):
        command += ["--set", setting]
    done = cli(
        *command,
        "--engine",
        "ray",
        "--address",
        cluster.address,
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "r"),
        check=0,
    )
    assert "mnist_0 × original" in done.stderr + done.stdout
    assert "raylet" not in done.stderr + done.stdout
    (record,) = json.loads((tmp_path / "r" / "run.json").read_text())["runs"]
    (worker,) = record["workers"]
    assert worker["node"] == socket.gethostname()
    assert 0 < worker["busy_s"] <= record["wall_s"]
