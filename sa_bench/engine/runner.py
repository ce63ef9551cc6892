"""Run cells, one after another or side by side, so that one failure never takes the others down."""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, cast

from sa_bench.contracts import SMOKE_MODEL, ignore_event, result_values
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
from sa_bench.results.bundles import SOURCE
from sa_bench.results.files import CLAIM, SCHEMA, write_result
from sa_bench.results.provenance import command_line, provenance
from sa_bench.results.schema import ResultRow, TrainingValues, ValuesOfWords
from sa_bench.results.threats import threat_model
from sa_bench.scoring.cards import judge_card

Part = tuple[int, int]
"""Which share of a run's cells, counted from 1, and of how many."""
Report = Callable[[str, str, int, int], None]
"""report(cell name, stage, done, total)"""


def run_cell(
    cell: Cell, store: Store, out: Path, command: str, report: Report, device: str = "cpu"
) -> ResultRow:
    """Run one cell and write `out/<cell>/result.json`; a failure gives a result too, `failed`."""
    folder = out / cell.name
    try:
        with name_missing_extra(f"{cell.task.name} by {cell.method}"):
            result = _measure_cell(cell, store, folder, command, report, device)
        write_result(folder, result)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        description = _describe_error(error)
        result = blank_result(cell, command, device)
        result["status"], result["error"] = "failed", description
        result["exit_code"] = getattr(error, "exit_code", 1)
        with contextlib.suppress(CellFailed):  # on a full disk only the terminal shows the error
            if not isinstance(error, SaBenchError):
                write_atomic(folder / "error.log", traceback.format_exc().encode())
                result["error"] = f"{description} (details: {folder / 'error.log'})"
            write_result(folder, result)
    return result


def _describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    text = " ".join(make_visible(error).split()) or "no message"
    if is_out_of_memory(error):
        return f"{NO_MEMORY} ({text})"
    return text if isinstance(error, SaBenchError) else f"{type(error).__name__}: {text}"


def blank_result(cell: Cell, command: str, device: str = "cpu") -> ResultRow:
    """Build the result of a cell before anything is measured."""
    method = registry.get_method(cell.method)
    plug_ins = registry.describe_sources(cell.code)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
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
        **_find_values_of_words(cell),
        "error": None,
        "concept": cell.task.classes[cell.task.concept],
        "task_values": result_values(cell.task),
        "summary": registry.find("method", cell.method).summary,
        "measurements": [],
        "flags": [],
        "cost": {},
        "artifacts": {},
        "trainings": [],
        "provenance": {
            **provenance(command, {}, device),
            "cell_command": cell_command(cell),
            "started": started,
            "finished": started,
            "plug_ins": plug_ins,
            "precision": {},
        },
    }


def _find_values_of_words(cell: Cell) -> ValuesOfWords:
    """Look up the numbers behind fields that are words.

    Returns:
        `{"stands_for": {"level": {...}}}`; {} if the method has no such field.
    """
    tables = registry.get_method(cell.method).stands_for
    values = {
        field: table[cell.fields[field]]
        for field, table in tables.items()
        if cell.fields[field] in table
    }
    return {"stands_for": values} if values else {}


def _measure_cell(
    cell: Cell, store: Store, folder: Path, command: str, report: Report, device: str
) -> ResultRow:
    """Run the stages of a cell, measure it, and copy its files into its folder."""
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
    measurements, scores = measure_all(chain, subject, base)
    result["measurements"] = measurements
    result["flags"] = registry.plug_in_remarks(cell.code)
    result["flags"] += [
        f"{r['name']}: {warning}"
        for r in measurements
        if (warning := (r["extra"] or {}).get("warning"))
    ]
    is_toy = [judge_card(name).get("network") == "smoke" for name in cell.task.judges]
    if any(is_toy) or cell.task.model == SMOKE_MODEL:
        result["flags"].append(
            "smoke run: a trial of the code with toy networks; its numbers mean nothing"
        )
    if data_note := datasets.data_remark(cell.task.dataset):
        result["flags"].append(data_note)
    result["cost"] = chain.cost
    sets = {name: chain.samples(name) for name in sampling.set_names(cell.task)}
    result["flags"] += find_flags(chain, sets)
    result["artifacts"] = {
        "model": chain.model_content,
        "base": chain.base.content,
        "samples": {name: artifact.content for name, artifact in sets.items()},
    }
    if trained_judges := [
        name for name in cell.task.judges if judge_card(name)["kind"] == "trained"
    ]:
        result["artifacts"]["judges"] = {name: judges.load(name).card for name in trained_judges}
    result["trainings"] = cast(list[TrainingValues], chain.trainings)
    result["provenance"]["precision"] = chain.precision
    result["provenance"]["assets"] = {
        "base": chain.base.content,
        **{
            name: card
            for m in measurements
            for name, card in (m["fingerprint"].get("judges") or {}).items()
        },
    }
    registry.write_sources(cell.code, folder / SOURCE)
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


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    out: Path,
    report: Report,
    finished: Callable[[ResultRow], None],
    jobs: int = 1,
    device: str = "cpu",
) -> list[ResultRow]:
    """Run all cells, `jobs` at a time, and return their results in the given order.

    Every process uses one thread: two processes with two threads each were measured to be slower
    than one. If a worker is killed (out of memory, say), the cells in work at that time are
    repeated once, each alone.
    """
    command, result_of_cell = command_line(), {}

    def keep(cell: Cell, result: ResultRow) -> None:
        result_of_cell[cell.id] = result
        finished(result)

    cells_left = list(cells)
    if jobs > 1 and len(cells) > 1:
        work = (store.root, out, command, device)
        try:
            lost = _run_in_processes(cells, jobs, work, report, keep)
            while lost:  # one process takes them in their order
                lost = _run_in_processes(lost, 1, work, report, keep)
                if lost:
                    keep(lost[0], _record_lost(lost[0], out, command))
                    lost = lost[1:]
        except NoProcesses as error:
            print_notice(
                f"no further process can be started here ({error}): going on without --jobs, one cell at a time"
            )
        cells_left = [cell for cell in cells if cell.id not in result_of_cell]
    for cell in cells_left:
        keep(cell, run_cell(cell, store, out, command, report, device))
    for cell in cells:  # at the end, since the base's images serve every cell of the run
        if not cell.task.keep_images:
            _drop_images(cell, store)
    return [result_of_cell[cell.id] for cell in cells]


