"""Drive a run: hand the jobs of its graph to workers until every cell has a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sa_bench.core.errors import CellFailed
from sa_bench.core.store import Store
from sa_bench.engine.cell_results import Failure, write_failed
from sa_bench.engine.cells import Cell
from sa_bench.engine.graph import TO_DO, Job, Weigh, find_lengths, make_graph
from sa_bench.engine.scheduler import Scheduler
from sa_bench.engine.stage import Divided
from sa_bench.engine.worker import Order, Outcome
from sa_bench.engine.workers import Done, Lost, OneProcess, Progress, Workers
from sa_bench.results.schema import ResultRow

Watch = Callable[[str, str, int, int, str], None]
"""watch(cell name, stage, done, total, worker); the worker is "" if there is only one"""
PATIENCE = 0.25  # seconds between two looks at the workers
PAUSE = 1.0  # seconds after which a job is tried again that another process was at
TRIES = 4  # times that a job is begun whose workers are killed
KILLED = (
    "its process was killed, also when it ran alone (out of memory? in a script, is the call under "
    "`if __name__ == '__main__':`?); the same command resumes"
)


class Driver:
    """Knows a run's graph, and which results there are so far."""

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        out: Path,
        command: str,
        report: Watch,
        finished: Callable[[ResultRow], None],
        weigh: Weigh | None = None,
    ) -> None:
        """Make the graph; see `runner.run_cells` for the arguments."""
        self.cells, self.store, self.out, self.command = cells, store, out, command
        self.report, self.finished, self.weigh = report, finished, weigh
        self.results: dict[str, ResultRow] = {}
        self._told: set[str] = set()  # names of cells that have a result
        self.seconds_of_worker: dict[int, float] = {}
        self._joinable: dict[str, set[str]] = {}  # keys of stages whose parts a job has waited for
        self._made: dict[str, set[str]] = {}  # keys of artifacts, by the cell they were made for
        self._lost: dict[str, int] = {}  # times that a job's worker was killed
        self._alone: list[str] = []  # jobs that are to run with nothing beside them

    def drive(self, workers: Workers) -> None:
        """Do all jobs.

        Raises:
            NoProcesses: no worker can be started; what is done is kept.
        """
        self._workers = workers
        self._job_of: dict[int, Job] = {}  # what each busy worker does
        self._open_cell: dict[int, str] = {}
        self._woken = time.monotonic()
        if isinstance(workers, OneProcess):
            workers.watch(
                lambda cell, stage, done, total: self.report(cell, stage, done, total, "")
            )
        try:
            workers.start()
            cells = [cell for cell in self.cells if cell.id not in self.results]
            graph = make_graph(cells, self.store, workers.places[0].device)
            lengths = None if self.weigh is None else find_lengths(graph, self.weigh)
            self._scheduler = Scheduler(graph, lengths)
            while not self._scheduler.is_done:
                self._hand_out()
                for event in workers.wait(PATIENCE):
                    self._take(event)
        except BaseException:
            workers.stop()  # no need to wait for whole jobs: the store resumes them
            raise
        workers.stop()

    def _hand_out(self) -> None:
        """Give every idle worker something to do."""
        scheduler = self._scheduler
        if scheduler.has_postponed and time.monotonic() - self._woken > PAUSE:
            scheduler.wake()
            self._woken = time.monotonic()
        for worker in range(len(self._workers.places)):
            if worker in self._job_of or not self._workers.is_ready(worker):
                continue
            if self._alone:
                if not self._job_of:
                    self._submit(worker, scheduler.graph.jobs[self._alone[0]], wait=True)
                return
            job = scheduler.take(self._open_cell.get(worker, ""))
            wait = False
            if job is None and not self._job_of and scheduler.wake():
                job, wait = scheduler.take(), True  # nothing else is left but to wait
            if job is None:
                return
            self._submit(worker, job, wait)

    def _submit(self, worker: int, job: Job, wait: bool) -> None:
        """Give a job to a worker."""
        made = frozenset(self._made.get(job.cell.id, ()))
        self._job_of[worker] = job
        self._open_cell[worker] = job.cell.id
        stage, joinable = job.address.stage, None
        if stage == "measure" and len(self._workers.places) > 1:
            joinable = frozenset(self._joinable.get(job.id, ()))
        made = made if stage == "result" else frozenset()
        order = Order(job.id, job.cell, job.address, wait, made, joinable)
        self._workers.submit(worker, order)

    def _take(self, event: Progress | Done | Lost) -> None:
        """Deal with what a worker reports."""
        if isinstance(event, Progress):
            if event.cell in self._told:
                return  # a late word of a cell that is done
            at = self._workers.places[event.worker]
            self.report(
                event.cell,
                event.stage,
                event.done,
                event.total,
                f"{event.worker + 1} {at.node}{f' {at.device}' if ':' in at.device else ''}",
            )
            return
        job = self._job_of.pop(event.worker)
        if job.id in self._alone:
            self._alone.remove(job.id)
        if isinstance(event, Lost):
            self._take_loss(job, event)
            return
        outcome = event.outcome
        spent = self.seconds_of_worker.get(event.worker, 0.0)
        self.seconds_of_worker[event.worker] = spent + outcome.seconds
        self._made.setdefault(job.cell.id, set()).update(outcome.made)
        if outcome.status == "busy":
            self._scheduler.postpone(job.id)
        elif outcome.divided is not None:
            self._divide(job, outcome.divided)
        elif outcome.status == "failed":
            self._fail(job, outcome)
        else:
            self._finish(job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        """Note a job that is done."""
        if outcome.row is not None:
            self._keep(job.cell, outcome.row)
        self._scheduler.finish(job.id)
        self._scheduler.wake()

    def _divide(self, job: Job, divided: Divided) -> None:
        """Hand out the parts of a stage that a measurement has come upon; after them it goes on."""
        kind, key, parts = divided
        self._joinable.setdefault(job.id, set()).add(key)
        addresses = [job.address._replace(part=part, key=key) for part in range(parts)]
        self._scheduler.divide(
            job.id,
            [
                Job(f"{kind}/{key}#{at.part}", job.cell, at, (), TO_DO, parts=parts)
                for at in addresses
            ],
        )

    def _fail(self, job: Job, outcome: Outcome) -> None:
        """Give up a job that failed, and write why for every cell that needs it."""
        failure = outcome.failure or Failure("no reason is known", CellFailed.exit_code)
        device = self._workers.places[0].device
        for cell in self._scheduler.fail(job.id):
            self._keep(cell, write_failed(cell, self.out, self.command, failure, device))

    def _take_loss(self, job: Job, event: Lost) -> None:
        """Try a job again whose worker was killed; give it up if that happens too often."""
        self._lost[job.id] = self._lost.get(job.id, 0) + 1
        tries = 2 if self._workers.loses_alone else TRIES
        if self._lost[job.id] < tries:
            if self._workers.loses_alone:
                self._alone.append(job.id)
            else:
                self._scheduler.give_back(job.id)
            return
        reason = KILLED if self._workers.loses_alone else f"{event.reason}, {tries} times"
        failure = Failure(reason, CellFailed.exit_code)
        self._fail(job, Outcome(job.id, "failed", failure=failure))

    def _keep(self, cell: Cell, result: ResultRow) -> None:
        """Keep a result and tell of it."""
        self.results[cell.id] = result
        self._told.add(cell.name)
        self.finished(result)
