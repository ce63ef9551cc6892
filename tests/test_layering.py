"""Who may know whom: components are leaves, and nobody imports a component by name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("methods", "tasks", "metrics", "reports")
FILES = [p for room in (*ROOMS, "sa_bench") for p in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_components_are_leaves(path):
    for name in imported(path):
        for room in ROOMS:
            assert not name.startswith((f"sa_bench.{room}", f"{room}.")), f"imports the component {name}"
            assert name != room


@pytest.mark.parametrize("path", sorted((ROOT / "reports").rglob("*.py")), ids=lambda p: p.name)
def test_reports_do_not_need_torch(path):
    import subprocess
    import sys

    code = f"import sys; import sa_bench.reports.{path.stem}; assert 'torch' not in sys.modules, 'torch'"
    if path.stem != "__init__":
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_asserts_for_users():
    """`assert` is no error message for a user; the engine raises."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path}:{getattr(node, 'lineno', '?')}"


def test_sizes():
    """A fire alarm, not a mould: a file is one subject, and none needs more than this."""
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= 600, f"{path}: {lines} lines"
