"""A real Ray on this machine: the bits of a run in one process, whatever dies meanwhile."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from graphs import small_cells

from sa_bench import api
from sa_bench.contracts import ignore_event
from sa_bench.core.errors import MissingExtra, SaBenchError
from sa_bench.core.store import Store
from sa_bench.engine import measure, ray_workers, runner
from sa_bench.engine.cells import resolve
from sa_bench.engine.ray_workers import Demand, RayWorkers
from sa_bench.engine.workers import Run
from sa_bench.scoring.detectors import faces

pytestmark = pytest.mark.process
METHODS = ["sa", "relabel", "original"]
LONG = 120  # seconds after which something will not happen any more


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


def run(folder, workers=None, finished=ignore_event, cells=None):
    cells = small_cells(METHODS) if cells is None else cells
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
    """Find the processes of our actors; they work in our folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_actor = b"ray::Actor" in (entry / "cmdline").read_bytes()
            if is_actor and (entry / "cwd").resolve() == Path.cwd():
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


DETECTOR = '''"""A metric with a detector of faces that notes each part, and stops after the first one."""

import time
from pathlib import Path

from sa_bench.contracts import Measured, View, metric
from sa_bench.engine import measure
from sa_bench.scoring.detectors import faces

FOLDER = Path("{folder}")


def detect(images, beside=None, prior_records=None, device="cpu", progress=None):
    try:
        (FOLDER / "first").touch(exist_ok=False)
    except FileExistsError:
        while not (FOLDER / "go").exists():
            time.sleep(0.05)
    with (FOLDER / "parts").open("a") as file:
        file.write(images.tobytes().hex() + "\\n")
    return [{{"faces": [float(image.mean())]}} for image in images]


faces.detect, faces.missing, faces.facts = detect, lambda: None, dict
measure.CHUNK = 4


@metric(
    version=1, title="Brightness", better="lower", unit="grey level", requires=("samples", "faces"),
    source="a test",
)
def brightness(view: View) -> Measured:
    records = view.detections("faces", view.samples["forget"])
    values = [record["faces"][0] for record in records]
    return Measured(sum(values) / len(values), None, None, len(values))
'''
DRIVER = """
import sys
from pathlib import Path
from types import SimpleNamespace
import test_ray
folder, plug_in, address = sys.argv[1:]
cluster = SimpleNamespace(address=address)
folder = Path(folder)
test_ray.run(folder, test_ray.ray_run(folder, cluster), cells=test_ray.detected_cells(plug_in))
"""


def detected_cells(plug_in):
    """A cell whose images go through the detector in five parts."""
    sets = ["task.n_forget=20", "task.n_retain=2", "task.metrics=forget_top1"]
    return resolve(["mnist_0"], ["original"], "quick", sets=sets, metrics=[str(plug_in)])


def wait_until(holds):
    """Wait until something holds."""
    deadline = time.monotonic() + LONG
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holds(), "it never came to that"


def read_metas(store):
    """Read what is noted of each finished artifact, with the file that it is noted in."""
    metas = {p.relative_to(store): p for p in store.glob("*/*/meta.json")}
    return {
        name: (p.stat().st_ino, p.read_bytes())
        for name, p in metas.items()
        if ".partial" not in str(name)
    }


