"""Workers on a Ray cluster: one actor each, on whatever nodes have room.

Ray starts and places processes, moves orders and outcomes, and says which of them died. Artifacts do
not pass through it: they lie in the store, a folder that every node sees. The driver gives an
artifact to one worker at a time, so nothing rests on file locks between machines.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from sa_bench.core import registry
from sa_bench.core.counts import describe_count
from sa_bench.core.errors import SaBenchError, first_line, last_line, name_missing_extra
from sa_bench.core.store import Store, digest, file_digest, write_atomic
from sa_bench.core.version import __version__
from sa_bench.engine.worker import Order, Outcome, Worker
from sa_bench.engine.workers import Done, Event, Lost, Place, Progress, Run

ANSWER = 10.0  # seconds within which an address must answer
EXAMINED = 120.0  # seconds within which a node must have started a process and answered
LOOK = 1.0  # seconds between two looks at how far an actor is
PORT = 6379  # of a Ray head whose address names none
STARTS = 4  # tries to start each worker, if none comes up
PREFIXES = ("SA_BENCH_", "OMP_", "HF_")
"""Environment variables of the driver that hold for the workers too."""


class Demand(NamedTuple):
    """What each worker asks of its node."""

    device: str
    """`cpu` or `cuda`."""
    jobs: int | None
    """Number of workers; None takes one for each processor or GPU of the cluster."""
    mib: int
    """Computed memory of a worker's models and training, in MiB."""


