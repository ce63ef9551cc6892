"""Where a run's jobs are done: in this process, or in several of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any, Protocol

from sa_bench.core import registry
from sa_bench.core.errors import first_line
from sa_bench.core.store import Store
from sa_bench.engine.worker import Order, Outcome, Worker


@dataclass(frozen=True)
class Place:
    """Where a worker works."""

    node: str
    """Name of the machine."""
    device: str


@dataclass(frozen=True)
class Progress:
    """How far a worker's stage is."""

    worker: int
    cell: str
    """The cell's name."""
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Done:
    """An order that a worker has dealt with."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Lost:
    """A worker that was killed with its order; it is started again."""

    worker: int
    reason: str


Event = Progress | Done | Lost


class NoProcesses(Exception):
    """The system cannot start a further process."""


@dataclass(frozen=True)
class Run:
    """What every worker of a run is started with."""

    store: Path
    """Folder of the store."""
    out: Path
    """The run folder."""
    command: str
    """The command as provenance quotes it."""


class Workers(Protocol):
    """Workers that do orders; each has at most one."""

    places: list[Place]
    """Where each worker works."""
    loses_alone: bool
    """Whether a job that was lost is tried again with nothing beside it: on one machine the memory
    may have been too small for all."""

    def start(self) -> None:
        """Start all workers.

        Raises:
            NoProcesses: the system cannot start a process.
        """
        ...

    def is_ready(self, worker: int) -> bool:
        """Tell whether a worker is up."""
        ...

    def submit(self, worker: int, order: Order) -> None:
        """Give an order to an idle worker."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """Wait until something happens, at most so many seconds."""
        ...

    def stop(self) -> None:
        """Stop all workers at once, whatever they do: the store resumes it."""
        ...


class OneProcess:
    """A single worker in this process."""

    loses_alone = True

    def __init__(self, run: Run, device: str) -> None:
        """Prepare the worker."""
        self.places = [Place(socket.gethostname(), device)]
        self._worker = Worker(Store(run.store), run.out, run.command, device)
        self._report: Any = None
        self._done: list[Event] = []

    def start(self) -> None:
        """Do nothing: it is there."""

    def is_ready(self, worker: int) -> bool:
        """Tell that it is."""
        return True

    def watch(self, report: Any) -> None:
        """Call `report` for progress as it happens, since nothing else happens meanwhile."""
        self._report = report

    def submit(self, worker: int, order: Order) -> None:
        """Do the order now."""
        self._done.append(Done(worker, self._worker.do(order, self._report)))

    def wait(self, seconds: float) -> list[Event]:
        """Give what is done."""
        events, self._done = self._done, []
        return events

    def stop(self) -> None:
        """Do nothing."""


class Processes:
    """Workers in processes of this machine, one thread each.

    Two processes with two threads each were measured to be slower than one.
    """

    loses_alone = True

    def __init__(self, run: Run, devices: Sequence[str]) -> None:
        """Prepare a worker for each of `devices`; a name may come several times."""
        self.run, self.devices = run, list(devices)
        self.places = [Place(socket.gethostname(), device) for device in devices]
        self._context = _find_process_context(self.devices)
        self._workers: list[tuple[Any, Connection]] = []
        self._busy: set[int] = set()
        self._lost: deque[Event] = deque()

    def start(self) -> None:
        """Start the processes.

        Raises:
            NoProcesses: the system cannot start a process.
        """
        for device in self.devices:
            self._workers.append(self._start_one(device))

    def is_ready(self, worker: int) -> bool:
        """Tell that it is: an order waits in the pipe until it has imported all."""
        return True

    def _start_one(self, device: str) -> tuple[Any, Connection]:
        """Start one process; return it and our end of the pipe to it."""
        ours, theirs = self._context.Pipe()
        settings = (theirs, self.run, device, registry.get_plug_ins(), dict(os.environ))
        process = self._context.Process(target=_serve, args=settings, daemon=True)
        with _hold_back_ctrl_c():  # it inherits this, since the terminal sends it Ctrl-C too
            process.start()
        theirs.close()
        return process, ours

    def submit(self, worker: int, order: Order) -> None:
        """Send an order to a process."""
        self._busy.add(worker)
        try:
            self._workers[worker][1].send(order)
        except OSError:  # it was killed while it was idle
            self._replace(worker)

    def wait(self, seconds: float) -> list[Event]:
        """Wait for messages of any process."""
        events: list[Event] = [self._lost.popleft() for _ in range(len(self._lost))]
        ready = wait_for_any([pipe for _, pipe in self._workers], 0 if events else seconds)
        for worker, (_, pipe) in enumerate(list(self._workers)):
            if pipe not in ready:
                continue
            try:
                while pipe.poll():
                    events.append(_read_message(worker, pipe.recv()))
                    if isinstance(events[-1], Done):
                        self._busy.discard(worker)
            except (EOFError, OSError):
                self._replace(worker)
        return events

    def _replace(self, worker: int) -> None:
        """Start a killed process again, and report what it was doing as lost."""
        process, pipe = self._workers[worker]
        process.join(5)
        pipe.close()
        reason = f"its process was killed (exit {process.exitcode})"
        self._workers[worker] = self._start_one(self.devices[worker])
        if worker in self._busy:
            self._busy.discard(worker)
            self._lost.append(Lost(worker, reason))

    def stop(self) -> None:
        """Kill the processes."""
        for process, pipe in self._workers:
            process.kill()
            pipe.close()
        for process, _ in self._workers:
            process.join()
        self._workers = []


def _read_message(worker: int, message: Any) -> Event:
    """Turn what a process sent into an event."""
    if isinstance(message, Outcome):
        return Done(worker, message)
    return Progress(worker, *message)


def _find_process_context(devices: Sequence[str]) -> Any:
    """Find how workers start: as forks of one process that has imported torch, if that is possible.

    It takes seconds to import, and `torch._dynamo`, which every optimiser imports, as long again. A
    GPU's workers start afresh, since a fork cannot use CUDA once anything that was imported has
    asked for it.
    """
    methods = multiprocessing.get_all_start_methods()
    if set(devices) != {"cpu"} or "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sa_bench.engine.worker", "torch._dynamo"])
    return context


@contextlib.contextmanager
def _hold_back_ctrl_c() -> Iterator[None]:
    """Start processes that never see Ctrl-C, and raise a Ctrl-C that comes meanwhile afterwards.

    A worker that is still importing would answer with a traceback, as would one whose start was cut
    short.

    Raises:
        NoProcesses: the system cannot start a process.
    """
    interrupts: list[int] = []
    in_main_thread = (
        threading.current_thread() is threading.main_thread()
    )  # only there Ctrl-C is raised
    handler = (
        signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
        if in_main_thread
        else None
    )
    can_mask = hasattr(signal, "pthread_sigmask")  # processes inherit the mask; Windows has none
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_mask else set()
    try:
        yield
    except (OSError, RuntimeError) as error:  # `can't start new thread`, EAGAIN
        raise NoProcesses(first_line(error)) from error
    finally:
        if can_mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


def prepare_worker_process(plug_ins: registry.PlugIns, environment: dict[str, str]) -> None:
    """Set up a worker's process: the run's environment, its plug-ins, one thread."""
    os.environ.clear()  # a forked worker has that of the first run of the calling process
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    registry.adopt(plug_ins)


def _serve(
    pipe: Connection,
    run: Run,
    device: str,
    plug_ins: registry.PlugIns,
    environment: dict[str, str],
) -> None:
    """Do the orders that come through a pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_worker_process(plug_ins, environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker = Worker(Store(run.store), run.out, run.command, device)
    with contextlib.suppress(EOFError, OSError):
        while True:
            order = pipe.recv()
            pipe.send(worker.do(order, lambda *event: pipe.send(event)))


def _die_with_parent() -> None:
    """End this worker when its parent is killed; it would work on otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
