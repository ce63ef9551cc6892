"""Read what the source says of each field of a dataclass: the comment beside it or the text below."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path


def read_comments(cls: type) -> dict[str, str]:
    """Read the comments of the fields of a dataclass and of those that it derives from, by field.

    Fields without a comment are absent, and so are those of a class whose source cannot be read.
    """
    comments: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if is_dataclass(parent):
            try:
                of_classes = read_comments_of_file(Path(inspect.getfile(parent)))
                comments |= of_classes.get(parent.__name__, {})
            except (OSError, TypeError, SyntaxError, UnicodeDecodeError):
                continue
    return comments


def read_comments_of_file(path: Path) -> Mapping[str, Mapping[str, str]]:
    """Read the comments of the fields of every class in a file, by class and field.

    Raises:
        OSError, SyntaxError, UnicodeDecodeError: the file cannot be read.
    """
    return _read_file(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read_file(path: Path, changed: int) -> Mapping[str, Mapping[str, str]]:
    """Read the comments of the fields of every class in a file, by class and field.

    `changed` is the time of the file's last change: one that is edited is read again.
    """
    source = path.read_text(encoding="utf-8")
    beside = {
        token.start[0]: token.string.lstrip("# ").partition("# noqa")[0].strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")
    }
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {node.name: _read_class(node, beside) for node in classes}


def _read_class(tree: ast.ClassDef, beside: Mapping[int, str]) -> dict[str, str]:
    """Read the comments of the fields of a class; `beside` has the comments of the file by line."""
    comments = {}
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        value = following.value if isinstance(following, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            text = inspect.cleandoc(value.value)
        else:
            text = beside.get(node.end_lineno or node.lineno, "")
        if text:
            comments[node.target.id] = " ".join(text.split())
    return comments