class RayWorkers:
    """Workers that are actors on a Ray cluster."""

    loses_alone = False

    def __init__(self, run: Run, demand: Demand, address: str = "", verbose: bool = False) -> None:
        """Prepare the workers.

        Args:
            run: what every worker is started with.
            demand: what each asks of its node.
            address: of the cluster: `auto`, HOST:PORT or ray://HOST:PORT; "" takes RAY_ADDRESS or, without it,
                starts Ray on this machine.
            verbose: whether Ray's own lines are shown.
        """
        self.run, self.demand, self.verbose = run, demand, verbose
        self.address = address or os.environ.get("RAY_ADDRESS", "")
        self.places: list[Place] = []
        self._ray: Any = None
        self._actors: list[Any] = []
        self._starting: dict[Any, int] = {}  # references to actors that are coming up
        self._working: dict[Any, int] = {}  # references to outcomes
        self._looking: dict[Any, int] = {}  # references to progress
        self._looked = 0.0
        self._failed_starts = 0
        """Starts of workers that failed, since one came up."""
        self._is_lost: list[Event] = []

    def start(self) -> None:
        """Join or start the cluster, examine every node, and start the workers.

        Raises:
            MissingExtra: Ray is not installed.
            SaBenchError: nobody answers at the address, a node differs or does not see the store, or
                the workers do not fit.
        """
        with name_missing_extra("--engine ray"):
            self._ray = importlib.import_module("ray")
        self._join()
        _examine_nodes(self._ray, self.run)
        count, share = self._count_workers()
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_concurrency": 2}
        if self.demand.device == "cuda":
            options |= {"num_gpus": share}
        else:
            options |= {"memory": self.demand.mib * 2**20}
        self._make_actor = lambda: (
            self._ray.remote(Actor)
            .options(**options)
            .remote(
                self.run,
                self.demand.device,
                registry.get_plug_ins(),
                _environment(),
                str(Path.cwd()),
            )
        )
        self.places = [Place("?", self.demand.device)] * count
        self._actors = [self._make_actor() for _ in range(count)]
        for worker, actor in enumerate(self._actors):
            self._starting[actor.describe.remote()] = worker
        self._share = share

    def _join(self) -> None:
        """Join the cluster, or start one.

        Raises:
            SaBenchError: nobody answers at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {
            "log_to_driver": self.verbose,
            "logging_level": "info" if self.verbose else "critical",
        }
        if not self.verbose:
            _silence(self._ray)
        if not self.address:
            options |= {"include_dashboard": False}
            if self.demand.device == "cpu":
                options["num_cpus"] = self.demand.jobs or max(1, os.cpu_count() or 1)
        elif self.address != "auto":
            _require_answer(self.address)
        try:
            self._ray.init(self.address or "local", **options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise SaBenchError(
                f"--address {self.address or 'local'}: Ray cannot be joined ({first_line(error)}). Start it with `ray "
                "start --head`, or leave --address out."
            ) from error

    def _count_workers(self) -> tuple[int, float]:
        """Count the workers that fit, and the share of a GPU that each has.

        Raises:
            SaBenchError: the cluster has no room for so many.
        """
        resources: Mapping[str, float] = self._ray.cluster_resources()
        jobs = self.demand.jobs
        if self.demand.device != "cuda":
            cpus = int(resources.get("CPU", 0))
            if cpus < 1 or (jobs or 1) > cpus:
                raise SaBenchError(
                    f"--jobs {jobs or 1}: the cluster has {describe_count(cpus, 'CPU')}, and every worker takes one."
                )
            room = min(cpus, int(resources.get("memory", 0) / 2**20 / max(1, self.demand.mib)))
            if (jobs or 1) > room:
                memory = int(resources.get("memory", 0) / 2**20)
                raise SaBenchError(
                    f"--jobs {jobs or 1}: every worker needs {self.demand.mib:,} MiB by computation, and the cluster has "
                    f"{memory:,} MiB for workers; give fewer, or `ray start --memory` more."
                )
            return jobs or room, 0.0
        gpus = int(resources.get("GPU", 0))
        if not gpus:
            raise SaBenchError("--device cuda: no node of the cluster has a GPU. Use --device cpu.")
        each = -(-(jobs or gpus) // gpus)
        return jobs or gpus, 1 / each

    def is_ready(self, worker: int) -> bool:
        """Tell whether a worker is up."""
        return worker not in self._starting.values()

    def submit(self, worker: int, order: Order) -> None:
        """Send an order to an actor."""
        self._working[self._actors[worker].do.remote(order)] = worker

    def wait(self, seconds: float) -> list[Event]:
        """Wait for outcomes, and look how far the others are."""
        events, self._is_lost = self._is_lost, []
        waiting = [*self._working, *self._starting]
        if waiting:
            ready, _ = self._ray.wait(waiting, timeout=0 if events else seconds, fetch_local=False)
            for reference in ready:
                events += self._take(reference)
        else:
            time.sleep(seconds)
        return events + self._look()

    def _take(self, reference: Any) -> list[Event]:
        """Take what a reference holds: an outcome, or a worker that is up."""
        if reference in self._starting:
            worker = self._starting.pop(reference)
            try:
                node, mib = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._failed_starts += 1
                if self._failed_starts >= STARTS * len(self._actors):
                    raise SaBenchError(
                        f"--engine ray: no worker came up in {self._failed_starts} tries ({last_line(error)}). `ray "
                        "status` and `ray logs` say more."
                    ) from error
                self._replace(worker)
                return []
            self._failed_starts = 0
            self.places[worker] = Place(node, self.demand.device)
            if mib is not None and self._share * mib < self.demand.mib and self._share < 1:
                raise SaBenchError(
                    f"--jobs {len(self.places)}: {round(1 / self._share)} workers on a GPU of {node} need "
                    f"{self.demand.mib:,} MiB each by computation, and it has {mib:,}; give fewer."
                )
            return []
        worker = self._working.pop(reference)
        try:
            return [Done(worker, self._ray.get(reference))]
        except self._ray.exceptions.RayError as error:
            node = self.places[worker].node
            self._replace(worker)
            return [Lost(worker, f"its worker on {node} was killed ({type(error).__name__})")]

    def _replace(self, worker: int) -> None:
        """Start a new actor in the place of a dead one; Ray finds it a node that has room."""
        self._actors[worker] = self._make_actor()
        self._starting[self._actors[worker].describe.remote()] = worker
        self._looking = {ref: one for ref, one in self._looking.items() if one != worker}

    def _look(self) -> list[Event]:
        """Ask busy actors how far they are, once a second, and give what they answered."""
        events: list[Event] = []
        if self._looking:
            ready, _ = self._ray.wait(
                list(self._looking), num_returns=len(self._looking), timeout=0
            )
            for reference in ready:
                worker = self._looking.pop(reference)
                with contextlib.suppress(self._ray.exceptions.RayError):
                    events += [Progress(worker, *event) for event in self._ray.get(reference)]
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            for worker in set(self._working.values()) - set(self._looking.values()):
                self._looking[self._actors[worker].progress.remote()] = worker
        return events

    def stop(self) -> None:
        """Kill the actors and leave the cluster; a Ray that was started here ends."""
        if self._ray is None:
            return
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._actors, self._working, self._starting, self._looking = [], {}, {}, {}
        self._ray.shutdown()


class Actor:
    """A worker on some node of the cluster."""

    def __init__(
        self,
        run: Run,
        device: str,
        plug_ins: registry.PlugIns,
        environment: Mapping[str, str],
        folder: str,
    ) -> None:
        """Set the process up; `folder` is the driver's, for paths that are relative to it."""
        os.environ.update(environment)
        with contextlib.suppress(OSError):
            os.chdir(folder)
        import torch

        torch.set_num_threads(1)
        registry.adopt(plug_ins)
        self.device = device
        self._worker = Worker(Store(run.store), run.out, run.command, device)
        self._events: dict[tuple[str, str], tuple[str, str, int, int]] = {}
        self._lock = threading.Lock()

    def describe(self) -> tuple[str, int | None]:
        """Name the node, and the memory of its GPU in MiB, if it works on one."""
        if self.device != "cuda":
            return socket.gethostname(), None
        import torch

        return socket.gethostname(), torch.cuda.get_device_properties(0).total_memory // 2**20

    def do(self, order: Order) -> Outcome:
        """Do an order."""
        return self._worker.do(order, self._note)

    def _note(self, cell: str, stage: str, done: int, total: int) -> None:
        """Note how far a stage is; only the last report of each is kept."""
        with self._lock:
            self._events[cell, stage] = (cell, stage, done, total)

    def progress(self) -> list[tuple[str, str, int, int]]:
        """Give what was noted since the last call."""
        with self._lock:
            events, self._events = list(self._events.values()), {}
        return events


