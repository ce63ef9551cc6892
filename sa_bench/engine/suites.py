"""Suites: the cells of several runs under one name, `run --suite micro-1`, read from a TOML file.

    # The first comment line is what `list` prints.
    [[run]]
    task = ["mnist_0"]
    method = ["sa", "retrain"]
    base_seed = [0, 1, 2]
    seed = [0, 1, 2]
    set = ["task.n_forget=1000"]
    sweep = ["sa.lam=10,100"]

Each `[[run]]` means what the command `run` means with the same options; a cell that several runs
ask for is made once. A suite runs no code unless it names plug-ins (`./mine.py`): then it is
refused until `--trust` says that they were read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.suite_files import find_suite
from sa_bench.core.untrusted_text import read_toml
from sa_bench.engine.cells import Cell, add_cell, resolve

KEYS = {
    "task": str,
    "method": str,
    "base_seed": int,
    "seed": int,
    "sample_seed": int,
    "set": str,
    "sweep": str,
    "metric": str,
}
COUNTED = ("task", "method", "base_seed", "seed", "sample_seed")
MOST = 100_000  # cells that one [[run]] may ask for


def resolve_suite(reference: str, trust: bool = False) -> list[Cell]:
    """Resolve every cell of a suite, in its order, without repeats.

    Args:
        reference: name of a suite, or path of its file.
        trust: True allows the plug-ins that it names to run their code.

    Raises:
        SaBenchError: there is no such suite, `run` would refuse a run in it, it asks for more than
            `MOST` cells, or it names a plug-in without `trust`; names file and run.
    """
    path = find_suite(reference)
    cells: dict[str, Cell] = {}
    for number, run in enumerate(read_runs(path), 1):
        where = f"{path.name}, run {number}"
        scale = run.pop("scale", "full")
        if not trust:
            registry.require_trusted(
                [name for key in ("task", "method", "metric") for name in run.get(key, ())], where
            )
        cell_count = math.prod(len(v) for k in KEYS if k in COUNTED and (v := run.get(k)))
        cell_count *= math.prod(text.count(",") + 1 for text in run.get("sweep", []))
        if cell_count > MOST:
            raise SaBenchError(f"{where}: it asks for {cell_count:,} cells; {MOST:,} at most.")
        try:
            run_cells = resolve(
                run["task"],
                run["method"],
                scale,
                run.get("seed", [0]),
                run.get("base_seed", [0]),
                run.get("set", []),
                run.get("sweep", []),
                run.get("metric", []),
                run.get("sample_seed", [0]),
            )
        except SaBenchError as error:
            raise SaBenchError(f"{where}: {error}") from error
        for cell in run_cells:
            add_cell(cells, cell)
    if not cells:
        raise SaBenchError(f"{path} asks for no cell.")
    return list(cells.values())


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Read the `[[run]]` tables of a suite's file, their keys and types checked.

    Raises:
        SaBenchError: the file is no suite; names file and run.
    """
    try:
        suite = read_toml(path)
    except (OSError, ValueError) as error:
        raise SaBenchError(f"{path} is no suite: {error}.") from error
    runs = suite.pop("run", None)
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise SaBenchError(f"{path} is no suite: it needs [[run]] tables.")
    if suite:
        raise SaBenchError(
            f"{path}: {next(iter(suite))} stands outside of every [[run]]; put it into each that needs it."
        )
    for number, run in enumerate(runs, 1):
        where = f"{path.name}, run {number}"
        if not isinstance(scale := run.get("scale", "full"), str):
            raise SaBenchError(f"{where}: scale must be a text, got {scale!r}.")
        _check_run({key: value for key, value in run.items() if key != "scale"}, where)
    return runs


def _check_run(run: Any, where: str) -> None:
    """Refuse a run without task or method, an unknown key, or a value of another type."""
    if missing := [key for key in ("task", "method") if key not in run]:
        raise SaBenchError(f"{where}: {missing[0]} is missing.")
    for key, value in run.items():
        if key not in KEYS:
            raise unknown_name(f"key of {where}", key, [*KEYS, "scale"])
        if not isinstance(value, list) or not all(type(v) is KEYS[key] for v in value):
            kind = {str: "texts", int: "whole numbers"}[KEYS[key]]
            raise SaBenchError(f"{where}: {key} must be a list of {kind}, got {value!r}.")
