"""`plan`: describe what a run would do, given what the store has. Runs nothing, downloads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain as chain_lists
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

from sa_bench.analysis.pairwise import FEWEST
from sa_bench.commands.doctor import plan_lines
from sa_bench.commands.stage_times import StageTimes, read_times
from sa_bench.contracts import Task, ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, MissingExtra
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest
from sa_bench.core.untrusted_text import read_json
from sa_bench.data import datasets
from sa_bench.data.assets.shipped import variance_card
from sa_bench.engine.cells import Cell, title_cells
from sa_bench.engine.measure import Subject, measure_inputs
from sa_bench.engine.rates import NOTHING, Duration
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models
from sa_bench.models.family import get_family
from sa_bench.results import dose
from sa_bench.scoring import requirements, sampling
from sa_bench.statistics import detectable

LISTED = 30  # up to this number cells are listed stage by stage, above it a line per setting
PER_PARAMETER = 7 * 4  # bytes in training: weight, gradient, two moments, θ*, F, replay copy
LIBRARIES = 600  # MiB that torch and other libraries take before any model


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a cell's chain, and what remains to be done."""

    what: str  # `2,000 steps`
    state: str  # `shipped`, `stored`, `shared` with an earlier cell, or `to do`
    seconds: Duration | None  # of CPU still to spend; None if never measured anywhere


def describe_plan(cells: Sequence[Cell], jobs: int) -> str:
    """Describe what a run of the cells would do; see `make_plan`."""
    return make_plan(cells, jobs)[0]


def make_plan(cells: Sequence[Cell], jobs: int) -> tuple[str, dict[str, list[PlannedStage]]]:
    """Describe cells stage by stage with what is shipped or stored, then time, memory and disk.

    Times are measured: seconds per step, sample or measurement of what this store holds from earlier
    runs on this machine, or of the shipped boards, scaled to this machine (see `stage_times`).

    Returns:
        (text, planned stages by the title of their cell).
    """
    store = Store(store_folder())
    times, claimed, titles = read_times(store), set(), title_cells(cells)
    scales = ", ".join(dict.fromkeys(cell.scale for cell in cells))
    stages_of = {
        c.id: list(_walk_chain(Chain(store, c, ignore_event), times, claimed)) for c in cells
    }
    total = _sum_durations(chain_lists.from_iterable(stages_of.values()))
    unknown = sum(any(s.seconds is None for s in stages) for stages in stages_of.values())
    lines = [f"{len(cells)} cell(s) at scale {scales}:"]
    if len(cells) <= LISTED:
        lines += [
            f"  {titles[id]}: {' · '.join(map(_format_stage, stages))}"
            for id, stages in stages_of.items()
        ]
    else:
        lines += _group_cells(titles, stages_of)
    processes = min(jobs, len(cells))
    parameters = _count_parameters(Chain(store, cells[0], ignore_event))
    images = max(_count_images(c.task) * prod(datasets.image_shape(c.task)) for c in cells)
    disk = len(cells) * (2 * 4 * parameters + 4 * images) / 2**20
    free = shutil.disk_usage(_nearest_folder(store.root)).free / 2**30
    lines += [
        "",
        *_describe_time(total * (1 / processes), jobs, len(cells), unknown, times),
        f"memory: {_describe_memory(times, parameters)} a process ({parameters:,} parameters), {processes} process(es)",
        *_describe_attacks(cells, times),
        *_describe_power(cells),
        *plan_lines({c.task.name: c.task for c in cells}.values()),
        f"disk:   about {disk:.0f} MiB in the store and the run folder; {free:.0f} GiB free at {store.root}",
    ]
    return "\n".join(lines), {titles[id]: stages for id, stages in stages_of.items()}


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
        summary = f"{len(cells)} cell(s), {len(unfinished)} to do"
        summary += (
            f", about {_format_time(total.middle)} of CPU" if len(unfinished) > unknown else ""
        )
        yield f"  {title}: {summary}" + (f", {unknown} of unknown time" if unknown else "")


