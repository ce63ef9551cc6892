"""`plan`: what a run would do, from what the store already has. Runs nothing, downloads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from statistics import median
from typing import Any

from sa_bench import bases, registry
from sa_bench.cells import Cell, resolve
from sa_bench.settings import store_folder
from sa_bench.store import Store

STEP_BYTES = 7 * 4  # a parameter in training: weight, gradient, two moments, θ*, F, the replay copy


def plan_text(
    tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], base_seeds: Sequence[int], scale: str,
    sets: Sequence[str], sweeps: Sequence[str], jobs: int,
) -> str:  # fmt: skip
    """The cells with what is shipped or stored, then time, memory and disk.

    Times are measured: the median second a step, and seconds a measurement, of what this store holds from
    earlier runs on this machine. What was never run here is said to be unknown, not guessed.
    """
    cells = resolve(tasks, methods, scale, seeds, base_seeds, sets, sweeps)
    store = Store(store_folder())
    history = _history(store)
    lines, total, unknown = [f"{len(cells)} cell(s) at scale {scale}:"], 0.0, 0
    for cell in cells:
        seconds, facts = _cell(cell, history)
        total += seconds or 0.0
        unknown += seconds is None
        time = "time unknown here" if seconds is None else f"about {seconds:.0f} s"
        lines.append(
            f"  {cell.task.name} × {cell.method} base {cell.base_seed} seed {cell.seed}: {facts}; {time}"
        )
    lines.append("")
    share = min(jobs, len(cells)) or 1
    estimate = f"about {total / share / 60:.1f} minutes with --jobs {jobs}"
    if unknown == len(cells):
        estimate = "unknown: nothing like it has run here yet (try --scale quick first)"
    elif unknown:
        estimate += f", and {unknown} cell(s) of unknown length"
    parameters = sum(p.numel() for p in bases.FAMILIES[cells[0].task.family]().net.parameters())
    memory = 600 + parameters * STEP_BYTES / 2**20
    free = shutil.disk_usage(_existing(store.root)).free / 2**30
    lines += [
        f"time:   {estimate}; stages already in the store cost nothing",
        f"memory: about {memory:.0f} MiB a process ({parameters:,} parameters)",
        f"disk:   about {len(cells) * (4 * parameters * 2 / 2**20 + 3):.0f} MiB; {free:.0f} GiB free at {store.root}",
    ]
    return "\n".join(lines)


def _existing(path: Any) -> Any:
    while not path.exists():
        path = path.parent
    return path


def _history(store: Store) -> dict[str, list[float]]:
    """CPU seconds: a step of each method, a measurement, by what the store's artifacts recorded."""
    found: dict[str, list[float]] = {}
    for stage, key, _, finished in store.entries():
        if not finished or stage not in ("forget", "measure", "fisher", "samples"):
            continue
        meta = store.get(stage, key).meta
        cost = meta.get("cost", {}).get("cpu_s")
        if cost is None:
            continue
        inputs = meta["inputs"]
        if stage == "forget":
            steps = _steps(inputs["method"], inputs["fields"])
            found.setdefault(f"step {inputs['method']}", []).append(cost / max(1, steps))
        else:
            name = inputs.get("metric", stage)
            found.setdefault(f"{stage} {name}", []).append(cost)
    return found


def _steps(method: str, fields: Any) -> int:
    if "steps" in fields:
        return int(fields["steps"])
    if "recipe" in fields:
        return bases.recipe("vae", fields["recipe"]).steps
    return 1


def _cell(cell: Cell, history: dict[str, list[float]]) -> tuple[float | None, str]:
    task = cell.task
    base = bases.shipped(task.family, task.dataset, task.base, cell.base_seed)
    facts = ["base shipped" if base else f"base {task.base} to be trained, or in the store"]
    method = registry.method_class(cell.method)
    if "data" in method.needs:
        facts.append(f"needs {task.dataset} data")
    steps = _steps(cell.method, cell.fields)
    if steps > 1:
        facts.append(f"{steps:,} steps")
    facts.append(
        f"{task.n_forget} + {len(task.retain)} x {task.n_retain} images, {len(task.metrics)} metrics"
    )
    seconds = history.get(f"step {cell.method}")
    scoring = [median(v) for k, v in history.items() if k.startswith("measure ")]
    if seconds is None or not scoring or base is None:
        return None, ", ".join(facts)
    return median(seconds) * steps + sum(scoring), ", ".join(facts)
