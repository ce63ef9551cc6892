"""The house: an import goes down, never up, never sideways within a floor; components are leaves."""

import ast
from pathlib import Path

import pytest
from floors import FLOORS

ROOT = Path(__file__).parents[2]
COMPONENTS = ("methods", "tasks", "metrics", "reports")
FILES = [p for folder in ("sa_bench", *COMPONENTS) for p in sorted((ROOT / folder).rglob("*.py"))]

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NEVER = {
    ("analysis", "models"),
    ("analysis", "training"),
    ("reports", "engine"),
    ("reports", "models"),
    ("reports", "training"),
    ("reports", "methods"),
    ("reports", "metrics"),
    ("reports", "tasks"),
}


def room_of_file(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "sa_bench" else parts[0]


def room_of_module(name):
    """The room of a dotted name; None: not this package's, or the package itself."""
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return room if top == "sa_bench" and room in FLOOR else None


def imported(path):
    """Every name that a file imports, also lazily and for types alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_down():
    wrong = []
    for path in FILES:
        here = room_of_file(path)
        for there in {room_of_module(name) for name in imported(path)} - {None, here}:
            if here in FLOOR and (FLOOR[there] >= FLOOR[here] or (here, there) in NEVER):
                wrong.append(f"{path.relative_to(ROOT)}: {here} may not import {there}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_circle():
    """Of files, also within a room, and of imports that are lazy or for types alone."""
    files = {module_of_file(path): path for path in FILES}
    arrows = {
        module: {m for name in imported(path) if (m := longest(name, files)) not in (None, module)}
        for module, path in files.items()
        if path.name != "__init__.py"
    }
    while leaves := {module for module, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {module: targets for module, targets in arrows.items() if module not in leaves}
    assert not arrows, f"in or above a circle: {sorted(arrows)}"


def module_of_file(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "sa_bench" else ("sa_bench", *parts))


def longest(name, files):
    """The module that a dotted name is of: itself, or that which the last part is taken from."""
    return next((m for m in (name, name.rpartition(".")[0]) if m in files), None)


def test_every_file_has_a_room():
    outside = {room_of_file(p) for p in FILES} - set(FLOOR)
    assert outside == {"__init__", "__main__"}
    entries = [p for p in (ROOT / "sa_bench").iterdir() if not p.name.startswith("__")]
    assert len(entries) <= 13, sorted(p.name for p in entries)


def test_components_know_no_component():
    for path in FILES:
        if room_of_file(path) in COMPONENTS:
            rooms = {room_of_module(name) for name in imported(path)}
            assert not rooms & set(COMPONENTS), f"{path} imports a component"


@pytest.mark.parametrize("room", ["results", "analysis", "reports"])
def test_rooms_without_torch(room):
    """Results are read and shown on machines that have no time to load torch."""
    import subprocess
    import sys

    package = ROOT / "reports" if room == "reports" else ROOT / "sa_bench" / room
    modules = [f"sa_bench.{room}.{path.stem}" for path in sorted(package.glob("[a-z]*.py"))]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules, 'torch'"
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
