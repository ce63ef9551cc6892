"""Names to components. Listing reads the files with `ast`; only what is used is imported."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from sa_bench.contracts import Metric, Task
from sa_bench.errors import SaBenchError, unknown

ROOMS = {"method": "methods", "task": "tasks", "metric": "metrics"}


@dataclass(frozen=True)
class Entry:
    """A component that can be asked for."""

    kind: str
    name: str
    summary: str
    module: str


def room(kind: str) -> Path:
    """The folder of a kind: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / ROOMS[kind]
    return inside if inside.is_dir() else package.parent / ROOMS[kind]


def entries(kind: str) -> list[Entry]:
    """All components of a kind, by name; reads the files, imports nothing."""
    found = []
    for path in sorted(room(kind).glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        names = _task_names(tree) if kind == "task" else [path.stem]
        found += [Entry(kind, n, summary, f"sa_bench.{ROOMS[kind]}.{path.stem}") for n in names]
    return sorted(found, key=lambda e: e.name)


def _task_names(tree: ast.Module) -> list[str]:
    return [
        str(keyword.value.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("Task", "replace")
        for keyword in node.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    ]


def find(kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises:
        SaBenchError: unknown; names the nearest.
    """
    known = {e.name: e for e in entries(kind)}
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def method_class(name: str) -> type[Any]:
    """The method's dataclass: the one class of its module that has `forget`."""
    module = importlib.import_module(find("method", name).module)
    classes = [
        v for v in vars(module).values()
        if isinstance(v, type) and is_dataclass(v) and v.__module__ == module.__name__ and hasattr(v, "forget")
    ]  # fmt: skip
    if len(classes) != 1:
        raise SaBenchError(
            f"{module.__file__} must define one dataclass with `forget`, found {len(classes)}."
        )
    return classes[0]


def task(name: str) -> Task:
    """A task by name."""
    module = importlib.import_module(find("task", name).module)
    return next(v for v in vars(module).values() if isinstance(v, Task) and v.name == name)


def metric(name: str) -> Metric:
    """A metric by name."""
    module = importlib.import_module(find("metric", name).module)
    return next(v for v in vars(module).values() if isinstance(v, Metric) and v.name == name)
