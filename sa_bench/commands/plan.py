"""`plan`: what a run would do, from what the store already has. Runs nothing, downloads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from sa_bench.analysis.pairwise import FEWEST
from sa_bench.commands.doctor import plan_lines
from sa_bench.contracts import Task, key_values
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, MissingExtra
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest
from sa_bench.core.untrusted_text import read_json
from sa_bench.data import datasets
from sa_bench.data.assets.shipped import variance_card
from sa_bench.engine.cells import Cell, title_cells
from sa_bench.engine.fingerprint import fingerprint
from sa_bench.engine.measure import Subject, measure_inputs
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models
from sa_bench.results import dose
from sa_bench.scoring import requirements, sampling
from sa_bench.statistics import detectable

LISTED = 30  # cells that are listed stage by stage; of more, a line for each setting
PER_PARAMETER = 7 * 4  # bytes in training: weight, gradient, two moments, θ*, F, the replay copy
LIBRARIES = 600  # MiB that torch and its friends take before any model


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a cell's chain, and what is left to do of it."""

    what: str  # `2,000 steps`
    state: str  # `shipped`, `stored`, `shared` with an earlier cell, or `to do`
    seconds: float | None  # CPU seconds still to spend; None: never measured here


def describe_plan(cells: Sequence[Cell], jobs: int) -> str:
    """The cells stage by stage with what is shipped or stored, then time, memory and disk.

    Times are measured: the median second a step, a sample or a measurement of what this store holds from
    earlier runs on this machine. What was never run here is said to be unknown, not guessed.
    """
    store = Store(store_folder())
    history, claimed, titles = _history(store), set(), title_cells(cells)
    scales = ", ".join(dict.fromkeys(cell.scale for cell in cells))
    walked = {
        c.id: list(_walk_chain(Chain(store, c, lambda *event: None), history, claimed))
        for c in cells
    }
    total = sum(s.seconds or 0.0 for stages in walked.values() for s in stages)
    unknown = sum(any(s.seconds is None for s in stages) for stages in walked.values())
    lines = [f"{len(cells)} cell(s) at scale {scales}:"]
    if len(cells) <= LISTED:
        lines += [
            f"  {titles[id]}: {' · '.join(map(_text, stages))}" for id, stages in walked.items()
        ]
    else:
        lines += _grouped(titles, walked)
    share = min(jobs, len(cells))
    estimate = f"about {_minutes(total / share)} with --jobs {jobs}"
    if unknown:
        estimate += f", without {unknown} cell(s) of which a stage never ran on this machine"
    if unknown == len(cells) and not total:
        estimate = "unknown: nothing like it has run on this machine yet (try --scale quick first)"
    parameters = _parameters(Chain(store, cells[0], lambda *event: None))
    images = max(_images(c.task) * prod(datasets.image_shape(c.task)) for c in cells)
    disk = len(cells) * (2 * 4 * parameters + 4 * images) / 2**20
    free = shutil.disk_usage(_existing(store.root)).free / 2**30
    lines += [
        "",
        f"time:   {estimate}",
        f"memory: {_memory(history, parameters)} a process ({parameters:,} parameters), {share} process(es)",
        *_attacks(cells, history),
        *_detectable(cells),
        *plan_lines({c.task.name: c.task for c in cells}.values()),
        f"disk:   about {disk:.0f} MiB in the store and the run folder; {free:.0f} GiB free at {store.root}",
    ]
    return "\n".join(lines)


def _grouped(titles: Mapping[str, str], walked: Mapping[str, list[PlannedStage]]) -> Iterator[str]:
    """One line for all bases and seeds of a setting."""
    groups: dict[str, list[list[PlannedStage]]] = {}
    for id, stages in walked.items():
        groups.setdefault(titles[id].rpartition(" (base ")[0], []).append(stages)
    for title, found in groups.items():
        left = [stages for stages in found if any(s.state == "to do" for s in stages)]
        unknown = sum(any(s.seconds is None for s in stages) for stages in left)
        seconds = sum(s.seconds or 0.0 for stages in left for s in stages)
        said = f"{len(found)} cell(s), {len(left)} to do"
        said += f", about {_minutes(seconds)} of CPU" if len(left) > unknown else ""
        yield f"  {title}: {said}" + (f", {unknown} of unknown time" if unknown else "")


