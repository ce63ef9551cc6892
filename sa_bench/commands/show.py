"""BibTeX of what a component cites: its `source` names authors and year, references.bib has the entry."""

from __future__ import annotations

import inspect
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name

CITED = re.compile(r"\b([A-Z][\w-]+)(?: et al\.| & [A-Z][\w-]+)? \(?(?:19\d\d|20[0-2]\d)\b")


@lru_cache(maxsize=1)
def load_references() -> dict[str, str]:
    """Key, the first author's name and the year (`heng2023`), to entry."""
    text = (Path(__file__).with_name("references.bib")).read_text(encoding="utf-8")
    parts = re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[{,]", part)[1]: part.strip() for part in parts}


def cited_keys(source: str) -> list[str]:
    """The keys that a source names, in its order: `["heng2023"]` of "Heng & Soh 2023, Eq. 4"."""
    found = [f"{_plain(match[1])}{match[0].strip()[-4:]}" for match in CITED.finditer(source)]
    return list(dict.fromkeys(found))


def cited_bibtex(source: str) -> str:
    """The entries of what a source names; "" where it names nothing that is known."""
    return "\n".join(
        load_references()[key] for key in cited_keys(source) if key in load_references()
    )


def _plain(name: str) -> str:
    """Lower case without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)
    ).lower()


def describe(reference: str) -> str:
    """Documentation, fields with types and defaults, presets and source of a component.

    Raises:
        SaBenchError: no component of that name.
    """
    show = {"method": _method, "task": _task, "metric": _metric}
    return "\n\n".join(
        show[kind](name) + _code(kind, name) for kind, name in find_components(reference)
    )


def task_rows(reference: str, scale: str, sets: Sequence[str]) -> str:
    """What a task asks for, a row an image of all its sets, as CSV (`sa_bench.engine.joining.COLUMNS`).

    Raises:
        SaBenchError: no task, or several, or settings that it does not have.
    """
    found = find_components(reference)
    if [kind for kind, _ in found] != ["task"]:
        what = ", ".join(f"the {kind} {name}" for kind, name in found)
        raise SaBenchError(f"--rows lists the images of one task; {reference} is {what}.")
    from sa_bench.engine.cells import resolve_task, task_overrides
    from sa_bench.engine.joining import format_rows

    return format_rows(resolve_task(found[0][1], scale, task_overrides(sets, "show --rows")))


def _code(kind: str, name: str) -> str:
    """A plug-in's files, all that its key covers; "" for a component of sa_bench."""
    facts = registry.describe_source(kind, name)
    if facts is None:
        return ""
    lines = ["", f"code (sha256 {facts['sha256'][:16]}, part of every key):"]
    lines += [f"  {path}" for path in facts.get("files", [facts["path"]])]
    lines += [f"  not followed, so never kept: {call}" for call in facts.get("unfollowed", [])]
    return "\n" + "\n".join(lines)


def find_components(reference: str) -> list[tuple[str, str]]:
    """(kind, name) of what a name or the path of a plug-in file stands for.

    Raises:
        SaBenchError: no component of that name.
    """
    if registry.is_path(reference):
        kind = registry.detect_kind(Path(reference))
        return [(kind, name) for name in registry.register(kind, reference)]
    known = {e.name: e for kind in registry.ROOMS for e in registry.list_entries(kind)}
    if reference not in known:
        for entry in (e for kind in registry.ROOMS for e in registry.list_broken(kind)):
            if entry.name == reference:
                registry.find(entry.kind, reference)
        raise unknown_name("component", reference, known)
    return [(known[reference].kind, reference)]


def _method(name: str) -> str:
    cls = registry.get_method(name)
    lines = [
        f"method {name} ({cls.standing})",
        "",
        (inspect.getmodule(cls).__doc__ or "").strip(),
        "",
    ]
    lines += ["fields (--set field=value):", *_fields(cls)]
    for field, table in cls.stands_for.items():
        lines += [f"{field}={word}: {json.dumps(numbers)}" for word, numbers in table.items()]
    for (family, scale), values in registry.get_presets(name).items():
        lines.append(f"preset {family}/{scale}: {json.dumps(values)}")
    lines += [f"source: {cls.source}", *_cite(cls.source)]
    return "\n".join(lines)


def _cite(source: str) -> list[str]:
    found = cited_bibtex(source)
    return ["", found] if found else []


def _fields(cls: Any, prefix: str = "") -> list[str]:
    hints, rows = get_type_hints(cls), []
    for f in fields(cls):
        if is_dataclass(f.default):
            rows += _fields(type(f.default), f"{prefix}{f.name}.")
        else:
            hint = hints[f.name]
            kind = " | ".join(map(str, get_args(hint))) or getattr(hint, "__name__", str(hint))
            rows.append(f"  {prefix}{f.name} = {f.default!r}  ({kind})")
    return rows


def _task(name: str) -> str:
    task = registry.get_task(name)
    values = asdict(task)
    scales = values.pop("scales")
    lines = [f"task {name}: {task.title}", "", "fields (--set task.field=value):"]
    lines += [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    lines += [f"scale {scale}: {json.dumps(changes)}" for scale, changes in scales.items()]
    return "\n".join(lines)


def _metric(name: str) -> str:
    metric = registry.get_metric(name)
    document = inspect.getmodule(metric.measure).__doc__ or ""
    return "\n".join(
        [
            f"metric {name}: {metric.title}",
            "",
            document.strip(),
            (metric.measure.__doc__ or "").strip(),
            "",
            f"better: {metric.better or 'no direction'}   unit: {metric.unit or 'none'}",
            f"requires: {', '.join(metric.requires)}",
            f"depends on task fields: {', '.join(metric.fields)}",
            f"source: {metric.source}",
            *_cite(metric.source),
        ]
    )
