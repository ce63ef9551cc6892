"""The work of a run as a graph of jobs: each stage of its cells once, whoever needs it.

`plan` prints this graph and `run` walks it. Jobs are found without making anything: where a model
is not in the store yet, what comes after it is named by the stage that will make it, not by its content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sa_bench.contracts import Metric, Task, ignore_event, key_values
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, MissingExtra
from sa_bench.core.store import Store, digest
from sa_bench.engine.cells import Cell
from sa_bench.engine.measure import LazyView, Subject, measure_inputs
from sa_bench.engine.stage import Stage
from sa_bench.engine.stages import Chain
from sa_bench.scoring import detectors, sampling
from sa_bench.scoring.cards import judge_card
from sa_bench.training import fisher_plan

STORED, TO_DO = ("stored", "to do")
KEPT_RESULTS = ("inception", *detectors.NAMES)
"""Requirements whose results the store keeps: of several metrics with one, the first makes them."""


class Address(NamedTuple):
    """Where a job's stage is in a cell's chain."""

    stage: str
    """`base`, `judge`, `replay`, `fisher`, `forget`, `samples`, `measure` or `result`."""
    name: str = ""
    """Of the judge, the fixed set, the method's field, the sample set or the metric."""
    of_base: bool = False
    """Whether samples and measurements are the base model's."""
    part: int = -1
    """Number of the part; -1 for the whole stage, which is made from its parts."""
    key: str = ""
    """Key of the stage that the part is of, where a measurement came upon it; else ""."""


@dataclass
class Job:
    """A piece of work for one worker: a stage, a part of one, or the result of a cell."""

    id: str
    """The artifact that it makes; equal in all cells that need it."""
    cell: Cell
    """A cell that needs it, the first one."""
    address: Address
    needs: tuple[str, ...]
    """Ids of the jobs that must be finished before."""
    state: str
    """`stored` or `to do`."""
    stage: Stage | None = None
    """The stage, if all that names it is known."""
    parts: int = 1
    """Number of parts of its stage."""

    @property
    def label(self) -> str:
        """Its name for people."""
        stage, name, of_base, part, _ = self.address
        text = stage if not name or stage == "fisher" else f"{stage} {name}"
        text = name if stage == "replay" else text.replace("samples ", "sample ")
        return text + (" (base)" if of_base else "") + (f", part {part + 1}" if part >= 0 else "")


@dataclass
class Graph:
    """Jobs by id, in an order in which one worker can do them, cell after cell."""

    jobs: dict[str, Job] = field(default_factory=dict)
    of_cell: dict[str, list[str]] = field(default_factory=dict)
    """Ids of all jobs that a cell needs, in order, by the cell's id."""
    chains: dict[str, Chain] = field(default_factory=dict)
    """The chain of each cell's stages, by the cell's id. It makes nothing: a base model that is not in the
    store is only assumed."""

    def to_do(self) -> list[Job]:
        """List the jobs that are not stored."""
        return [job for job in self.jobs.values() if job.state == TO_DO]


def result_id(cell: Cell) -> str:
    """Name the job that writes a cell's result."""
    return f"result/{cell.id}"


def make_graph(cells: Iterable[Cell], store: Store, device: str = "cpu") -> Graph:
    """Make the graph of a run.

    Args:
        cells: the cells of the run.
        store: what it holds need not be made.
        device: where models are trained: it decides the precision.
    """
    graph, protocols = Graph(), _Protocols()
    for cell in cells:
        graph.chains[cell.id] = Chain(store, cell, ignore_event, device)
        _CellJobs(graph, protocols, graph.chains[cell.id]).add()
    return graph


