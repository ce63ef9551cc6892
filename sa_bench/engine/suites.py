"""A suite: the cells of several runs under one name, `run --suite micro-1`. A TOML file.

    # The first comment line is what `list` prints.
    [[run]]
    task = ["mnist_0"]
    method = ["sa", "retrain"]
    base_seed = [0, 1, 2]
    seed = [0, 1, 2]
    set = ["task.n_forget=1000"]
    sweep = ["sa.lam=10,100"]

Each `[[run]]` means what `run` means with the same options; cells that several ask for are made once. Its values run
no code, unless it names plug-ins (`./mine.py`): then it is refused until `--trust` says that they were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.registry import component_folder
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
MOST = 100_000  # cells of a run in it


def folder() -> Path:
    """Where the suites that ship are."""
    return component_folder("task") / "suites"


def list_suites() -> Iterator[tuple[str, str]]:
    """(name, what it is) of every suite that ships."""
    for path in sorted(folder().glob("*.toml")):
        yield path.stem, path.read_text(encoding="utf-8-sig").splitlines()[0].lstrip("# ")


def find_suite(reference: str) -> Path:
    """The file of a suite given by name or path.

    Raises:
        SaBenchError: there is none.
    """
    if reference.endswith(".toml") or "/" in reference:
        if Path(reference).is_file():
            return Path(reference)
        raise SaBenchError(f"There is no suite file at {reference}.")
    known = [name for name, _ in list_suites()]
    if reference not in known:
        raise unknown_name("suite", reference, known)
    return folder() / f"{reference}.toml"


def resolve_suite(reference: str, trust: bool = False) -> list[Cell]:
    """Every cell of a suite, in its order, without repeats.

    Args:
        reference: its name, or the path of its file.
        trust: run the code of the plug-ins that it names.

    Raises:
        SaBenchError: no such suite, a run in it that `run` would refuse, more than `MOST` cells, or a plug-in without
            `trust`; names file and run.
    """
    path = find_suite(reference)
    try:
        whole = read_toml(path)
    except (OSError, ValueError) as error:
        raise SaBenchError(f"{path} is no suite: {error}.") from error
    runs = whole.pop("run", None)
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise SaBenchError(f"{path} is no suite: it needs [[run]] tables.")
    if whole:
        raise SaBenchError(
            f"{path}: {next(iter(whole))} stands outside of every [[run]]; put it into each that needs it."
        )
    found: dict[str, Cell] = {}
    for number, run in enumerate(runs, 1):
        where = f"{path.name}, run {number}"
        scale = run.pop("scale", "full")
        if not isinstance(scale, str):
            raise SaBenchError(f"{where}: scale must be a text, got {scale!r}.")
        _check(run, where)
        if not trust:
            registry.require_trusted(
                [name for key in ("task", "method", "metric") for name in run.get(key, ())], where
            )
        asked = math.prod(len(v) for k in KEYS if k in COUNTED and (v := run.get(k)))
        asked *= math.prod(text.count(",") + 1 for text in run.get("sweep", []))
        if asked > MOST:
            raise SaBenchError(f"{where}: it asks for {asked:,} cells; {MOST:,} at most.")
        try:
            made = resolve(
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
        for cell in made:
            add_cell(found, cell)
    if not found:
        raise SaBenchError(f"{path} asks for no cell.")
    return list(found.values())


def _check(run: Any, where: str) -> None:
    if missing := [key for key in ("task", "method") if key not in run]:
        raise SaBenchError(f"{where}: {missing[0]} is missing.")
    for key, value in run.items():
        if key not in KEYS:
            raise unknown_name(f"key of {where}", key, [*KEYS, "scale"])
        if not isinstance(value, list) or not all(type(v) is KEYS[key] for v in value):
            kind = {str: "texts", int: "whole numbers"}[KEYS[key]]
            raise SaBenchError(f"{where}: {key} must be a list of {kind}, got {value!r}.")