def _environment() -> dict[str, str]:
    """Collect the driver's settings."""
    return {k: v for k, v in os.environ.items() if k.startswith(PREFIXES)}


def _silence(ray: Any) -> None:
    """Keep Ray's notices of dead processes from stdout: it prints them whatever the log level is."""
    module: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = lambda *arguments, **options: None


def _require_answer(address: str) -> None:
    """Require that somebody answers at HOST:PORT.

    Raises:
        SaBenchError: nobody does within `ANSWER` seconds, or it is no address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    host, port = (host, port) if host else (port, str(PORT))
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SaBenchError(f"--address {address}: give auto, HOST:PORT or ray://HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise SaBenchError(
            f"--address {address}: nobody answers there ({first_line(error)}). Start Ray there with `ray start --head`, "
            "or leave --address out."
        ) from error


@contextlib.contextmanager
def _tokens(run: Run) -> Iterator[dict[str, str]]:
    """Write a token into the store and into the run folder: {file: content}."""
    content = uuid.uuid4().hex
    files = {
        str(folder.absolute() / f".token-{content}"): content for folder in (run.store, run.out)
    }
    for file in files:
        write_atomic(Path(file), content.encode())
    try:
        yield files
    finally:
        for file in files:
            Path(file).unlink(missing_ok=True)


def describe_code() -> dict[str, str]:
    """Describe the code of this machine: versions, and hashes of sa_bench's and the user's files."""
    root = Path(__file__).parents[2]
    sources = [
        p
        for room in ("sa_bench", "methods", "metrics", "tasks")
        for p in (root / room).rglob("*.py")
    ]
    hashes = [(path.relative_to(root).as_posix(), file_digest(path)) for path in sorted(sources)]
    return {
        "Python": ".".join(map(str, sys.version_info[:2])),
        "sa_bench": __version__,
        "torch": metadata.version("torch"),  # not imported: that takes seconds on every node
        "sa_bench's code": digest(hashes),
    }


def examine(tokens: Mapping[str, str], plug_ins: Mapping[str, str]) -> dict[str, str]:
    """Describe the code of a node, the plug-in files on it, and the tokens that it sees."""
    found = describe_code()
    for path in plug_ins:
        found[path] = file_digest(Path(path)) if Path(path).is_file() else "not there"
    for path in tokens:
        file = Path(path)
        found[path] = file.read_text() if file.is_file() else "not there"
    return found


def _examine_nodes(ray: Any, run: Run) -> None:
    """Require that every node has our code and sees the store and the run folder.

    Raises:
        SaBenchError: one does not; it is named, with the first difference.
    """
    plug_ins = registry.hash_plug_in_files()
    with _tokens(run) as tokens:
        expected = {**describe_code(), **plug_ins, **tokens}
        ask = ray.remote(num_cpus=0)(examine)
        at = importlib.import_module(
            "ray.util.scheduling_strategies"
        ).NodeAffinitySchedulingStrategy
        answers = {
            node["NodeManagerHostname"] + " (" + node["NodeManagerAddress"] + ")": ask.options(
                scheduling_strategy=at(node["NodeID"], soft=False)
            ).remote(tokens, plug_ins)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        for node, answer in answers.items():
            try:
                found = ray.get(answer, timeout=EXAMINED)
            except ray.exceptions.TaskUnschedulableError:  # it has just left the cluster
                continue
            except Exception as error:
                raise SaBenchError(
                    f"The node {node} cannot work here: {last_line(error)}. Install the same sa_bench there."
                ) from error
            _require_same(node, found, expected, tokens, run)


def _require_same(
    node: str,
    found: Mapping[str, str],
    expected: Mapping[str, str],
    tokens: Mapping[str, str],
    run: Run,
) -> None:
    """Require that a node's description is the driver's.

    Raises:
        SaBenchError: it differs.
    """
    for name, value in expected.items():
        if found.get(name) == value:
            continue
        if name in tokens:
            folder = Path(name).parent
            what = "store" if folder == run.store.absolute() else "run folder"
            raise SaBenchError(
                f"The node {node} does not see the {what} {folder}: all nodes need one folder for it. Set SA_BENCH_STORE "
                "and --out to folders on a file system that all of them share."
            )
        if name.startswith("/"):
            raise SaBenchError(
                f"The node {node} has another {name} ({found.get(name, 'not there')[:12]}, here {value[:12]}): put the "
                "plug-in on a file system that all nodes share."
            )
        raise SaBenchError(
            f"The node {node} differs: {name} is {found.get(name)} there and {value} here. Install the same there."
        )
