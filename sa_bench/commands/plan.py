"""`plan`: describe what a run would do, given what the store has. Runs nothing, downloads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain as chain_lists
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from sa_bench.analysis.gates import MORE, Estimate, Reading, difference_bounds, estimate
from sa_bench.analysis.pairwise import FEWEST
from sa_bench.commands.doctor import plan_lines
from sa_bench.commands.stage_times import StageTimes, read_times
from sa_bench.contracts import Task
from sa_bench.core import registry
from sa_bench.core.collector import pause_collector
from sa_bench.core.counts import describe_count
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest
from sa_bench.data import datasets
from sa_bench.data.assets.shipped import variance_card
from sa_bench.engine.cells import Cell, title_cells
from sa_bench.engine.graph import STORED, TO_DO, Graph, Job, Weigh, find_lengths, make_graph
from sa_bench.engine.memory import LIBRARIES, PER_PARAMETER, count_parameters, has_base
from sa_bench.engine.needs import describe_unfit
from sa_bench.engine.placement import check_device, describe_placement, list_gpus, place_workers
from sa_bench.engine.rates import NOTHING, Duration
from sa_bench.engine.scheduler import simulate
from sa_bench.engine.stages import Chain
from sa_bench.models.family import get_family
from sa_bench.results import dose
from sa_bench.results.format import format_amount, is_rate, unit_of_change
from sa_bench.scoring import sampling
from sa_bench.statistics import detectable
from sa_bench.statistics.clustered import wilson

LISTED = 30  # up to this number cells are listed stage by stage, above it a line per setting


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a cell's chain, and what remains to be done."""

    what: str  # `2,000 steps`
    state: str  # `shipped`, `stored`, `shared` with an earlier cell, or `to do`
    seconds: Duration | None  # of CPU still to spend; None if never measured anywhere


def describe_plan(cells: Sequence[Cell], jobs: int | None = 1, device: str = "cpu") -> str:
    """Describe what a run of the cells would do; see `make_plan`."""
    return make_plan(cells, jobs, device)[0]


@pause_collector()
def make_plan(
    cells: Sequence[Cell], jobs: int | None = 1, device: str = "cpu"
) -> tuple[str, dict[str, list[PlannedStage]]]:
    """Describe cells stage by stage with what is shipped or stored, then time, memory and disk.

    `jobs` and `device` place the workers as for `run`; without a GPU here so many are assumed.

    Times are measured: seconds per step, sample or measurement of what this store holds from earlier
    runs on this machine, or of the shipped boards, scaled to this machine (see `stage_times`).

    Returns:
        (text, planned stages by the title of their cell).
    """
    check_device(device)
    store = Store(store_folder())
    times, titles = read_times(store, device), title_cells(cells)
    scales = ", ".join(dict.fromkeys(cell.scale for cell in cells))
    parameters = max(count_parameters(c) for c in {id(c.task): c for c in cells}.values())
    devices, placed = _place(device, jobs, round(LIBRARIES + parameters * PER_PARAMETER / 2**20))
    graph, seconds = make_graph(cells, store, devices[0]), {}
    stages_of = {c.id: list(_plan_cell(graph, c, times, seconds)) for c in cells}
    unknown = sum(any(s.seconds is None for s in stages) for stages in stages_of.values())
    lines = [f"{describe_count(len(cells), 'cell')} at scale {scales}:"]
    if len(cells) <= LISTED:
        lines += [
            f"  {titles[id]}: {' · '.join(map(_format_stage, stages))}"
            for id, stages in stages_of.items()
        ]
    else:
        lines += _group_cells(titles, stages_of)
    processes = min(len(devices), len(graph.to_do()))
    images = max(_count_images(c.task) * prod(datasets.image_shape(c.task)) for c in cells)
    disk = len(cells) * (2 * 4 * parameters + 4 * images) / 2**20
    free = shutil.disk_usage(_nearest_folder(store.root)).free / 2**30
    lines += [
        "",
        *_describe_time(
            _find_makespan(graph, seconds, processes), len(devices), len(cells), unknown, times
        ),
        *([f"        {note}"] if (note := times.describe_gpu()) else []),
        *placed,
        f"memory: {_describe_memory(times, parameters)} a process ({parameters:,} parameters), "
        + describe_count(processes, "process"),
        *_describe_attacks(cells, times),
        *_describe_power(cells),
        *_describe_erasure(cells),
        *(
            f"n/a:    {text}"
            for text in describe_unfit({c.task.name: c.task for c in cells}.values())
        ),
        *plan_lines({c.task.name: c.task for c in cells}.values()),
        f"disk:   about {disk:.0f} MiB in the store and the run folder; {free:.0f} GiB free at {store.root}",
    ]
    return "\n".join(lines), {titles[id]: stages for id, stages in stages_of.items()}