class NoProcesses(Exception):
    """The system cannot start a further process."""


def _drop_images(cell: Cell, store: Store) -> None:
    """Delete the base's images of c_f."""
    from sa_bench.engine.stages import Chain

    with contextlib.suppress(SaBenchError):
        Chain(store, cell, ignore_event).drop_images(base=True)


def _run_in_processes(
    cells: Sequence[Cell],
    jobs: int,
    work: tuple[Path, Path, str, str],
    report: Report,
    keep: Callable[[Cell, ResultRow], None],
) -> list[Cell]:
    """Run cells in `jobs` processes, and return those that are not done since a process was killed.

    They are returned in their order; of a single process the first is the one that was in work.
    """
    context, lost = _find_process_context(work[-1]), set()
    queue = context.Queue()  # no Manager: its process would outlive a killed run
    settings = (queue, registry.get_plug_ins(), dict(os.environ))
    with ProcessPoolExecutor(jobs, context, _start_worker, settings) as pool:
        try:
            with (
                _hold_back_ctrl_c()
            ):  # workers inherit it, since the terminal sends them Ctrl-C too
                waiting = {pool.submit(_work, cell, *work): cell for cell in cells}
            while waiting:
                done, _ = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    report(*queue.get())
                for future in done:
                    cell = waiting.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.add(cell.id)
                    else:
                        keep(cell, future.result())
        except (KeyboardInterrupt, NoProcesses):
            _kill_workers(pool)  # no need to wait for whole cells: the store resumes them
            raise
    return [cell for cell in cells if cell.id in lost]


def _find_process_context(device: str) -> Any:
    """Find how workers start: as forks of one process that has imported torch, if that is possible.

    It takes seconds to import, and `torch._dynamo`, which every optimiser imports, as long again. A
    GPU's workers start afresh, since a fork cannot use CUDA once anything that was imported has
    asked for it.
    """
    methods = multiprocessing.get_all_start_methods()
    if device != "cpu" or "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sa_bench.engine.stages", "torch._dynamo"])
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


def _kill_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the workers of `pool` and drop the cells that wait."""
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in multiprocessing.active_children():
        worker.kill()


def _record_lost(cell: Cell, out: Path, command: str) -> ResultRow:
    """Write the result of a cell whose process was killed even when it ran alone."""
    reason = (
        "its process was killed, also when it ran alone (out of memory? in a script, is the call under "
        "`if __name__ == '__main__':`?); the same command resumes"
    )
    result = blank_result(cell, command)
    result["status"], result["error"] = "failed", reason
    result["exit_code"] = CellFailed.exit_code
    write_result(out / cell.name, result)
    return result


_queue: Any = None


def _start_worker(queue: Any, plug_ins: registry.PlugIns, environment: dict[str, str]) -> None:
    """Set up a worker process: progress queue, one thread, plug-ins, the run's environment."""
    global _queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()  # a forked worker has that of the first run of the calling process
    os.environ.update(environment)
    import torch

    _queue = queue
    queue.cancel_join_thread()  # progress that nobody reads any more must not hold a worker back
    torch.set_num_threads(1)
    registry.adopt(plug_ins)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when its parent is killed; it would wait for work forever otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(cell: Cell, root: Path, out: Path, command: str, device: str) -> ResultRow:
    return run_cell(cell, Store(root), out, command, lambda *event: _queue.put(event), device)


def exit_code(results: Sequence[ResultRow]) -> int:
    """Compute the exit code: 0 if all are done, 3 if every failure is a missing asset, else 1."""
    failed = [r for r in results if r["status"] != "done"]
    if not failed:
        return 0
    if all(r.get("exit_code") == MissingAsset.exit_code for r in failed):
        return MissingAsset.exit_code
    return CellFailed.exit_code


def usable_jobs(jobs: int) -> int:
    """Limit `jobs` to the machine's processors.

    Raises:
        SaBenchError: `jobs` is below 1.
    """
    if jobs < 1:
        raise SaBenchError(f"--jobs {jobs}: at least 1.")
    return min(jobs, max(1, os.cpu_count() or 1))
