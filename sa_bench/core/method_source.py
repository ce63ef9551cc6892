"""Read what the file of a method says of it, without importing it: pages load no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass

from sa_bench import contracts
from sa_bench.core import plug_ins, registry
from sa_bench.core.declarations import find_file
from sa_bench.core.errors import SaBenchError
from sa_bench.core.field_comments import read_comments, read_comments_of_file


@dataclass(frozen=True)
class MethodSource:
    """What the file of a method says of it."""

    documentation: str  # of its class where the file has several methods, then of the file
    source: str  # the publication, `Method.source`
    fields: tuple[tuple[str, str, str], ...]  # name, default as in the code, comment


def read_method(name: str) -> MethodSource | None:
    """Read documentation, source and fields of a method without importing it.

    Returns:
        None if no method has that name, or its file cannot be read.
    """
    entry = next((e for e in registry.list_entries("method") if e.name == name), None)
    if entry is None:
        return None
    file = find_file(entry)
    try:
        tree = plug_ins.parse(file.read_bytes(), file)
        comments = read_comments_of_file(file)
    except (OSError, SyntaxError, UnicodeDecodeError, SaBenchError):
        return None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    named = [c for c in classes.values() if registry.read_constant(c, "name") == name]
    with_forget = [
        c for c in classes.values() if any(getattr(n, "name", "") == "forget" for n in c.body)
    ]
    for cls in [*named, *with_forget]:
        lineage = [*_list_parents(cls, classes), cls]
        rows = {
            row[0]: row
            for parent in lineage
            for row in _read_fields(parent, comments.get(parent.name, {}))
        }
        sources = [registry.read_constant(c, "source") for c in reversed(lineage)]
        texts = [ast.get_docstring(cls) or "" if named else "", ast.get_docstring(tree) or ""]
        documentation = "\n\n".join(filter(None, texts)).removeprefix(f"`{name}`: ")
        return MethodSource(documentation, next(filter(None, sources), ""), tuple(rows.values()))
    return None


def _list_parents(cls: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """List the classes of the same file that a class derives from, the most general one first."""
    names = [ast.unparse(base) for base in cls.bases]
    parents = [classes[n] for n in names if n in classes and classes[n].lineno < cls.lineno]
    return [c for parent in parents for c in (*_list_parents(parent, classes), parent)]


def _read_fields(cls: ast.ClassDef, comments: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Read name, default and comment of each field of a class, nested ones by dotted names."""
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(node.annotation):
            continue
        name, value = node.target.id, node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "added_later" and value.args:
            value = value.args[0]
        options = None
        if isinstance(value, ast.Call) and not value.args and not value.keywords:
            options = getattr(contracts, ast.unparse(value.func), None)  # such as FisherOptions()
        if isinstance(options, type) and is_dataclass(options):
            meanings = read_comments(options)
            for field in fields(options):
                yield f"{name}.{field.name}", repr(field.default), meanings.get(field.name, "")
        else:
            yield name, ast.unparse(value) if value else "", comments.get(name, "")
