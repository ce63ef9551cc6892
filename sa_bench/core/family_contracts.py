"""Read which model families a method supports from the files, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path


def describe_families(contract: str) -> str:
    """Name the model families that a method supports, by the contract that it asks of a model."""
    families = [name for name, contracts in read_contracts().items() if contract in contracts]
    return "all" if len(families) == len(read_contracts()) else ", ".join(families)


@lru_cache(maxsize=1)
def read_contracts() -> Mapping[str, tuple[str, ...]]:
    """Read the contracts that each model family meets from its file: names of classes, by family."""
    folder = Path(__file__).parents[1] / "models"
    base = _read_assigned(folder / "family.py")
    files = sorted((folder / "families").glob("[a-z]*.py"))
    return {file.stem: _read_assigned(file) or base for file in files}


def _read_assigned(file: Path) -> tuple[str, ...]:
    """Read the names in the tuple that `contracts` is set to in a file; () if it is not."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_contracts = any(isinstance(t, ast.Name) and t.id == "contracts" for t in targets)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and is_contracts:
            return tuple(n.id for n in getattr(node.value, "elts", ()) if isinstance(n, ast.Name))
    return ()
