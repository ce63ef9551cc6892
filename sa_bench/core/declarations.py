"""Read what a component declares from its source, without importing it: reports load no torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sa_bench.contracts import Extra
from sa_bench.core import plug_ins, registry
from sa_bench.core.errors import SaBenchError


def list_extras(metric: str, file: str = "") -> Mapping[str, Extra]:
    """List the entries of `extra` that a metric declares for people, by key.

    Args:
        metric: its registered name.
        file: source of a plug-in that this process does not know, as a result names it.

    Returns:
        An empty mapping if the metric is unknown, or declares nothing that can be read.
    """
    extras = _read_metric(metric, file).get("extras")
    if not isinstance(extras, Mapping):
        return {}
    entries = ((k, v) for k, v in extras.items() if isinstance(v, tuple) and 0 < len(v) < 4)
    return {key: Extra(*entry) for key, entry in entries}


def read_requirements(metric: str) -> tuple[str, ...]:
    """Read what a metric requires, without importing it where its file says so in literals."""
    requires = _read_metric(metric, "").get("requires")
    if isinstance(requires, tuple) and all(isinstance(name, str) for name in requires):
        return requires
    return registry.get_metric(metric).requires


def read_axis(metric: str) -> str:
    """Read the words of a metric's axis in figures; "" if it declares none."""
    return str(_read_metric(metric, "").get("axis", ""))


def read_sets(metric: str) -> tuple[str, ...]:
    """Read the sample sets that a metric reads, without importing it."""
    sets = _read_metric(metric, "").get("sets")
    return sets if isinstance(sets, tuple) else ("forget", "retain")


def read_attack(metric: str) -> str:
    """Read what an attacker needs for a metric that is an attack: `service` or `weights`; else ""."""
    return str(_read_metric(metric, "").get("attack", ""))


def title_label(label: str) -> str:
    """Write a row's label as a paper does: `sa lam=1, steps=20 [service]` becomes `SA (λ=1, steps=20) [service]`.

    Methods without a title keep their name.
    """
    remarks = "".join(re.findall(r" [·\[(].*", label, re.DOTALL))
    row = label.removesuffix(remarks)
    name, _, settings = row.partition(" ")
    titles = {entry.name: entry.title for entry in registry.list_entries("method")}
    title = titles.get(name) or name
    settings = re.sub(r"\blam=", "λ=", settings)
    shown = f"{title} ({settings})" if settings else title
    return shown + remarks


def find_control(tasks: str) -> str:
    """Find the control that unlearns nothing and shows no c_f in such tasks (`Method.exposes`).

    One of this package comes before one of a plug-in.

    Returns:
        Its name; "" if there is none.
    """
    entries = [entry for entry in registry.list_entries("method") if entry.exposes == tasks]
    return next((e.name for e in sorted(entries, key=lambda e: e.path is not None)), "")


def _read_metric(name: str, file: str) -> Mapping[str, Any]:
    """Read the literal keywords of a metric's declaration."""
    path = next((find_file(e) for e in registry.list_entries("metric") if e.name == name), None)
    path = path or Path(file)
    path = path / "__init__.py" if file and path.is_dir() else path
    try:
        return _read_keywords(path, name, path.stat().st_mtime_ns) if path.suffix == ".py" else {}
    except (OSError, ValueError, SaBenchError):
        return {}


def find_file(entry: registry.Entry) -> Path:
    """Return the file that defines a component."""
    if entry.path is None:
        stem = entry.module.rpartition(".")[2]
        return registry.component_folder(entry.kind) / f"{stem}.py"
    return entry.path / "__init__.py" if entry.path.is_dir() else entry.path


@lru_cache(maxsize=256)
def _read_keywords(path: Path, name: str, changed: int) -> Mapping[str, Any]:
    """Read the keywords of `@metric(...)` above the function `name` that are literals.

    `changed` is the time of the file's last change: one that is edited is read again.

    Returns:
        An empty mapping if the file has no such function.
    """
    for node in plug_ins.parse(path.read_bytes(), path).body if path.is_file() else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("metric"):
                    return {k.arg: _evaluate(k.value) for k in call.keywords if k.arg}
    return {}


def _evaluate(node: ast.expr) -> Any:
    """Evaluate a literal; None for any other expression."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
