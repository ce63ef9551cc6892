"""Cells to results: one after another or side by side, one failure never taking the others down."""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sa_bench.contracts import SMOKE_MODEL, result_values
from sa_bench.core import registry
from sa_bench.core.errors import (
    NO_MEMORY,
    CellFailed,
    MissingAsset,
    SaBenchError,
    first_line,
    is_out_of_memory,
    name_missing_extra,
    print_notice,
)
from sa_bench.core.escaping import make_visible
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import Store, copy_atomic, digest, write_atomic
from sa_bench.core.untrusted_text import read_json
from sa_bench.engine.cells import ID, OLD_ID, Cell, cell_command
from sa_bench.results.files import CLAIM, SCHEMA, write_result
from sa_bench.results.provenance import command_line, provenance
from sa_bench.results.threats import threat_model
from sa_bench.scoring.cards import judge_card

Report = Callable[[str, str, int, int], None]
"""report(cell name, stage, done, total)"""


def run_cell(
    cell: Cell, store: Store, out: Path, command: str, report: Report, device: str = "cpu"
) -> dict[str, Any]:
    """Run one cell and write `out/<cell>/result.json`; a failure is a result with status `failed`."""
    folder = out / cell.name
    try:
        with name_missing_extra(f"{cell.task.name} by {cell.method}"):
            result = _measure_cell(cell, store, folder, command, report, device)
        write_result(folder, result)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        result = blank_result(cell, command, device) | {
            "status": "failed",
            "error": _run_one(error),
        }
        result["exit_code"] = getattr(error, "exit_code", 1)
        with contextlib.suppress(CellFailed):  # on a full disk the line on the terminal has to do
            if not isinstance(error, SaBenchError):
                write_atomic(folder / "error.log", traceback.format_exc().encode())
                result["error"] += f" (details: {folder / 'error.log'})"
            write_result(folder, result)
    return result


def _run_one(error: Exception) -> str:
    text = " ".join(make_visible(error).split()) or "no message"
    if is_out_of_memory(error):
        return f"{NO_MEMORY} ({text})"
    return text if isinstance(error, SaBenchError) else f"{type(error).__name__}: {text}"


def blank_result(cell: Cell, command: str, device: str = "cpu") -> dict[str, Any]:
    """What a result says of its cell before anything is measured."""
    method = registry.get_method(cell.method)
    plug_ins = registry.describe_sources(cell.code)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "schema": SCHEMA,
        "task": cell.task.name,
        "task_title": cell.task.title,
        "method": cell.method,
        "fields": dict(cell.fields),
        "seed": cell.seed,
        "base_seed": cell.base_seed,
        "scale": cell.scale,
        "overrides": dict(cell.overrides),
        "control": method.standing == "control",
        "standing": method.standing,
        "threat_model": threat_model(method),
        "cell": cell.id,
        "status": "done",
        **_stands_for(cell),
        "error": None,
        "concept": cell.task.classes[cell.task.concept],
        "task_values": result_values(cell.task),
        "summary": registry.find("method", cell.method).summary,
        "measurements": [],
        "flags": [],
        "cost": {},
        "artifacts": {},
        "provenance": provenance(command, {}, device)
        | {
            "cell_command": cell_command(cell),
            "started": now,
            "finished": now,
            "plug_ins": plug_ins,
            "precision": {},
        },
    }


def _stands_for(cell: Cell) -> dict[str, Any]:
    """The numbers behind a field that is a word, where the method has such: `{"stands_for": {"level": {...}}}`."""
    tables = registry.get_method(cell.method).stands_for
    values = {
        field: table[cell.fields[field]]
        for field, table in tables.items()
        if cell.fields[field] in table
    }
    return {"stands_for": values} if values else {}