class _Protocols:
    """What cells of one task have in common, found once: its name among protocols, and its metrics."""

    def __init__(self) -> None:
        self._ids: dict[int, tuple[Task, str]] = {}
        self._metrics: dict[str, list[Metric]] = {}
        self._judges: dict[str, list[str]] = {}
        self.base_sets: dict[str, list[str]] = {}
        """Ids of the sample sets of a base model, by the model and the protocol."""
        self.base_measures: dict[str, dict[str, str]] = {}
        """Ids of its measurements, likewise."""

    def name(self, task: Task) -> str:
        """Hash a task's values."""
        if id(task) not in self._ids:  # the task is kept, so that its id stays its own
            self._ids[id(task)] = (task, digest(key_values(task)))
        return self._ids[id(task)][1]

    def trained_judges(self, task: Task) -> list[str]:
        """List the task's judges that are trained on first use."""
        name = self.name(task)
        if name not in self._judges:
            self._judges[name] = [j for j in task.judges if judge_card(j)["kind"] == "trained"]
        return self._judges[name]

    def metrics(self, chain: Chain) -> list[Metric]:
        """List the task's metrics that can be taken here."""
        name = self.name(chain.task)
        if name not in self._metrics:
            view = LazyView(chain, Subject(chain))
            metrics = [registry.get_metric(name) for name in chain.task.metrics]
            self._metrics[name] = [metric for metric in metrics if view.lacks(metric) is None]
        return self._metrics[name]