def _place(device: str, jobs: int | None, mib: int) -> tuple[list[str], list[str]]:
    """Place the workers; return their devices, and the lines that say so, if there is a choice.

    Raises:
        SaBenchError: they do not fit on the GPUs of this machine.
    """
    if not device.startswith("cuda"):
        return place_workers(device, jobs, mib), []
    gpus = list_gpus()
    if not gpus:
        count = jobs or len(device.split(","))
        assumed = "one is" if count == 1 else f"{count} are"
        return ["cuda"] * count, [f"place:  no GPU here; {assumed} assumed"]
    if jobs == 1 and device == "cuda":
        return place_workers(device, jobs, mib), []
    devices = place_workers(device, jobs, mib, gpus)
    return devices, [f"place:  {describe_placement(devices)}"]


def _find_makespan(graph: Graph, seconds: Mapping[str, Duration | None], workers: int) -> Duration:
    """Find how long so many workers take for the graph, by a simulation of how jobs are handed out.

    The ends of the range keep the ratio to the middle that the work itself has.
    """
    known = {id: duration for id, duration in seconds.items() if duration is not None}
    work = sum(known.values(), NOTHING)
    if workers == 1 or not work.middle:
        return work * (1 / workers)
    of_job = {id: known[id].middle if id in known else 0.0 for id in graph.jobs}
    lengths = find_lengths(graph, lambda job, chain: of_job[job.id])
    return work * (simulate(graph, of_job, workers, lengths) / work.middle)


def _group_cells(
    titles: Mapping[str, str], stages_of: Mapping[str, list[PlannedStage]]
) -> Iterator[str]:
    """Yield one line per setting for all its base models and seeds."""
    groups: dict[str, list[list[PlannedStage]]] = {}
    for id, stages in stages_of.items():
        groups.setdefault(titles[id].rpartition(" (base ")[0], []).append(stages)
    for title, cells in groups.items():
        unfinished = [stages for stages in cells if any(s.state == "to do" for s in stages)]
        unknown = sum(any(s.seconds is None for s in stages) for stages in unfinished)
        total = _sum_durations(chain_lists.from_iterable(unfinished))
        summary = f"{describe_count(len(cells), 'cell')}, {len(unfinished)} to do"
        summary += (
            f", about {_format_time(total.middle)} of CPU" if len(unfinished) > unknown else ""
        )
        yield f"  {title}: {summary}" + (f", {unknown} of unknown time" if unknown else "")


def _count_images(task: Task) -> int:
    """Count the images of all sample sets of a task."""
    return sum(sampling.count_images(task, name) for name in sampling.set_names(task))


