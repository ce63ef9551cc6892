"""Run cells, one after another or side by side, so that one failure never takes the others down."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.contracts import ignore_event
from sa_bench.core.errors import CellFailed, MissingAsset, SaBenchError, print_notice
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import Store, digest, write_atomic
from sa_bench.core.untrusted_text import read_json
from sa_bench.engine.cells import ID, OLD_ID, Cell
from sa_bench.engine.placement import place_workers
from sa_bench.results.files import CLAIM, SCHEMA
from sa_bench.results.provenance import command_line
from sa_bench.results.schema import ResultRow

if TYPE_CHECKING:  # torch, which takes seconds to load, is not needed to look at a run's folder
    from sa_bench.engine.driver import Watch
    from sa_bench.engine.graph import Weigh
    from sa_bench.engine.workers import Place, Run, Workers

KEPT_RUNS = 100  # last commands into a folder whose workers run.json names
Part = tuple[int, int]
"""Which share of a run's cells, counted from 1, and of how many."""


def take_share(cells: Sequence[Cell], part: Part | None) -> list[Cell]:
    """Take the i-th of n shares of a run's cells; shares never overlap, and together they are the run."""
    return list(cells) if part is None else list(cells)[part[0] - 1 :: part[1]]


def describe_missing(out: Path) -> str:
    """Describe the cells of a run folder that have no result yet, and the shares that they are of.

    Returns:
        "" if every cell has one, or the folder is no run's.
    """
    try:
        manifest = read_json(out / "run.json")
        names, parts = list(manifest["cells"]), int(manifest.get("parts", 0))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    missing = [i for i, name in enumerate(names) if not (out / name / "result.json").is_file()]
    if not missing:
        return ""
    text = f"{len(missing)} of the {len(names)} cells of {out} have no result yet"
    if not parts:
        return f"{text}: the same command goes on."
    shares = sorted({i % parts + 1 for i in missing})
    return f"{text}: they are of --part {', '.join(f'{i}/{parts}' for i in shares)}."


def prepare(out: Path, cells: Sequence[Cell], overwrite: bool, parts: int | None = None) -> None:
    """Claim the run folder: the same cells resume, others are refused unless `overwrite`.

    `parts` is the number of shares that the cells are divided into, if they are.

    Raises:
        SaBenchError: the folder holds another run or other shares, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise SaBenchError(f"--out {out} is a file; give a folder.")
    new_manifest: dict[str, Any] = {"schema": SCHEMA, "cells": [cell.name for cell in cells]}
    if parts is not None:
        new_manifest["parts"] = parts
    manifest = out / "run.json"
    # With the lock, the second of two simultaneous runs sees the cells of the first.
    with hold_lock(out / CLAIM, f"the run folder {out}"):
        if manifest.exists() and not overwrite:
            try:
                old_manifest = read_json(manifest)
                old_cells, old_parts = old_manifest["cells"], old_manifest.get("parts")
            except (ValueError, KeyError, TypeError) as error:
                raise SaBenchError(
                    f"{manifest} is damaged; add --overwrite or choose another --out."
                ) from error
            if not _same_cells(old_cells, new_manifest["cells"]):
                raise SaBenchError(
                    f"{out} holds another run ({len(old_cells)} cells). Choose another --out, or add --overwrite to "
                    "replace its list of cells (their folders stay)."
                )
            if parts is not None and old_parts not in (None, parts):
                raise SaBenchError(
                    f"{out} is divided into {old_parts} parts, not {parts}: use --part I/{old_parts}, or add "
                    "--overwrite (results stay)."
                )
            if parts is None and old_parts is not None:
                new_manifest["parts"] = old_parts
            if old_manifest.get("runs"):
                new_manifest["runs"] = old_manifest["runs"]
        write_atomic(manifest, (json.dumps(new_manifest, indent=1) + "\n").encode())


def _same_cells(names: Sequence[str], cells: Sequence[str]) -> bool:
    """Tell whether a run folder's list of names is that of `cells`.

    Names written by older versions end in the first digits of today's ids.
    """
    if len(names) != len(cells):
        return False
    for old, new in zip(names, cells, strict=True):
        has_short_id = len(new) - len(old) == ID - OLD_ID
        if old != (new[: len(old)] if has_short_id else new):
            return False
    return True


def default_out_folder(cells: Sequence[Cell]) -> Path:
    """Name the run folder runs/<tasks>-<scale>-<hash>.

    A repeated command finds its folder again.
    """
    tasks = "+".join(dict.fromkeys(cell.task.name for cell in cells))
    return Path("runs") / f"{tasks}-{cells[0].scale}-{digest([c.id for c in cells])[:6]}"


@dataclass(frozen=True)
class Placement:
    """Where the workers of a run are asked to be."""

    device: str = "cpu"
    """`cpu`, `cuda`, or GPUs by name, `cuda:0,cuda:2`."""
    jobs: int | None = 1
    """Number of workers; None takes one for each processor or GPU."""
    mib: int = 0
    """Computed memory of a worker's models and training, in MiB."""
    engine: str = "local"
    """`local` or `ray`."""
    address: str = ""
    """Of the Ray cluster."""
    verbose: bool = False
    """Whether Ray's own lines are shown."""


