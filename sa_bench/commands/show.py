"""`show`: describe a component, with the BibTeX of what it cites."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sa_bench.core import registry
from sa_bench.core.citations import cited_bibtex
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.field_comments import read_comments
from sa_bench.core.suite_files import find_suite, list_suites
from sa_bench.engine.suites import read_runs
from sa_bench.models.family import get_family, list_families

MARK = "#"  # before a comment
LONG, FIRST = 160, 3
"""A list of texts with more characters than `LONG` is shown by its `FIRST` texts."""


def describe(reference: str, width: int | None = None) -> str:
    """Describe a component or a suite: documentation, fields with their comments, source.

    Args:
        reference: a name, or the path of a plug-in or of a suite.
        width: of the terminal, in characters; None breaks no comment.

    Raises:
        SaBenchError: there is no component or suite of that name.
    """
    if reference.endswith(".toml") or reference in dict(list_suites()):
        return _describe_suite(reference)
    text = _describe_components(reference)
    return "\n".join(_wrap_comment(line, width) for line in text.splitlines())


def _describe_components(reference: str) -> str:
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
        names = [*entries, *dict(list_suites())]
        raise unknown_name("component", reference, names, "list")
    return [(entries[reference].kind, reference)]


def _describe_method(name: str) -> str:
    """Describe a method: module documentation, model families, fields, presets, source."""
    cls = registry.get_method(name)
    families = [f for f in list_families() if cls.supports in get_family(f).contracts]
    lines = [
        f"method {name}" + (f" ({cls.standing})" if cls.standing != "method" else ""),
        "",
        (inspect.getmodule(cls).__doc__ or "").strip(),
        "",
        f"model families: {', '.join(families)}",
        "",
        *(
            ["fields (--set field=value):", *_describe_fields(cls)]
            if fields(cls)
            else ["no fields"]
        ),
    ]
    for field, table in cls.stands_for.items():
        lines += [f"{field}={word}: {json.dumps(numbers)}" for word, numbers in table.items()]
    for (models, scale), values in registry.get_presets(name).items():
        lines.append(f"preset {models}/{scale}: {json.dumps(values)}")
    lines += [f"source: {cls.source}", *_cite_lines(cls.source)]
    return "\n".join(lines)


def _cite_lines(source: str) -> list[str]:
    """Return the BibTeX of a source as lines; an empty list if it cites nothing known."""
    bibtex = cited_bibtex(source)
    return ["", bibtex] if bibtex else []


def _describe_fields(cls: Any, prefix: str = "") -> list[str]:
    """List the fields of a dataclass with defaults, types and comments, nested ones by dotted names."""
    hints, comments, rows = get_type_hints(cls), read_comments(cls), []
    for f in fields(cls):
        if is_dataclass(f.default):
            rows += _describe_fields(type(f.default), f"{prefix}{f.name}.")
        else:
            hint = hints[f.name]
            kind = " | ".join(map(str, get_args(hint))) or getattr(hint, "__name__", str(hint))
            row = f"  {prefix}{f.name} = {f.default!r}  ({kind})"
            rows.append(_add_comment(row, comments.get(f.name, "")))
    return rows


def _add_comment(row: str, comment: str) -> str:
    """Put a comment behind a field's row."""
    return f"{row}  {MARK} {comment}" if comment else row


def _wrap_comment(line: str, width: int | None) -> str:
    """Put the comment of a row that is longer than a terminal below it, broken between words."""
    row, mark, comment = line.partition(f"  {MARK} ")
    if not mark or width is None or len(line) <= width:
        return line
    parts = textwrap.wrap(comment, max(20, width - 8), break_on_hyphens=False)
    return "\n".join([row, *(f"      {MARK} {part}" for part in parts)])


def _describe_task(name: str) -> str:
    """Describe a task: fields with their comments, and what each scale changes."""
    task = registry.get_task(name)
    lines = [f"task {name}: {task.title}", "", "fields (--set task.field=value):"]
    lines += _describe_values(task)
    for scale, changes in task.scales.items():
        lines.append(f"scale {scale}: {_format_value(_to_plain(changes))}")
    return "\n".join(lines)


def _describe_values(value: Any, prefix: str = "") -> list[str]:
    """List the values of a dataclass with their comments, nested ones by dotted names."""
    comments, rows = read_comments(type(value)), []
    for f in fields(value):
        member = getattr(value, f.name)
        if f.name == "scales" or not f.metadata.get("key", True):
            continue
        if is_dataclass(member):
            rows += _describe_values(member, f"{prefix}{f.name}.")
        else:
            row = f"  {prefix}{f.name} = {_format_value(_to_plain(member))}"
            rows.append(_add_comment(row, comments.get(f.name, "")))
    return rows


def _to_plain(value: Any) -> Any:
    """Convert a value of a task to what JSON can write."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: _to_plain(member) for key, member in value.items()}
    return [_to_plain(member) for member in value] if isinstance(value, (list, tuple)) else value


def _format_value(value: Any) -> str:
    """Write a value as JSON; of a long list of texts the first ones and the number of the others."""
    if isinstance(value, dict):
        members = (f"{json.dumps(key)}: {_format_value(member)}" for key, member in value.items())
        return f"{{{', '.join(members)}}}"
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    members = [_format_value(member) for member in value]
    if sum(map(len, members)) > LONG and len(members) > FIRST + 1:
        members = [*members[:FIRST], f"… {len(members) - FIRST} more"]
    return f"[{', '.join(members)}]"


def _describe_suite(reference: str) -> str:
    """Describe a suite: what its file says of it, and its runs as options of `run`."""
    path = find_suite(reference)
    head = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    lines = []
    for run in read_runs(path):
        scale = run.pop("scale", "full")
        options = [f"--scale {scale}"] if scale != "full" else []
        for key, values in run.items():
            option = f"--{key.replace('_', '-')}"
            if key in ("set", "sweep"):
                options += [f"{option} {value}" for value in values]
            else:
                options.append(f"{option} {','.join(map(str, values))}")
        lines.append(f"  {' '.join(options)}")
    return "\n".join(
        [
            f"suite {reference}: {' '.join(filter(None, head))}",
            "",
            "runs, as options of `run`; a cell that several ask for is made once:",
            *lines,
            "",
            f"Number of cells and cost: python -m sa_bench plan --suite {reference}",
        ]
    )


def _describe_metric(name: str) -> str:
    """Describe a metric: documentation, direction, unit, requirements, source."""
    metric = registry.get_metric(name)
    document = inspect.getmodule(metric.measure).__doc__ or ""
    return "\n".join(
        [
            f"metric {name}: {metric.title}",
            "",
            document.strip(),
            "",
            inspect.cleandoc(metric.measure.__doc__ or ""),
            "",
            f"better: {metric.better or 'no direction'}   unit: {metric.unit or 'none'}",
            f"requires: {', '.join(metric.requires)}",
            f"depends on task fields: {', '.join(metric.fields)}",
            f"source: {metric.source}",
            *_cite_lines(metric.source),
        ]
    )