def _measure_cell(
    cell: Cell, store: Store, folder: Path, command: str, report: Report, device: str
) -> dict[str, Any]:
    from sa_bench.data import datasets
    from sa_bench.engine.flags import find_flags
    from sa_bench.engine.measure import Subject, measure_all
    from sa_bench.engine.stages import Chain
    from sa_bench.scoring import judges, sampling

    registry.require_unchanged(cell.code)
    result = blank_result(cell, command, device)
    chain = Chain(
        store, cell, lambda stage, done, total: report(cell.name, stage, done, total), device
    )
    subject, base = Subject(chain), Subject(chain, base=True)
    rows, scores = measure_all(chain, subject, base)
    result["measurements"] = rows
    result["flags"] = registry.plug_in_remarks(cell.code)
    result["flags"] += [
        f"{r['name']}: {warning}" for r in rows if (warning := (r["extra"] or {}).get("warning"))
    ]
    toys = [judge_card(name).get("network") == "smoke" for name in cell.task.judges]
    if any(toys) or cell.task.model == SMOKE_MODEL:
        result["flags"].append(
            "smoke run: a trial of the code with toy networks; its numbers mean nothing"
        )
    if said := datasets.data_remark(cell.task.dataset):
        result["flags"].append(said)
    result["cost"] = chain.cost
    sets = {name: chain.samples(name) for name in sampling.set_names(cell.task)}
    result["flags"] += find_flags(chain, sets)
    result["artifacts"] = {
        "model": chain.model_content,
        "base": chain.base.content,
        "samples": {name: artifact.content for name, artifact in sets.items()},
    }
    if trained := [name for name in cell.task.judges if judge_card(name)["kind"] == "trained"]:
        result["artifacts"]["judges"] = {name: judges.load(name).card for name in trained}
    result["provenance"]["precision"] = chain.precision
    result["provenance"]["assets"] = {
        "base": chain.base.content,
        **{
            name: card
            for m in rows
            for name, card in (m["fingerprint"].get("judges") or {}).items()
        },
    }
    for name, path in scores.items():
        copy_atomic(path, folder / "scores" / f"{name}.parquet")
    for name, artifact in sets.items():
        if name in ("forget", "families") and not cell.task.keep_images:
            continue
        copy_atomic(artifact.path / f"{name}.safetensors", folder / f"{name}.safetensors")
        base_set = chain.samples(name, base=True).path / f"{name}.safetensors"
        copy_atomic(base_set, folder / f"{name}-base.safetensors")
    copy_atomic(chain.forgotten.path / "model.safetensors", folder / "model.safetensors")
    if not cell.task.keep_images:
        chain.drop_images()
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result["provenance"]["finished"] = finished
    return result


def prepare(out: Path, cells: Sequence[Cell], overwrite: bool) -> None:
    """Claim the run folder: the same cells resume, others are refused unless `overwrite`.

    Raises:
        SaBenchError: the folder holds another run, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise SaBenchError(f"--out {out} is a file; give a folder.")
    wanted = {"schema": SCHEMA, "cells": [cell.name for cell in cells]}
    manifest = out / "run.json"
    with hold_lock(
        out / CLAIM, f"the run folder {out}"
    ):  # of two that come at once the second sees the first's claim
        if manifest.exists() and not overwrite:
            try:
                claimed = read_json(manifest)["cells"]
            except (ValueError, KeyError, TypeError) as error:
                raise SaBenchError(
                    f"{manifest} is damaged; add --overwrite or choose another --out."
                ) from error
            if not _same_cells(claimed, wanted["cells"]):
                raise SaBenchError(
                    f"{out} holds another run ({len(claimed)} cells). Choose another --out, or add --overwrite to "
                    "replace its list of cells (their folders stay)."
                )
        write_atomic(manifest, (json.dumps(wanted, indent=1) + "\n").encode())


def _same_cells(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a run folder's list of cells is `wanted`; names of before end in the first digits of today's ids."""
    cut = [
        new[: len(old)] if len(new) - len(old) == ID - OLD_ID else new
        for old, new in zip(names, wanted, strict=False)
    ]
    return len(names) == len(wanted) and list(names) == cut