def choose_workers(run: Run, placement: Placement) -> Workers:
    """Choose who works: this process, several of this machine, or actors on a Ray cluster.

    Raises:
        SaBenchError: the workers do not fit.
    """
    from sa_bench.engine.workers import OneProcess, Processes

    if placement.engine == "ray":
        from sa_bench.engine.ray_workers import Demand, RayWorkers

        demand = Demand(placement.device, placement.jobs, placement.mib)
        return RayWorkers(run, demand, placement.address, placement.verbose)
    devices = place_workers(placement.device, placement.jobs, placement.mib)
    return Processes(run, devices) if len(devices) > 1 else OneProcess(run, devices[0])


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    out: Path,
    report: Watch,
    finished: Callable[[ResultRow], None],
    placement: Placement | None = None,
    workers: Workers | None = None,
    weigh: Weigh | None = None,
) -> list[ResultRow]:
    """Run all cells and return their results in the given order.

    Args:
        cells: the cells of the run.
        store: keeps the artifacts.
        out: the run folder.
        report: called with progress.
        finished: called with each result.
        placement: where workers are; None works in this process, on the CPU.
        workers: who works, in place of `placement`.
        weigh: estimates the seconds of a job, so that the longest chains begin first; None keeps to
            the order of the cells.
    """
    from sa_bench.engine.driver import Driver
    from sa_bench.engine.workers import NoProcesses, OneProcess, Run

    command, placement = command_line(), placement or Placement()
    work = Run(store.root, out, command)
    if workers is None:
        workers = choose_workers(work, placement)
    driver = Driver(cells, store, out, command, report, finished, weigh)
    began = time.monotonic()
    try:
        driver.drive(workers)
    except NoProcesses as error:
        workers.stop()
        print_notice(
            f"no further process can be started here ({error}): going on without --jobs, one cell at a time"
        )
        workers = OneProcess(work, placement.device.partition(",")[0])
        driver.drive(workers)
    _record_workers(out, workers.places, driver.seconds_of_worker, time.monotonic() - began)
    for cell in cells:  # at the end, since the base's images serve every cell of the run
        if not cell.task.keep_images:
            _drop_images(cell, store, workers.places[0].device)
    return [driver.results[cell.id] for cell in cells]


def _record_workers(
    out: Path, places: Sequence[Place], busy: Mapping[int, float], seconds: float
) -> None:
    """Record in run.json where a run's workers were, how long each was at work, and how long it all took."""
    manifest = out / "run.json"
    with hold_lock(out / CLAIM, f"the run folder {out}"):
        if not manifest.is_file():
            return
        values = read_json(manifest)
        workers = [
            {"node": place.node, "device": place.device, "busy_s": round(busy.get(i, 0.0), 1)}
            for i, place in enumerate(places)
        ]
        runs = [*values.get("runs", ()), {"wall_s": round(seconds, 1), "workers": workers}]
        values["runs"] = runs[-KEPT_RUNS:]
        write_atomic(manifest, (json.dumps(values, indent=1) + "\n").encode())


def _drop_images(cell: Cell, store: Store, device: str) -> None:
    """Delete the base's images of c_f, of a run on `device`."""
    from sa_bench.engine.stages import Chain

    with contextlib.suppress(SaBenchError):
        Chain(store, cell, ignore_event, device).drop_images(base=True)


def exit_code(results: Sequence[ResultRow]) -> int:
    """Compute the exit code: 0 if all are done, 3 if every failure is a missing asset, else 1."""
    failed = [r for r in results if r["status"] != "done"]
    if not failed:
        return 0
    if all(r.get("exit_code") == MissingAsset.exit_code for r in failed):
        return MissingAsset.exit_code
    return CellFailed.exit_code