def _count_parameters(chain: Chain) -> int:
    """Count the parameters of the trained network; for a pretrained one not here, of Stable Diffusion 1.x."""
    if not chain.task.model:
        return sum(p.numel() for p in chain.architecture().net.parameters())
    from sa_bench.models.scopes import SD_1, memory

    config_file = chain.base.file / "unet" / "config.json" if _has_base(chain) else None
    network_config = (
        read_json(config_file) if config_file is not None and config_file.is_file() else SD_1
    )
    return memory(network_config)["weights"] // 4


def _has_base(chain: Chain) -> bool:
    """Tell whether the pretrained base model is on this machine."""
    try:
        return bool(chain.base.content)
    except MissingExtra:
        raise
    except MissingAsset:
        return False


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
            yield f"tells:  {task}: nothing of methods, no two of them share {FEWEST} runs"
            continue
        bases = len({base for base, _ in shared})
        seeds = len(shared) // bases
        differences = []
        for name, variance in cards[task].items():
            smallest = detectable(
                variance["base"], variance["seed"], bases, seeds, comparisons=len(cards[task])
            )
            if smallest is not None:
                rate = variance["unit"] in ("rate", "probability")
                text = (
                    f"{100 * smallest:.1f} points"
                    if rate
                    else f"{smallest:.2f} {variance['unit'] or ''}".strip()
                )
                differences.append(
                    f"{name} {'none that a rate can have' if rate and smallest > 1 else text}"
                )
        scope = "" if bases > 1 else ", on this base model alone"
        summary = f"differences from {', '.join(differences)} on (80 % power{scope})"
        yield f"tells:  {task}, {bases} base(s) x {seeds} seed(s): {summary}"


def _describe_attacks(cells: Sequence[Cell], times: StageTimes) -> Iterator[str]:
    """Yield the dose of the attack without a judge beside the published one, and its cost per model."""
    for task in {
        c.task.name: c.task for c in cells if "recovery_excess" in c.task.metrics
    }.values():
        spent, duration = dose.recovery_dose(task), times.fit_conditions(task)
        cost = (
            "time unknown" if duration is None else f"about {_format_time(duration.middle)} a model"
        )
        yield f"attack: {task.name}, {dose.count_fits(task)} fit(s) of {dose.describe_dose(spent)}; {cost}"


def _describe_time(
    total: Duration, jobs: int, cells: int, unknown: int, times: StageTimes
) -> Iterator[str]:
    """Yield the range of the whole run's time, of how many cells it is, and where its rates are from."""
    if unknown == cells and not total.middle:
        yield "time:   unknown: nothing like it has run on this machine yet (try --scale quick first)"
        return
    without = f", without {unknown} cell(s) of which a stage never ran" if unknown else ""
    yield f"time:   {_format_range(total)} with --jobs {jobs}{without}"
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


def _walk_chain(
    chain: Chain, times: StageTimes, claimed: set[tuple[str, str]]
) -> Iterator[PlannedStage]:
    """Yield the chain's stages in order; `claimed` holds those that an earlier cell will make."""
    cell, task = chain.cell, chain.task

    def state(kind: str, key: str) -> str:
        if chain.store.has(kind, key):
            return "stored"
        if (kind, key) in claimed:
            return "shared"
        claimed.add((kind, key))
        return "to do"

    def planned(what: str, kind: str, key: str, seconds: Duration | None) -> PlannedStage:
        current = state(kind, key)
        return PlannedStage(what, current, seconds if current == "to do" else NOTHING)

    base = _plan_base(chain, times, planned)
    yield base
    # keys of later stages hold the base model's hash, which is not known before it is trained
    if base.state not in ("here", "shipped", "stored"):
        chain.assume_base(digest(_base_description(chain)))
    steps = _count_steps(task.family, cell.fields)
    *earlier, forget = chain.stages_of_forgetting()
    for stage in (s for s in earlier if s.kind == "fisher"):
        n = stage.inputs["options"]["n"]
        yield planned(
            f"fisher {n:,} samples",
            "fisher",
            stage.key,
            times.estimate_fisher(task, stage.inputs),
        )
    forget_state = state("forget", forget.key)
    if steps and forget_state == "to do":
        for stage in (s for s in earlier if s.kind == "replay"):
            n = stage.inputs["n"]
            replay_stage = planned(
                f"{stage.label} {n:,} images",
                "replay",
                stage.key,
                times.draw_images(task, n),
            )
            if replay_stage.state == "to do":
                yield replay_stage
    fields = cell.keyed_fields()
    seconds = times.forget(task, cell.method, fields, steps) if forget_state == "to do" else NOTHING
    yield PlannedStage(f"forget {steps:,} steps" if steps else "forget", forget_state, seconds)
    base_sets = [
        state("samples", chain.sample_stage(n, base=True).key) for n in sampling.set_names(task)
    ]
    if forget_state == "stored":
        yield from _plan_scoring(
            chain, times, state, "to do" not in base_sets and "shared" not in base_sets
        )
    else:
        yield from _plan_new_model(chain, times)
    if "to do" in base_sets:
        yield from (
            replace(s, what=f"base model's {s.what}") for s in _plan_new_model(chain, times)
        )