def default_out_folder(cells: Sequence[Cell]) -> Path:
    """runs/<tasks>-<scale>-<hash>: the same resolved command finds its own folder again."""
    tasks = "+".join(dict.fromkeys(cell.task.name for cell in cells))
    return Path("runs") / f"{tasks}-{cells[0].scale}-{digest([c.id for c in cells])[:6]}"


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    out: Path,
    report: Report,
    finished: Callable[[dict[str, Any]], None],
    jobs: int = 1,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Run all cells, `jobs` at a time, and return their results in the given order.

    Every process uses one thread: two processes with two threads each were seen to be slower than one. If a
    worker is killed (out of memory, say), what it and its neighbours were at goes on alone, once.
    """
    command, by_cell = command_line(), {}

    def keep(cell: Cell, result: dict[str, Any]) -> None:
        by_cell[cell.id] = result
        finished(result)

    left = list(cells)
    if jobs > 1 and len(cells) > 1:
        work = (store.root, out, command, device)
        try:
            for cell in _side_by_side(cells, jobs, work, report, keep):
                if _side_by_side([cell], 1, work, report, keep):
                    keep(cell, _record_lost(cell, out, command))
        except NoProcesses as error:
            print_notice(
                f"no further process can be started here ({error}): going on without --jobs, one cell at a time"
            )
        left = [cell for cell in cells if cell.id not in by_cell]
    for cell in left:
        keep(cell, run_cell(cell, store, out, command, report, device))
    for cell in cells:  # the base's serve every cell of the run
        if not cell.task.keep_images:
            _drop_images(cell, store)
    return [by_cell[cell.id] for cell in cells]


class NoProcesses(Exception):
    """The system starts no further process."""


def _drop_images(cell: Cell, store: Store) -> None:
    from sa_bench.engine.stages import Chain

    with contextlib.suppress(SaBenchError):
        Chain(store, cell, lambda *event: None).drop_images(base=True)


def _side_by_side(
    cells: Sequence[Cell],
    jobs: int,
    work: tuple[Path, Path, str, str],
    report: Report,
    keep: Callable[[Cell, dict[str, Any]], None],
) -> list[Cell]:
    """Run cells in `jobs` processes; returns those that were lost because a process was killed."""
    context, lost = multiprocessing.get_context("spawn"), []
    queue = context.Queue()  # no Manager: its process would outlive a killed run
    with ProcessPoolExecutor(
        jobs, context, _start_worker, (queue, registry.get_plug_ins())
    ) as pool:
        try:
            with (
                _ctrl_c_held_back()
            ):  # workers inherit it: the terminal sends Ctrl-C to them as well
                waiting = {pool.submit(_work, cell, *work): cell for cell in cells}
            while waiting:
                done, _ = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    report(*queue.get())
                for future in done:
                    cell = waiting.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(cell)
                    else:
                        keep(cell, future.result())
        except (
            KeyboardInterrupt,
            NoProcesses,
        ):  # do not wait for whole cells: the store resumes them
            _end(pool)
            raise
    return lost


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Start processes that never see Ctrl-C; one that comes meanwhile is raised here afterwards.

    A worker that is still importing would answer with a traceback, as would one whose start was cut short.
    What cannot be started is NoProcesses.
    """
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # only there Ctrl-C is raised
    handler = (
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number)) if main else None
    )
    masks = hasattr(signal, "pthread_sigmask")  # processes inherit the mask; Windows has none
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    except (OSError, RuntimeError) as error:  # `can't start new thread`, EAGAIN
        raise NoProcesses(first_line(error)) from error
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


def _end(pool: ProcessPoolExecutor) -> None:
    """Kill the workers of `pool` and forget what waits."""
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in multiprocessing.active_children():
        worker.kill()


def _record_lost(cell: Cell, out: Path, command: str) -> dict[str, Any]:
    """The result of a cell whose process was killed even when it ran alone."""
    reason = (
        "its process was killed, also when it ran alone (out of memory? in a script, is the call under "
        "`if __name__ == '__main__':`?); the same command resumes"
    )
    result = blank_result(cell, command) | {
        "status": "failed",
        "error": reason,
        "exit_code": CellFailed.exit_code,
    }
    write_result(out / cell.name, result)
    return result


_queue: Any = None


def _start_worker(queue: Any, plug_ins: registry.PlugIns) -> None:
    global _queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    _queue = queue
    queue.cancel_join_thread()  # progress that nobody reads any more must not hold a worker back
    torch.set_num_threads(1)
    registry.adopt(plug_ins)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(cell: Cell, root: Path, out: Path, command: str, device: str) -> dict[str, Any]:
    return run_cell(cell, Store(root), out, command, lambda *event: _queue.put(event), device)


def exit_code(results: Sequence[Mapping[str, Any]]) -> int:
    """0 all done; 3 if every failure is a missing asset; else 1."""
    failed = [r for r in results if r["status"] != "done"]
    if not failed:
        return 0
    return (
        3
        if all(r.get("exit_code") == MissingAsset.exit_code for r in failed)
        else CellFailed.exit_code
    )


def usable_jobs(jobs: int) -> int:
    """`jobs`, checked against the machine.

    Raises:
        SaBenchError: below 1.
    """
    if jobs < 1:
        raise SaBenchError(f"--jobs {jobs}: at least 1.")
    return min(jobs, max(1, os.cpu_count() or 1))
