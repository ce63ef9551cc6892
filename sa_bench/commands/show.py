"""`show`: describe a component, with the BibTeX of what it cites.

A component's `source` names authors and year; references.bib has the entry.
"""

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
    """Load the BibTeX entries by key: the first author's name and the year (`heng2023`)."""
    text = (Path(__file__).with_name("references.bib")).read_text(encoding="utf-8")
    entries = re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[{,]", entry)[1]: entry.strip() for entry in entries}


def cited_keys(source: str) -> list[str]:
    """List the keys that a source names, in its order: `["heng2023"]` for "Heng & Soh 2023, Eq. 4"."""
    keys = [
        f"{_strip_accents(match[1])}{match[0].strip()[-4:]}" for match in CITED.finditer(source)
    ]
    return list(dict.fromkeys(keys))


def cited_bibtex(source: str) -> str:
    """Return the entries that a source names; "" if none of them is known."""
    return "\n".join(
        load_references()[key] for key in cited_keys(source) if key in load_references()
    )


def _strip_accents(name: str) -> str:
    """Write a name in lower case without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)
    ).lower()


def describe(reference: str) -> str:
    """Describe a component: documentation, fields with types and defaults, presets and source.

    Raises:
        SaBenchError: there is no component of that name.
    """
    show = {"method": _describe_method, "task": _describe_task, "metric": _describe_metric}
    return "\n\n".join(
        show[kind](name) + _describe_code(kind, name) for kind, name in find_components(reference)
    )


def task_rows(reference: str, scale: str, sets: Sequence[str]) -> str:
    """List the images that a task asks for as CSV, one row per image (`sa_bench.engine.joining.COLUMNS`).

    Raises:
        SaBenchError: the name is not one task's, or the task lacks one of the settings.
    """
    components = find_components(reference)
    if [kind for kind, _ in components] != ["task"]:
        names = ", ".join(f"the {kind} {name}" for kind, name in components)
        raise SaBenchError(f"--rows lists the images of one task; {reference} is {names}.")
    from sa_bench.engine.cells import resolve_task, task_overrides
    from sa_bench.engine.joining import format_rows

    return format_rows(resolve_task(components[0][1], scale, task_overrides(sets, "show --rows")))


def _describe_code(kind: str, name: str) -> str:
    """List a plug-in's files that its key covers; "" for a component of sa_bench."""
    code_source = registry.describe_source(kind, name)
    if code_source is None:
        return ""
    lines = ["", f"code (sha256 {code_source['sha256'][:16]}, part of every key):"]
    lines += [f"  {path}" for path in code_source.get("files", [code_source["path"]])]
    lines += [
        f"  not followed, so never kept: {call}" for call in code_source.get("unfollowed", [])
    ]
    return "\n" + "\n".join(lines)


def find_components(reference: str) -> list[tuple[str, str]]:
    """Find the components, (kind, name), that a name or the path of a plug-in file stands for.

    Raises:
        SaBenchError: there is no component of that name.
    """
    if registry.is_path(reference):
        kind = registry.detect_kind(Path(reference))
        return [(kind, name) for name in registry.register(kind, reference)]
    entries = {e.name: e for kind in registry.ROOMS for e in registry.list_entries(kind)}
    if reference not in entries:
        for entry in (e for kind in registry.ROOMS for e in registry.list_broken(kind)):
            if entry.name == reference:
                registry.find(entry.kind, reference)
        raise unknown_name("component", reference, entries)
    return [(entries[reference].kind, reference)]


def _describe_method(name: str) -> str:
    """Describe a method: module documentation, fields, presets, source."""
    cls = registry.get_method(name)
    lines = [
        f"method {name} ({cls.standing})",
        "",
        (inspect.getmodule(cls).__doc__ or "").strip(),
        "",
    ]
    lines += ["fields (--set field=value):", *_describe_fields(cls)]
    for field, table in cls.stands_for.items():
        lines += [f"{field}={word}: {json.dumps(numbers)}" for word, numbers in table.items()]
    for (family, scale), values in registry.get_presets(name).items():
        lines.append(f"preset {family}/{scale}: {json.dumps(values)}")
    lines += [f"source: {cls.source}", *_cite_lines(cls.source)]
    return "\n".join(lines)


def _cite_lines(source: str) -> list[str]:
    """Return the BibTeX of a source as lines; an empty list if it cites nothing known."""
    bibtex = cited_bibtex(source)
    return ["", bibtex] if bibtex else []


def _describe_fields(cls: Any, prefix: str = "") -> list[str]:
    """List the fields of a dataclass with defaults and types, nested ones by dotted names."""
    hints, rows = get_type_hints(cls), []
    for f in fields(cls):
        if is_dataclass(f.default):
            rows += _describe_fields(type(f.default), f"{prefix}{f.name}.")
        else:
            hint = hints[f.name]
            kind = " | ".join(map(str, get_args(hint))) or getattr(hint, "__name__", str(hint))
            rows.append(f"  {prefix}{f.name} = {f.default!r}  ({kind})")
    return rows


def _describe_task(name: str) -> str:
    """Describe a task: fields and what each scale changes."""
    task = registry.get_task(name)
    values = asdict(task)
    scales = values.pop("scales")
    lines = [f"task {name}: {task.title}", "", "fields (--set task.field=value):"]
    lines += [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    lines += [f"scale {scale}: {json.dumps(changes)}" for scale, changes in scales.items()]
    return "\n".join(lines)


def _describe_metric(name: str) -> str:
    """Describe a metric: documentation, direction, unit, requirements, source."""
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
            *_cite_lines(metric.source),
        ]
    )
