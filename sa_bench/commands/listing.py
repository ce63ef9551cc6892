"""`list`: name what there is, read from the files, without importing any of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from sa_bench.commands.completion import FIGURES, KINDS
from sa_bench.core.errors import unknown_name
from sa_bench.core.family_contracts import describe_families
from sa_bench.core.registry import ROOMS, list_broken, list_entries
from sa_bench.core.suite_files import list_suites

ORDER = ("tasks", "methods", "metrics", "suites", "figures")


def list_kinds(kinds: Sequence[str], width: int | None) -> str:
    """List everything of these kinds; of all kinds if none is given.

    Args:
        kinds: of `KINDS`, also without their last letter (`method`).
        width: of the terminal, in characters; None breaks no line.

    Raises:
        SaBenchError: there is no such kind.
    """
    chosen = [kind if kind in KINDS else f"{kind}s" for kind in kinds]
    for given, kind in zip(kinds, chosen, strict=True):
        if kind not in KINDS:
            raise unknown_name("kind", given, KINDS)
    lines = []
    for kind in chosen or ORDER:
        lines += [f"{kind}:", *_format_rows(_list_rows(kind), width)]
    return "\n".join(lines)


def _list_rows(kind: str) -> list[tuple[str, ...]]:
    """List (name, summary) or, for methods, (name, families, summary) of one kind."""
    if kind == "suites":
        return list(list_suites())
    if kind == "figures":
        return list(FIGURES.items())
    component_kind = next(k for k, room in ROOMS.items() if room == kind)
    rows: list[tuple[str, ...]] = []
    for entry in list_entries(component_kind):
        families = (describe_families(entry.supports),) if kind == "methods" else ()
        rows.append((entry.name, *families, entry.summary.replace("`", "")))
    for entry in list_broken(component_kind):
        families = ("",) if kind == "methods" else ()
        rows.append((entry.name, *families, f"(cannot be used: {entry.broken})"))
    return rows


def _format_rows(rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Format rows in columns; the last one, the summary, breaks between words."""
    columns = len(rows[0]) - 1 if rows else 0
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    indent = 2 + sum(w + 2 for w in widths)
    lines = []
    for row in rows:
        start = "  " + "".join(f"{text:<{w}}  " for text, w in zip(row, widths, strict=False))
        room = None if width is None else max(20, width - indent)
        parts = [row[-1]] if room is None else textwrap.wrap(row[-1], room, break_on_hyphens=False)
        lines += [start + (parts or [""])[0], *(" " * indent + part for part in parts[1:])]
    return [line.rstrip() for line in lines]