def _describe_power(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield which differences so many runs could show, by how they varied on the benchmark's own board."""
    cards = variance_card()
    for task in dict.fromkeys(
        c.task.name for c in cells if c.scale == "full" and c.task.name in cards
    ):
        lines: dict[str, set[tuple[int, int]]] = {}
        for c in cells:
            if c.task.name == task and registry.get_method(c.method).standing == "method":
                lines.setdefault(digest([c.method, dict(c.fields)]), set()).add(
                    (c.base_seed, c.seed)
                )
        shared = max((a & b for a, b in combinations(lines.values(), 2)), key=len, default=set())
        if len(shared) < FEWEST:
            yield f"tells:  {task}: not which method is better, no two of them share {FEWEST} runs"
            continue
        bases = len({base for base, _ in shared})
        seeds = len(shared) // bases
        differences = []
        for name, variance in cards[task].items():
            smallest = detectable(
                variance["base"], variance["seed"], bases, seeds, comparisons=len(cards[task])
            )
            if smallest is not None:
                unit = variance["unit"]
                text = format_amount(smallest, unit) + unit_of_change(unit)
                differences.append(
                    f"{name} {'none that a rate can have' if is_rate(unit) and smallest > 1 else text}"
                )
        scope = "" if bases > 1 else ", on this base model alone"
        summary = f"differences from {', '.join(differences)} on (80 % power{scope})"
        yield f"tells:  {task}, {describe_count(bases, 'base')} x {describe_count(seeds, 'seed')}: {summary}"


def _describe_erasure(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the tasks on which so few images and runs cannot show that no more comes back than of `retrain`.

    That is by the gate of recovery, for the row with the most base models and seeds, if nothing comes back of either.
    """
    by_concept: dict[tuple[str, int], dict[str, list[Cell]]] = {}
    for c in cells:
        if "recovery" in c.task.metrics:
            rows = by_concept.setdefault((c.task.name, c.task.concept), {})
            rows.setdefault(digest([c.method, dict(c.fields)]), []).append(c)
    lines = {}
    for (task, _), rows in by_concept.items():
        floors, methods = (
            [r for r in rows.values() if registry.get_method(r[0].method).standing == standing]
            for standing in ("reference", "method")
        )
        if methods and not floors:
            lines[task] = "not whether what is hidden comes back, without --method retrain"
        elif methods:
            row, floor = (_estimate_nothing(max(r, key=len)) for r in (methods, floors))
            most = difference_bounds(row, floor)[1]
            if most > MORE:
                lines[task] = (
                    "ERASED only of a row of which less comes back than of retrain (if nothing does of "
                    f"both, it may be {100 * most:.0f} points more; the gate is {100 * MORE:.0f})"
                )
    yield from (f"        {task}: {text}" for task, text in lines.items())


def _estimate_nothing(cells: Sequence[Cell]) -> Estimate:
    """Estimate the recovery of cells of which no image comes back."""
    task = cells[0].task
    n = task.recovery_judged or task.n_forget
    prompts = None if task.prompts is None else np.arange(n) % len(task.prompts_for(task.concept))
    low, high, _ = wilson(np.zeros(n), prompts, dose.count_fits(task))
    return estimate([Reading(c.base_seed, c.seed, 0.0, low, high) for c in cells], "rate")


def _describe_attacks(cells: Sequence[Cell], times: StageTimes) -> Iterator[str]:
    """Yield the dose of the attack without a judge beside the published one, and its cost per model."""
    for task in {
        c.task.name: c.task for c in cells if "recovery_excess" in c.task.metrics
    }.values():
        spent, duration = dose.recovery_dose(task), times.fit_conditions(task)
        cost = (
            "time unknown" if duration is None else f"about {_format_time(duration.middle)} a model"
        )
        yield f"attack: {task.name}, {describe_count(dose.count_fits(task), 'fit')} of {dose.describe_dose(spent)}; {cost}"


def _describe_time(
    total: Duration, jobs: int, cells: int, unknown: int, times: StageTimes
) -> Iterator[str]:
    """Yield the range of the whole run's time, of how many cells it is, and where its rates are from."""
    if unknown == cells and not total.middle:
        yield "time:   unknown: nothing like it has run on this machine yet"
        return
    least, without = "", ""
    if unknown:
        least = "at least "
        without = f"; of {describe_count(unknown, 'cell')} the time of a stage is not known"
    yield f"time:   {least}{_format_range(total)} with --jobs {jobs}{without}"
    if times.probed:
        yield (
            "        What never ran here is estimated from the shipped boards; "
            f"a probe found this machine {times.speed:.2f} times as fast as theirs."
        )


def _describe_memory(times: StageTimes, parameters: int) -> str:
    """Describe the memory that scoring took here, else an estimate from the parameters alone."""
    estimate = LIBRARIES + parameters * PER_PARAMETER / 2**20
    if times.peak_mib > estimate:
        return f"up to {times.peak_mib:,.0f} MiB, as seen here,"
    return f"about {estimate:,.0f} MiB, more for scoring at scale full,"


def _format_stage(stage: PlannedStage) -> str:
    """Format a planned stage: what it does, and its state or its time."""
    if stage.state != "to do":
        return f"{stage.what} {stage.state}"
    if stage.seconds is None:
        return f"{stage.what} time unknown"
    return f"{stage.what} {_format_time(stage.seconds.middle)}"


def _sum_durations(stages: Iterable[PlannedStage]) -> Duration:
    """Add up what is known of the stages' times."""
    return sum((s.seconds for s in stages if s.seconds is not None), NOTHING)


def _format_range(duration: Duration) -> str:
    """Format a range as `2.9 to 4.8 h`, in the unit of its middle."""
    for unit, seconds in (("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if duration.middle < 90 * seconds or unit == "h":
            break
    digits = 0 if unit == "s" else 1
    low, high = (f"{bound / seconds:.{digits}f}" for bound in (duration.low, duration.high))
    return f"about {high} {unit}" if low == high else f"{low} to {high} {unit}"


def _format_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _nearest_folder(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def _plan_cell(
    graph: Graph, cell: Cell, times: StageTimes, seconds: dict[str, Duration | None]
) -> Iterator[PlannedStage]:
    """Yield a cell's stages in order, and note the seconds of each job that is its own to do."""
    jobs, chain = [graph.jobs[id] for id in graph.of_cell[cell.id]], graph.chains[cell.id]
    steps = _count_steps(chain.task.family, cell.fields)
    groups: dict[tuple[str, str, bool], list[Job]] = {}
    for job in jobs:
        stage, name, of_base, *_ = job.address
        name = "" if stage in ("samples", "measure") else name
        groups.setdefault((stage, name, of_base), []).append(job)
    if ("base", "", False) not in groups:
        yield _plan_given_base(chain)
    later: list[PlannedStage] = []
    for (stage, name, of_base), members in groups.items():
        if stage in ("judge", "result"):
            continue
        own = [job for job in members if job.cell is cell and job.state == TO_DO]
        for job in own:
            seconds[job.id] = _estimate(job, chain, times, steps)
        maker = graph.chains[members[0].cell.id]  # its names are those of the job's address
        planned = _plan_stage(stage, name, members, own, chain, maker, steps, seconds)
        if of_base:
            later += [replace(planned, what=f"base model's {planned.what}")] if own else []
        elif stage != "replay" or own:
            yield planned
    yield from later


def _plan_stage(
    stage: str,
    name: str,
    members: Sequence[Job],
    own: Sequence[Job],
    chain: Chain,
    maker: Chain,
    steps: int,
    seconds: Mapping[str, Duration | None],
) -> PlannedStage:
    """Plan one stage of a cell, or all its sample sets or measurements.

    Args:
        stage: the stage's name.
        name: of what it makes, where a cell has several.
        members: the jobs that make it.
        own: those that are to do and belong to no earlier cell.
        chain: the cell's chain.
        maker: the chain of the cell that makes it, whose method may call the same F by another name.
        steps: training steps of the method.
        seconds: estimates of jobs.
    """
    total: Duration | None = NOTHING
    for job in own:
        one = seconds[job.id]
        total = None if total is None or one is None else total + one
    state = "to do" if own else "shared"
    if all(job.state == STORED for job in members):
        state = "stored"
    whole = [job for job in members if job.address.part < 0]
    what = {
        "base": lambda: f"base {_base_recipe_steps(chain):,} steps",
        "replay": lambda: f"{name} {_count_of_set(maker, name):,} images",
        "fisher": lambda: f"fisher {dict(maker.fisher_fields())[name].n:,} samples",
        "forget": lambda: f"forget {steps:,} steps" if steps else "forget",
        "samples": lambda: f"samples {_count_images(chain.task):,} images",
        "measure": lambda: f"{len(whole)} metrics",
    }[stage]()
    unfinished = [job for job in whole if job.state == TO_DO]
    if stage == "measure" and own and 0 < len(unfinished) < len(whole):
        what = f"{len(unfinished)} of {len(whole)} metrics"
    if stage == "samples" and state == "stored":
        what = "samples"
    return PlannedStage(what, state, total)


def _plan_given_base(chain: Chain) -> PlannedStage:
    """Plan a base model that is not trained here: pretrained or shipped."""
    if chain.task.model:
        state = "here" if has_base(chain.cell) else "missing"
        return PlannedStage(f"base {chain.task.model}", state, NOTHING)
    return PlannedStage("base", "shipped", NOTHING)


def _base_recipe_steps(chain: Chain) -> int:
    """Count the steps of the base model's recipe."""
    return get_family(chain.task.family).get_recipe(chain.task.base).steps


def _count_of_set(chain: Chain, name: str) -> int:
    """Count the images of a fixed set."""
    fixed = chain.sets.fixed_set(name)
    return 0 if fixed is None else len(fixed.conditions)


def _estimate(job: Job, chain: Chain, times: StageTimes, steps: int) -> Duration | None:
    """Estimate the seconds of a job; the parts of a stage share its time, and joining them takes none."""
    task, cell = chain.task, chain.cell
    stage, name, _, part, _ = job.address
    if part < 0 and any("#" in id for id in job.needs if id.startswith(job.id)):
        return NOTHING
    if stage == "base":
        return times.train_base(task)
    if stage == "replay":
        return _share(times.draw_images(task, _count_of_set(chain, name)), job)
    if stage == "fisher":
        stage_inputs = {} if job.stage is None else job.stage.inputs
        return _share(times.estimate_fisher(task, stage_inputs), job)
    if stage == "forget":
        return times.forget(task, cell.method, cell.keyed_fields(), steps)
    if stage == "samples":
        drawn_by = "" if job.address.of_base else cell.method
        return _share(times.draw_images(task, sampling.count_images(task, name), drawn_by), job)
    return times.measure(chain, [name])


def estimate_jobs(device: str) -> Weigh:
    """Return a function that estimates the seconds of a run's jobs, to begin with what takes longest.

    Only their ratios matter, so that this machine's speed is not probed.
    """
    times = replace(read_times(Store(store_folder()), device))
    vars(times)["speed"] = 1.0

    def weigh(job: Job, chain: Chain) -> float:
        if job.address.stage in ("judge", "result"):
            return 0.0
        steps = _count_steps(chain.task.family, chain.cell.fields)
        duration = _estimate(job, chain, times, steps)
        return 0.0 if duration is None else duration.middle

    return weigh


def _share(duration: Duration | None, job: Job) -> Duration | None:
    """Give a part's share of its stage's time."""
    if duration is None or job.address.part < 0:
        return duration
    return duration * (1 / job.parts)


def _count_steps(family: str, values: Mapping[str, Any]) -> int:
    """Count a method's training steps: its own `steps`, or those of the base recipe; 0 if neither."""
    if "steps" in values:
        return int(values["steps"])
    return get_family(family).get_recipe(values["recipe"]).steps if "recipe" in values else 0