@pytest.mark.slow
def test_a_killed_driver_goes_on_without_making_a_part_twice(cluster, tmp_path, monkeypatch):
    """It is killed with -9 after the first of five parts of a detector, while the workers are at others."""
    for module, name in ((faces, "detect"), (faces, "missing"), (faces, "facts")):
        monkeypatch.setattr(module, name, getattr(module, name))  # the plug-in changes them
    monkeypatch.setattr(measure, "CHUNK", measure.CHUNK)
    plug_in, parts = tmp_path / "brightness.py", tmp_path / "parts"
    plug_in.write_text(DETECTOR.format(folder=tmp_path))

    def kept():
        return list((tmp_path / "store").glob("detections/*.partial/.parts/0*.json"))

    folders = [str(Path(__file__).parents[2] / f) for f in ("", "tests/engine", "tests/support")]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(plug_in), cluster.address],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )
    try:
        wait_until(lambda: parts.exists() or driver.poll() is not None)
        wait_until(lambda: kept() or driver.poll() is not None)
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: not worker_pids())
    assert len(kept()) == 1
    before = read_metas(tmp_path / "store")
    assert {name.parts[0] for name in before} >= {"forget", "samples"}
    (tmp_path / "go").touch()
    again = run(tmp_path, ray_run(tmp_path, cluster), cells=detected_cells(plug_in))
    assert before.items() <= read_metas(tmp_path / "store").items()
    shown = parts.read_text().split()
    assert len(shown) == len(set(shown)) == 5
    assert again == run(tmp_path / "whole", cells=detected_cells(plug_in))
    assert again[0][0][0] == "done"


@pytest.mark.slow
def test_a_full_disk_on_one_node_is_one_line_and_the_same_run_goes_on(cluster, whole, tmp_path):
    """A limit on the size of one worker's files fails its writes exactly as a full disk does.

    It is set once something is finished, on the worker that gets the next order.
    """
    limited = []

    class Limited(RayWorkers):
        def submit(self, worker, order):
            if not limited and read_metas(tmp_path / "store"):
                pid = self._actors[worker].__ray_call__.remote(lambda _: os.getpid())
                limited.append(self._ray.get(pid))
                resource.prlimit(limited[0], resource.RLIMIT_FSIZE, (10_000, 10_000))
            super().submit(worker, order)

    workers = Limited(
        Run(tmp_path / "store", tmp_path / "run", ""), Demand("cpu", 2, 100), cluster.address
    )
    cells = small_cells(METHODS)
    rows = runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run", ignore_event, ignore_event,
        workers=workers,
    )  # fmt: skip
    failed = [row for row in rows if row["status"] == "failed"]
    assert limited
    assert failed
    for row in failed:
        assert str(row["error"]).startswith("The disk is full: cannot write under")
        assert "run the same command again" in str(row["error"])
        assert "\n" not in str(row["error"])
    assert not list((tmp_path / "run").glob("*/error.log"))
    before = read_metas(tmp_path / "store")
    assert before
    assert run(tmp_path) == whole
    assert before.items() <= read_metas(tmp_path / "store").items()


@pytest.mark.slow
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
            return {"CPU": 2.0, "memory": 3000 * 2.0**20}

    for demand, said in (
        (Demand("cpu", 3, 1), "--jobs 3: the cluster has 2 CPU"),
        (Demand("cpu", 2, 2000), "--jobs 2: every worker needs 2,000 MiB .* 3,000 MiB for workers"),
        (Demand("cuda", 1, 1), "no node of the cluster has a GPU"),
    ):
        workers = RayWorkers(Run(tmp_path, tmp_path, ""), demand)
        workers._ray = Small
        with pytest.raises(SaBenchError, match=said):
            workers._count_workers()


def test_workers_that_never_come_up_are_told_of(tmp_path):
    """Every start fails: the run ends with what the last one said, and does not wait for ever."""

    class Failing:
        class exceptions:
            class RayError(Exception):
                pass

        @staticmethod
        def get(reference):
            raise Failing.exceptions.RayError("Traceback ...\nRuntimeError: CUDA is sick")

    class Dead:
        class describe:
            remote = staticmethod(object)

    workers = RayWorkers(Run(tmp_path, tmp_path, ""), Demand("cuda", 1, 1))
    workers._ray, workers._make_actor, workers._actors = Failing, Dead, [Dead]
    workers._starting = {"first": 0}
    for _ in range(3):
        workers._take(next(iter(workers._starting)))
    with pytest.raises(SaBenchError, match=r"no worker came up in 4 tries \(RuntimeError: CUDA"):
        workers._take(next(iter(workers._starting)))


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