def _parameters(chain: Chain) -> int:
    """Of the network that is trained; of a pretrained one that is not here, Stable Diffusion 1.x's."""
    if not chain.task.model:
        return sum(p.numel() for p in chain.architecture().net.parameters())
    from sa_bench.models.scopes import SD_1, memory

    config = chain.base.file / "unet" / "config.json" if _here(chain) else None
    known = read_json(config) if config is not None and config.is_file() else SD_1
    return memory(known)["weights"] // 4


def _here(chain: Chain) -> bool:
    """Whether the pretrained base is on this machine."""
    try:
        return bool(chain.base.content)
    except MissingExtra:
        raise
    except MissingAsset:
        return False


def _images(task: Task) -> int:
    return sum(sampling.count_images(task, name) for name in sampling.set_names(task))


def _detectable(cells: Sequence[Cell]) -> Iterator[str]:
    """What so many runs could tell, from how much differences varied on the benchmark's own board."""
    known = variance_card()
    for task in dict.fromkeys(
        c.task.name for c in cells if c.scale == "full" and c.task.name in known
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
        parts = []
        for name, facts in known[task].items():
            least = detectable(
                facts["base"], facts["seed"], bases, seeds, comparisons=len(known[task])
            )
            if least is not None:
                rate = facts["unit"] in ("rate", "probability")
                text = (
                    f"{100 * least:.1f} points"
                    if rate
                    else f"{least:.2f} {facts['unit'] or ''}".strip()
                )
                parts.append(
                    f"{name} {'none that a rate can have' if rate and least > 1 else text}"
                )
        scope = "" if bases > 1 else ", on this base model alone"
        found = f"differences from {', '.join(parts)} on (80 % power{scope})"
        yield f"tells:  {task}, {bases} base(s) x {seeds} seed(s): {found}"


def _attacks(cells: Sequence[Cell], history: History) -> Iterator[str]:
    """What the attack without a judge is given, beside the published one, and what that costs for each model."""
    for task in {
        c.task.name: c.task for c in cells if "recovery_excess" in c.task.metrics
    }.values():
        given, number = dose.recovery_dose(task), dose.count_fits(task)
        seconds = _times(history, _fit_name(key_values(task.sampler)), number * given["samples"])
        took = "time unknown" if seconds is None else f"about {_minutes(seconds)} a model"
        yield f"attack: {task.name}, {number} fit(s) of {dose.describe_dose(given)}; {took}"


def _memory(history: History, parameters: int) -> str:
    """What scoring was seen to take here, else an estimate from the parameters alone."""
    least = LIBRARIES + parameters * PER_PARAMETER / 2**20
    if history.get("peak", 0.0) > least:
        return f"up to {history['peak']:,.0f} MiB, as seen here,"
    return f"about {least:,.0f} MiB, more for scoring at scale full,"


def _text(stage: PlannedStage) -> str:
    if stage.state != "to do":
        return f"{stage.what} {stage.state}"
    return f"{stage.what} {'time unknown' if stage.seconds is None else _minutes(stage.seconds)}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


History = Mapping[str, float]


def _walk_chain(
    chain: Chain, history: History, claimed: set[tuple[str, str]]
) -> Iterator[PlannedStage]:
    """Walk the chain's stages in order; `claimed` are those that an earlier cell of the plan will make."""
    cell, task = chain.cell, chain.task

    def state(kind: str, key: str) -> str:
        if chain.store.has(kind, key):
            return "stored"
        if (kind, key) in claimed:
            return "shared"
        claimed.add((kind, key))
        return "to do"

    def planned(what: str, kind: str, key: str, seconds: float | None) -> PlannedStage:
        now = state(kind, key)
        return PlannedStage(what, now, seconds if now == "to do" else 0.0)

    base = _base_stage(chain, history, planned)
    yield base
    if base.state not in (
        "here",
        "shipped",
        "stored",
    ):  # what follows is named by a hash that is not there yet
        chain.assume_base(digest(_unnamed(chain)))
    steps = _steps(task.family, cell.fields)
    *earlier, forget = chain.stages_of_forgetting()
    sampling_time = _sample_name(key_values(task.sampler))
    for stage in (s for s in earlier if s.kind == "fisher"):
        n = stage.inputs["options"]["n"]
        yield planned(
            f"fisher {n:,} samples",
            "fisher",
            stage.key,
            _times(history, _fisher_name(stage.inputs), n),
        )
    forgotten = state("forget", forget.key)
    if steps and forgotten == "to do":
        for stage in (s for s in earlier if s.kind == "replay"):
            n = stage.inputs["n"]
            drawn = planned(
                f"{stage.label} {n:,} images",
                "replay",
                stage.key,
                _times(history, sampling_time, n),
            )
            if drawn.state == "to do":
                yield drawn
    name = _forget_name(cell.method, cell.keyed_fields(), key_values(task.sampler))
    seconds = _times(history, name, steps or 1) if forgotten == "to do" else 0.0
    yield PlannedStage(f"forget {steps:,} steps" if steps else "forget", forgotten, seconds)
    before = [
        state("samples", chain.sample_stage(n, base=True).key) for n in sampling.set_names(task)
    ]
    if forgotten == "stored":
        yield from _scoring(chain, history, state, "to do" not in before and "shared" not in before)
    else:
        yield from _unknown_model(chain, history)
    if "to do" in before:
        yield from (
            replace(s, what=f"base model's {s.what}") for s in _unknown_model(chain, history)
        )


def _base_stage(
    chain: Chain, history: History, planned: Callable[..., PlannedStage]
) -> PlannedStage:
    """The base model: pretrained, shipped, or to be trained."""
    cell, task = chain.cell, chain.task
    if task.model:
        return PlannedStage(f"base {task.model}", "here" if _here(chain) else "missing", 0.0)
    if base_models.find_shipped(task.family, task.dataset, task.base, cell.base_seed):
        return PlannedStage("base", "shipped", 0.0)
    recipe, data = (
        base_models.get_recipe(task.family, task.base),
        datasets.data_content(task.dataset),
    )
    inputs = base_models.base_key_inputs(
        task.family, task.dataset, data, task.base, cell.base_seed, chain.bf16
    )
    seconds = _times(history, f"base step {task.family} {task.base}", recipe.steps)
    return planned(f"base {recipe.steps:,} steps", "base", digest(inputs), seconds)


def _unnamed(chain: Chain) -> dict[str, Any]:
    """What tells a base model that is not there yet from others."""
    task = chain.task
    return {
        "model": task.model,
        "recipe": [task.family, task.dataset, task.base],
        "seed": chain.cell.base_seed,
    }


def _scoring(
    chain: Chain, history: History, state: Callable[[str, str], str], base_sampled: bool
) -> Iterator[PlannedStage]:
    """Sample sets and metrics of a model that is in the store."""
    sets = [
        state("samples", chain.sample_stage(name).key) for name in sampling.set_names(chain.task)
    ]
    if any(now != "stored" for now in sets):
        yield from _unknown_model(chain, history)
        return
    yield PlannedStage("samples", "stored", 0.0)
    metrics = [registry.get_metric(name) for name in chain.task.metrics]
    metrics = [
        m for m in metrics if not requirements.find_missing(m.requires)
    ]  # the others will be n/a
    if (
        base_sampled
    ):  # a measurement is named by the images that it looks at, the base model's among them
        subject = Subject(chain)
        left = [
            m.name
            for m in metrics
            if state("measure", digest(measure_inputs(chain, m, subject))) == "to do"
        ]
    else:
        left = [m.name for m in metrics]
    if left:
        what = f"{len(left)} of {len(metrics)} metrics"
        yield PlannedStage(what, "to do", _scores(chain, history, left))
    else:
        yield PlannedStage(f"{len(metrics)} metrics", "stored", 0.0)


def _unknown_model(chain: Chain, history: History) -> Iterator[PlannedStage]:
    """Sampling and scoring of a model that does not exist yet."""
    task = chain.task
    images = _images(task)
    yield PlannedStage(
        f"samples {images:,} images",
        "to do",
        _times(history, _sample_name(key_values(task.sampler)), images),
    )
    yield PlannedStage(
        f"{len(task.metrics)} metrics", "to do", _scores(chain, history, task.metrics)
    )


def _times(history: History, name: str, count: int) -> float | None:
    return history[name] * count if name in history else None


def _scores(chain: Chain, history: History, metrics: Sequence[str]) -> float | None:
    """Seconds of measurements under these fingerprints or, where there are none yet, under any."""
    total = 0.0
    for name in metrics:
        exact = digest(fingerprint(chain, registry.get_metric(name)))
        seconds = history.get(f"measure {name} {exact}")
        if seconds is None and name == "recovery_excess":  # its cost goes with its dose
            images = dose.count_fits(chain.task) * dose.recovery_dose(chain.task)["samples"]
            seconds = _times(history, _fit_name(key_values(chain.task.sampler)), images)
        elif seconds is None:
            seconds = history.get(f"measure {name}")
        if seconds is None:
            return None
        total += seconds
    return total


def _steps(family: str, values: Mapping[str, Any]) -> int:
    """Training steps of a method, from its own `steps` or the base recipe it follows; 0: none."""
    if "steps" in values:
        return int(values["steps"])
    return base_models.get_recipe(family, values["recipe"]).steps if "recipe" in values else 0


def _history(store: Store) -> dict[str, float]:
    """Median CPU seconds a step, a sample, an image and a measurement, of all that the store holds."""
    found: dict[str, list[float]] = {}
    peaks: list[float] = []
    for stage, meta in store.metas():
        peaks += [peak] if (peak := meta.get("cost", {}).get("peak_mib")) else []
        seconds, inputs = meta.get("cost", {}).get("cpu_s"), meta.get("inputs", {})
        if seconds is not None:
            names, count = _units(stage, inputs)
            for name in names:
                found.setdefault(name, []).append(seconds / max(1, count))
            if inputs.get("metric") == "recovery_excess":
                prints = inputs["fingerprint"]
                images = dose.count_fits(prints) * dose.recovery_dose(prints)["samples"]
                found.setdefault(_fit_name(prints["sampler"]), []).append(seconds / max(1, images))
    history = {name: median(values) for name, values in found.items()}
    return history | ({"peak": max(peaks)} if peaks else {})


def _units(stage: str, inputs: Mapping[str, Any]) -> tuple[list[str], int]:
    if stage == "base":
        return [f"base step {inputs['family']} {_recipe_name(inputs)}"], int(
            inputs["recipe"]["steps"]
        )
    if stage == "fisher":
        return [_fisher_name(inputs)], int(inputs["options"]["n"])
    if stage == "samples":
        return [_sample_name(inputs["sampler"])], len(inputs["rows"])
    if stage == "replay":
        return [_sample_name(inputs["sampler"])], int(inputs["n"])
    if stage == "forget":
        fields = inputs["fields"]
        recipe = (inputs.get("recipes") or {}).get(fields.get("recipe"), {})
        name = _forget_name(inputs["method"], fields, inputs["sampler"])
        return [name], int(fields.get("steps") or recipe.get("steps", 0))
    if stage != "measure":
        return [], 1
    name = f"measure {inputs['metric']}"
    return [name, f"{name} {digest(inputs['fingerprint'])}"], 1


def _sample_name(sampler: Mapping[str, Any]) -> str:
    """Images of one sampler take alike; it tells the families apart."""
    return f"sample image {digest(sampler)}"


def _fit_name(sampler: Mapping[str, Any]) -> str:
    """An image of a fit of c_f's words, forward and back; the sampler tells the models apart."""
    return f"fit image {digest(sampler)}"


def _fisher_name(inputs: Mapping[str, Any]) -> str:
    return f"fisher sample {digest([inputs['sampler'], inputs['options'].get('timesteps', 0)])}"


def _forget_name(method: str, fields: Mapping[str, Any], sampler: Mapping[str, Any]) -> str:
    trainer = [fields["trainer"]] if "trainer" in fields else []
    return f"forget step {method} {digest([sampler, fields.get('batch'), fields.get('recipe'), *trainer])}"


def _recipe_name(inputs: Mapping[str, Any]) -> str:
    recipes = base_models.get_family(inputs["family"]).recipes
    steps = {recipe.steps: name for name, recipe in recipes.items()}
    return steps.get(inputs["recipe"]["steps"], "unknown")