class _CellJobs:
    """Adds the jobs of one cell to a graph."""

    def __init__(self, graph: Graph, protocols: _Protocols, chain: Chain) -> None:
        self.graph, self.protocols, self.chain = graph, protocols, chain
        self.ids: list[str] = []

    def add(self) -> None:
        """Add all jobs, from the base model to the result."""
        chain, cell = self.chain, self.chain.cell
        base = self._add_base()
        forget = self._add_forgetting(base)
        is_known = self.graph.jobs[forget].state == STORED
        sets = self._add_samples(False, [forget], is_known)
        base_known = all(self.graph.jobs[id].state == STORED for id in base)
        of_base_and_task = (
            f"{'+'.join(base) or chain.base.content} for {self.protocols.name(chain.task)}"
        )
        found = self.protocols.base_sets.get(of_base_and_task)
        base_sets = self._repeat(found) or self._add_samples(True, base, base_known)
        self.protocols.base_sets[of_base_and_task] = base_sets
        judges = [
            self._put(f"judge/{name}", Address("judge", name), [], None)
            for name in self.protocols.trained_judges(chain.task)
        ]
        of_base = self.protocols.base_measures.get(of_base_and_task)
        if of_base is None:
            of_base = self._add_measures(True, [*base_sets, *judges], {})
            self.protocols.base_measures[of_base_and_task] = of_base
        else:
            self._repeat(list(of_base.values()))
        of_model = self._add_measures(False, [forget, *sets, *base_sets, *judges], of_base)
        needs = [*sets, *base_sets, *of_base.values(), *of_model.values()]
        self._put(result_id(cell), Address("result"), needs, None)
        self.graph.of_cell[cell.id] = self.ids

    def _put(
        self,
        id: str,
        address: Address,
        needs: Iterable[str],
        stage: Stage | None,
        parts: int = 1,
    ) -> str:
        """Add a job, with those of its parts, unless another cell has added it; return its id."""
        needs = tuple(needs)
        if stage is not None:
            parts = stage.parts
        if id not in self.graph.jobs:
            is_stored = stage is not None and self.chain.store.has(stage.kind, stage.key)
            part_ids = []
            for part in range(parts if parts > 1 and not is_stored else 0):
                part_ids.append(f"{id}#{part}")
                at = address._replace(part=part)
                self.graph.jobs[part_ids[-1]] = Job(
                    part_ids[-1], self.chain.cell, at, needs, TO_DO, stage, parts
                )
            state = STORED if is_stored else TO_DO
            self.graph.jobs[id] = Job(
                id, self.chain.cell, address, tuple(part_ids) or needs, state, stage, parts
            )
        self._repeat([id])
        return id

    def _repeat(self, ids: list[str] | None) -> list[str]:
        """Note that this cell needs jobs, and their parts, that another cell has added."""
        for id in ids or ():
            self.ids += [need for need in self.graph.jobs[id].needs if need.startswith(f"{id}#")]
            self.ids.append(id)
        return ids or []

    def _add_base(self) -> list[str]:
        """Add the training of the base model; nothing for one that is shipped or pretrained."""
        chain = self.chain
        stage = chain.base_source.stage()
        if stage is None:
            try:
                _ = chain.base
            except MissingExtra:
                raise
            except MissingAsset:  # only `plan` comes here
                chain.assume_base(f"missing {chain.task.model}")
            return []
        id = self._put(f"base/{stage.key}", Address("base"), [], stage)
        if self.graph.jobs[id].state == STORED:
            _ = chain.base
        else:
            chain.assume_base(id)
        return [id]

    def _add_forgetting(self, base: Sequence[str]) -> str:
        """Add what the method learns from, F, and the model after forgetting; return the last's id."""
        chain = self.chain
        forget = chain.forget_stage()
        is_stored = chain.store.has(forget.kind, forget.key)
        sets: dict[str, str] = {}
        needs: list[str] = []
        for name, stage in chain.sets_of_forgetting():
            if not is_stored or chain.store.has(stage.kind, stage.key):
                sets[name] = self._put(f"replay/{stage.key}", Address("replay", name), base, stage)
        for field_name, options in chain.fisher_fields():
            stage = chain.fisher_stage(options)
            if not is_stored or chain.store.has(stage.kind, stage.key):
                is_from_replay = fisher_plan.is_from_replay(options)
                before = [sets["replay"]] if is_from_replay and "replay" in sets else []
                address = Address("fisher", field_name)
                needs.append(self._put(f"fisher/{stage.key}", address, [*base, *before], stage))
        needs = [*base, *sets.values(), *needs]
        return self._put(f"forget/{forget.key}", Address("forget"), needs, forget)

    def _add_samples(self, of_base: bool, needs: Sequence[str], is_known: bool) -> list[str]:
        """Add the sample sets of the model or of its base; return their ids."""
        chain, ids = self.chain, []
        model = "+".join(needs) or chain.base.content
        if of_base:
            model += f" for {self.protocols.name(chain.task)}"
        for name in sampling.set_names(chain.task):
            address = Address("samples", name, of_base)
            if is_known:
                stage = chain.sample_stage(name, of_base)
                ids.append(self._put(f"samples/{stage.key}", address, needs, stage))
            else:
                shards = sampling.count_shards(chain.task, name, chain.base_source.shard_size)
                id = f"samples/{name} of {model}"
                ids.append(self._put(id, address, needs, None, shards))
        return ids

    def _add_measures(
        self, of_base: bool, needs: Sequence[str], earlier: Mapping[str, str]
    ) -> dict[str, str]:
        """Add the measurements of the model or of its base; return their ids by metric.

        Args:
            of_base: whether they are the base model's.
            needs: ids of what all of them need.
            earlier: measurements of the base model, by metric.
        """
        chain, jobs = self.chain, self.graph.jobs
        subject, ids = Subject(chain, of_base), {}
        is_known = all(jobs[id].state == STORED for id in needs if not id.startswith("judge/"))
        first: dict[str, str] = {}
        for metric in self.protocols.metrics(chain):
            stage = None
            id = f"measure/{metric.name} of {'+'.join(needs)} for {self.protocols.name(chain.task)}"
            if is_known:
                inputs = measure_inputs(chain, metric, subject)
                stage = Stage("measure", f"measure {metric.name}", inputs, lambda folder: None)
                id = f"measure/{stage.key}"
            kept = [name for name in KEPT_RESULTS if name in metric.requires]
            before = [first[name] for name in kept if name in first]
            before += [earlier[metric.name]] if kept and metric.name in earlier else []
            before = [one for one in dict.fromkeys(before) if one != id]
            ids[metric.name] = self._put(
                id, Address("measure", metric.name, of_base), [*needs, *before], stage
            )
            first |= {name: id for name in kept if name not in first}
        return ids


Weigh = Callable[[Job, Chain], float]
"""Estimates the seconds of a job, given its cell's chain."""


def find_lengths(graph: Graph, weigh: Weigh) -> dict[str, float]:
    """Find the length of the longest chain of work through each job that ends at its cell's result.

    Returns:
        Seconds by job id: the largest over the cells that need the job.
    """
    below: dict[str, float] = {}  # longest chain that ends with the job
    for job in graph.jobs.values():
        own = weigh(job, graph.chains[job.cell.id]) if job.state == TO_DO else 0.0
        below[job.id] = own + max((below[id] for id in job.needs), default=0.0)
    lengths: dict[str, float] = {}
    for ids in graph.of_cell.values():
        length = below[ids[-1]]
        for id in ids:
            lengths[id] = max(lengths.get(id, 0.0), length)
    return lengths
