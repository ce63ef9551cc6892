"""Find the files of suites; `sa_bench.engine.suites` reads their cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.registry import component_folder


def folder() -> Path:
    """Folder of the suites that ship."""
    return component_folder("task") / "suites"


def list_suites() -> Iterator[tuple[str, str]]:
    """Yield (name, first sentence of its comment) of every suite that ships."""
    for path in sorted(folder().glob("*.toml")):
        lines = takewhile(
            lambda line: line.startswith("#"), path.read_text(encoding="utf-8-sig").splitlines()
        )
        comment = " ".join(line.lstrip("# ") for line in lines)
        yield path.stem, re.split(r"(?<=\.) (?=[A-Z0-9])", comment)[0]


def find_suite(reference: str) -> Path:
    """Find the file of a suite given by name or path.

    Raises:
        SaBenchError: there is no such suite.
    """
    if reference.endswith(".toml") or "/" in reference:
        if Path(reference).is_file():
            return Path(reference)
        raise SaBenchError(f"There is no suite file at {reference}.")
    suite_names = [name for name, _ in list_suites()]
    if reference not in suite_names:
        raise unknown_name("suite", reference, suite_names, "list suites")
    return folder() / f"{reference}.toml"
