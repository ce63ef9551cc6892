"""Hand out the jobs of a graph: what is ready, and of that what matters most."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping

from sa_bench.engine.cells import Cell
from sa_bench.engine.graph import TO_DO, Graph, Job

STEP = math.log(1.1)  # chains whose lengths differ by less than a tenth count as equally long


class Scheduler:
    """Knows which jobs are ready, handed out, finished or given up.

    Among ready jobs those come first that lie on the longest chain of work; then those of the first
    cell, so that results come one after another and not all at the end. A worker keeps to the cell
    that it has open as long as nothing more important is ready.
    """

    def __init__(self, graph: Graph, lengths: Mapping[str, float] | None = None) -> None:
        """Take a graph.

        Args:
            graph: the jobs.
            lengths: seconds of the longest chain through each job, see `find_lengths`; None if
                times are unknown.
        """
        self.graph = graph
        self._rank = {
            id: (_round_length((lengths or {}).get(id, 0.0)), place)
            for place, id in enumerate(graph.jobs)
        }
        self._waits_for: dict[str, set[str]] = {}
        self._needed_by: dict[str, list[str]] = {}
        self._ready: list[tuple[tuple[int, int], str]] = []
        self._ready_of_cell: dict[str, list[tuple[tuple[int, int], str]]] = {}
        self._gone: set[str] = set()
        """Finished, handed out or given up: what lies in a heap and must not be handed out."""
        self._postponed: list[str] = []
        self.running: set[str] = set()
        self.unfinished = {job.id for job in graph.to_do()}
        for job in graph.to_do():
            self._waits_for[job.id] = {id for id in job.needs if id in self.unfinished}
            for id in self._waits_for[job.id]:
                self._needed_by.setdefault(id, []).append(job.id)
        for id, needs in self._waits_for.items():
            if not needs:
                self._push(id)

    @property
    def is_done(self) -> bool:
        """Whether every job is finished or given up."""
        return not self.unfinished

    def take(self, cell: str = "") -> Job | None:
        """Hand out the best ready job; `cell` is the id of the cell that the worker has open.

        Returns:
            The job; None if none is ready.
        """
        best = self._first(self._ready)
        if best is None:
            return None
        own = self._first(self._ready_of_cell.get(cell, []))
        if own is not None and self._rank[own][0] <= self._rank[best][0]:
            best = own
        self._gone.add(best)
        self.running.add(best)
        return self.graph.jobs[best]

    def finish(self, id: str) -> None:
        """Note that a job is done: what waited for it alone is ready now."""
        self.running.discard(id)
        self.unfinished.discard(id)
        for next_id in self._needed_by.get(id, ()):
            self._waits_for[next_id].discard(id)
            if not self._waits_for[next_id] and next_id in self.unfinished:
                self._push(next_id)

    def divide(self, id: str, parts: Iterable[Job]) -> None:
        """Let a job that was handed out wait for parts of a stage that it came upon.

        Args:
            id: the job's id.
            parts: the parts, as important as the job; those that another job has asked for are not
                made again.
        """
        self.running.discard(id)
        waits_for = self._waits_for.setdefault(id, set())
        for part in parts:
            if part.id not in self.graph.jobs:
                self.graph.jobs[part.id] = part
                self.unfinished.add(part.id)
                self._waits_for[part.id], self._rank[part.id] = set(), self._rank[id]
                self._push(part.id)
            if part.id in self.unfinished:
                waits_for.add(part.id)
                self._needed_by.setdefault(part.id, []).append(id)
        if not waits_for:
            self._push(id)

    def postpone(self, id: str) -> None:
        """Put a job back that another process is at; `wake` makes it ready again."""
        self.running.discard(id)
        self._postponed.append(id)

    def wake(self) -> list[str]:
        """Make postponed jobs ready again, and return their ids."""
        ids, self._postponed = self._postponed, []
        for id in ids:
            self.give_back(id)
        return ids

    def give_back(self, id: str) -> None:
        """Make a job ready again that was handed out and not done."""
        self.running.discard(id)
        self._push(id)

    @property
    def has_postponed(self) -> bool:
        """Whether jobs wait for another process."""
        return bool(self._postponed)

    def fail(self, id: str) -> list[Cell]:
        """Give up a job and all that needs it, and what no other cell needs.

        Returns:
            The cells that will have no numbers.
        """
        self.running.discard(id)
        lost, stack = set(), [id]
        while stack:
            one = stack.pop()
            if one not in lost:
                lost.add(one)
                stack += self._needed_by.get(one, ())
        jobs = [job for job in self.graph.jobs.values() if job.id in lost]
        cells = [job.cell for job in jobs if job.address.stage == "result"]
        cells = [cell for cell in cells if f"result/{cell.id}" in self.unfinished]
        self.unfinished -= lost
        self._gone |= lost
        self._drop_unneeded()
        return cells

    def _drop_unneeded(self) -> None:
        """Give up the jobs that no unfinished result needs any more."""
        needed, stack = set(), [id for id in self.unfinished if id.startswith("result/")]
        while stack:
            one = stack.pop()
            if one not in needed:
                needed.add(one)
                stack += self._waits_for.get(one, ())
        dropped = self.unfinished - needed - self.running
        self._gone |= dropped
        self.unfinished -= dropped

    def _push(self, id: str) -> None:
        """Put a job among the ready ones."""
        self._gone.discard(id)
        entry = (self._rank[id], id)
        heapq.heappush(self._ready, entry)
        own = self._ready_of_cell.setdefault(self.graph.jobs[id].cell.id, [])
        heapq.heappush(own, entry)

    def _first(self, heap: list[tuple[tuple[int, int], str]]) -> str | None:
        """Return the first job of a heap that is still to be handed out."""
        while heap and heap[0][1] in self._gone:
            heapq.heappop(heap)
        return heap[0][1] if heap else None


def _round_length(seconds: float) -> int:
    """Round a length to tenths of itself; longer ones sort first."""
    return -round(math.log(max(seconds, 1e-3)) / STEP)


def simulate(
    graph: Graph, seconds: Mapping[str, float], workers: int, lengths: Mapping[str, float]
) -> float:
    """Simulate a run of the graph by so many equal workers.

    Args:
        graph: the jobs.
        seconds: how long each job takes.
        workers: number of workers.
        lengths: what the scheduler believes, see `find_lengths`.

    Returns:
        Seconds from the start to the last result.
    """
    scheduler, now = Scheduler(graph, lengths), 0.0
    idle = [(w, "") for w in range(workers)]
    ends: list[tuple[float, int, str]] = []
    while not scheduler.is_done:
        still_idle: list[tuple[int, str]] = []
        for worker, cell in idle:
            job = scheduler.take(cell)
            if job is None:
                still_idle.append((worker, cell))
            else:
                heapq.heappush(ends, (now + seconds[job.id], worker, job.id))
        idle = still_idle
        now, worker, id = heapq.heappop(ends)
        scheduler.finish(id)
        idle.append((worker, graph.jobs[id].cell.id))
    return now


def bound(graph: Graph, seconds: Mapping[str, float], workers: int) -> float:
    """Compute what no schedule can beat: the longest chain, and the work divided among all."""
    longest: dict[str, float] = {}
    for job in graph.jobs.values():
        own = seconds[job.id] if job.state == TO_DO else 0.0
        longest[job.id] = own + max((longest[id] for id in job.needs), default=0.0)
    work = sum(seconds[job.id] for job in graph.to_do())
    return max(max(longest.values(), default=0.0), work / workers)