def _plan_base(
    chain: Chain, times: StageTimes, planned: Callable[..., PlannedStage]
) -> PlannedStage:
    """Plan the base model: pretrained, shipped, or to be trained."""
    cell, task = chain.cell, chain.task
    if task.model:
        return PlannedStage(
            f"base {task.model}", "here" if _has_base(chain) else "missing", NOTHING
        )
    if base_models.find_shipped(task.family, task.dataset, task.base, cell.base_seed):
        return PlannedStage("base", "shipped", NOTHING)
    recipe = get_family(task.family).get_recipe(task.base)
    data = datasets.data_content(task.dataset)
    inputs = base_models.base_key_inputs(
        task.family, task.dataset, data, task.base, cell.base_seed, chain.bf16
    )
    what = f"base {recipe.steps:,} steps"
    return planned(what, "base", digest(inputs), times.train_base(task))


def _base_description(chain: Chain) -> dict[str, Any]:
    """Describe a base model that does not exist yet, so that its key differs from others."""
    task = chain.task
    return {
        "model": task.model,
        "recipe": [task.family, task.dataset, task.base],
        "seed": chain.cell.base_seed,
    }


def _plan_scoring(
    chain: Chain, times: StageTimes, state: Callable[[str, str], str], base_sampled: bool
) -> Iterator[PlannedStage]:
    """Plan the sample sets and metrics of a model that is in the store."""
    set_states = [
        state("samples", chain.sample_stage(name).key) for name in sampling.set_names(chain.task)
    ]
    if any(current != "stored" for current in set_states):
        yield from _plan_new_model(chain, times)
        return
    yield PlannedStage("samples", "stored", NOTHING)
    metrics = [registry.get_metric(name) for name in chain.task.metrics]
    # the others will be n/a
    metrics = [m for m in metrics if not requirements.find_missing(m.requires)]
    # a measurement's key holds the images that it is of, the base model's among them
    if base_sampled:
        subject = Subject(chain)
        unmeasured = [
            m.name
            for m in metrics
            if state("measure", digest(measure_inputs(chain, m, subject))) == "to do"
        ]
    else:
        unmeasured = [m.name for m in metrics]
    if unmeasured:
        what = f"{len(unmeasured)} of {len(metrics)} metrics"
        yield PlannedStage(what, "to do", times.measure(chain, unmeasured))
    else:
        yield PlannedStage(f"{len(metrics)} metrics", "stored", NOTHING)


def _plan_new_model(chain: Chain, times: StageTimes) -> Iterator[PlannedStage]:
    """Plan sampling and scoring of a model that does not exist yet."""
    task = chain.task
    images = _count_images(task)
    yield PlannedStage(f"samples {images:,} images", "to do", times.draw_images(task, images))
    yield PlannedStage(f"{len(task.metrics)} metrics", "to do", times.measure(chain, task.metrics))


def _count_steps(family: str, values: Mapping[str, Any]) -> int:
    """Count a method's training steps: its own `steps`, or those of the base recipe; 0 if neither."""
    if "steps" in values:
        return int(values["steps"])
    return get_family(family).get_recipe(values["recipe"]).steps if "recipe" in values else 0
