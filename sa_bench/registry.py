"""Names to components. Listing reads the files with `ast`; only what is used is imported.

Components come from three places: the rooms of this package, installed packages that declare an entry
point of the group `sa_bench` (`"method.mine" = "my_package.mine"`), and files named by path.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from sa_bench.contracts import Metric, Task
from sa_bench.errors import SaBenchError, unknown

ROOMS = {"method": "methods", "task": "tasks", "metric": "metrics"}


@dataclass(frozen=True)
class Entry:
    """A component that can be asked for."""

    kind: str
    name: str
    summary: str
    module: str
    path: Path | None = None  # a plug-in's source; None: built in
    by_path: bool = False  # named by path on the command line, not installed
    standing: str = ""  # of a built-in method


_files: dict[tuple[str, str], Entry] = {}  # components named by path in this process


def room(kind: str) -> Path:
    """The folder of a kind: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / ROOMS[kind]
    return inside if inside.is_dir() else package.parent / ROOMS[kind]


def entries(kind: str) -> list[Entry]:
    """All components of a kind, by name; reads files, imports nothing."""
    found = {e.name: e for e in (*_installed(kind), *_built_in(kind))}  # nobody replaces a built-in one
    found |= {e.name: e for e in _files.values() if e.kind == kind}
    return sorted(found.values(), key=lambda e: e.name)


@lru_cache(maxsize=8)
def _built_in(kind: str) -> tuple[Entry, ...]:
    files = sorted(room(kind).glob("[a-z]*.py"))
    return tuple(e for p in files for e in _read(kind, p, f"sa_bench.{ROOMS[kind]}.{p.stem}"))


@lru_cache(maxsize=8)
def _installed(kind: str) -> tuple[Entry, ...]:
    found = []
    for point in metadata.entry_points(group="sa_bench"):
        if point.name.partition(".")[0] != kind or point.dist is None:
            continue
        path = Path(str(point.dist.locate_file(point.value.replace(".", "/") + ".py")))
        if path.is_file():
            found += [
                Entry(kind, e.name, e.summary, point.value, path) for e in _read(kind, path, point.value)
            ]
        else:  # an editable install may keep its source elsewhere: known by name alone until it is used
            found.append(Entry(kind, point.name.partition(".")[2], f"({point.value})", point.value, path))
    return tuple(found)


def _read(kind: str, path: Path, module: str) -> list[Entry]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError) as error:  # nested too deep
        raise SaBenchError(f"{path} cannot be read as Python ({error or type(error).__name__}).") from error
    if kind == "task":
        return [Entry(kind, name, title, module) for name, title in _tasks(tree).items()]
    summary = (ast.get_docstring(tree) or "").partition("\n")[0].removeprefix(f"`{path.stem}`: ")
    return [Entry(kind, path.stem, summary, module, standing=_standing(tree))]


def _standing(tree: ast.Module) -> str:
    """What a class of the file declares as its `standing`, without running it."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "standing"
        ):
            return str(node.value.value) if isinstance(node.value, ast.Constant) else ""
    return ""


def _tasks(tree: ast.Module) -> dict[str, str]:
    """Name to title of every `Task(name=..., title=...)` and `replace(task, name=..., ...)`."""
    found = {}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in ("Task", "replace"):
            plain = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
            if "name" in plain:
                found[str(plain["name"])] = str(plain.get("title", ""))
    return found


def register(kind: str, reference: str) -> list[str]:
    """The names that `reference` stands for: itself, or what the file at that path defines.

    Raises:
        SaBenchError: no such file, or it takes the name of a component that is here already.
    """
    if not is_path(reference):
        return [reference]
    path = Path(reference).expanduser().resolve()
    if not path.is_file():
        raise SaBenchError(f"There is no file {reference}, so no {kind} can be read from it.")
    module = f"sa_bench_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    found = _read(kind, path, module)
    if not found:
        raise SaBenchError(f'{path} defines no {kind} (for a task: `Task(name="...")`).')
    for entry in found:
        here = next((e for e in (*_built_in(kind), *_installed(kind)) if e.name == entry.name), None)
        if here is not None:
            raise SaBenchError(f"{path}: a {kind} called {entry.name} is here already; rename yours.")
        _files[kind, entry.name] = Entry(kind, entry.name, entry.summary, module, path, by_path=True)
    return [entry.name for entry in found]


def reference(kind: str, name: str) -> str:
    """How a command line names a component: by its path if it was given by path."""
    entry = _files.get((kind, name))
    return str(entry.path) if entry is not None else name


def is_path(reference: str) -> bool:
    """Whether a reference names a file and not a component."""
    return reference.endswith(".py") or "/" in reference


def require_trusted(references: Iterable[str], where: str) -> None:
    """Refuse to run the code of files that another file names.

    Raises:
        SaBenchError: one of `references` is a file that this process has not been given by its user.
    """
    known = {e.path for e in _files.values()}
    if files := [
        name for name in references if is_path(name) and Path(name).expanduser().resolve() not in known
    ]:
        raise SaBenchError(
            f"{where} names {files[0]}, whose code would be run. Look at it; if you trust it, add --trust."
        )


def kind_of(path: Path) -> str:
    """What a plug-in file defines, by its source: task, metric or method."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError) as error:  # nested too deep
        raise SaBenchError(f"{path} cannot be read as Python ({error or type(error).__name__}).") from error
    if _tasks(tree):
        return "task"
    decorators = [d for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    called = [d.func.id for d in decorators if isinstance(d, ast.Call) and isinstance(d.func, ast.Name)]
    return "metric" if "metric" in called else "method"


def files() -> list[tuple[str, str]]:
    """(kind, path) of all that was named by path, for other processes to register."""
    return sorted({(e.kind, str(e.path)) for e in _files.values()})


def find(kind: str, name: str) -> Entry:
    """The entry of that name.

    Raises:
        SaBenchError: unknown; names the nearest.
    """
    known = {e.name: e for e in entries(kind)}
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def source(kind: str, name: str) -> dict[str, str] | None:
    """A plug-in's file and its sha256; None for a built-in component, which carries a version instead."""
    path = find(kind, name).path
    if path is None:
        return None
    try:
        return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return {"path": str(path), "sha256": "unreadable"}


def version(kind: str, name: str, declared: int) -> int | str:
    """What a cache key holds: the declared version or, for a plug-in, the hash of its source."""
    found = source(kind, name)
    return declared if found is None else f"{declared}+{found['sha256'][:16]}"


def _load(entry: Entry) -> ModuleType:
    if not entry.by_path and entry.path is None:
        return importlib.import_module(entry.module)
    try:
        if not entry.by_path:
            return importlib.import_module(entry.module)
        if entry.module not in sys.modules:
            spec = importlib.util.spec_from_file_location(entry.module, str(entry.path))
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            sys.modules[entry.module] = module  # dataclasses look their module up there
            try:
                spec.loader.exec_module(module)  # type: ignore[union-attr]
            except BaseException:
                del sys.modules[entry.module]
                raise
        return sys.modules[entry.module]
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SaBenchError(f"{entry.path} cannot be imported: {type(error).__name__}: {reason}.") from error


def method_class(name: str) -> type[Any]:
    """The method's dataclass: the one class of its module that has `forget`."""
    module = _load(find("method", name))
    classes = [
        v for v in vars(module).values()
        if isinstance(v, type) and is_dataclass(v) and v.__module__ == module.__name__ and hasattr(v, "forget")
    ]  # fmt: skip
    if len(classes) != 1:
        raise SaBenchError(
            f"{module.__file__} must define one dataclass with `forget`, found {len(classes)}."
        )
    return classes[0]


def task(name: str) -> Task:
    """A task by name."""
    module = _load(find("task", name))
    return _value(module, Task, name)


def metric(name: str) -> Metric:
    """A metric by name."""
    module = _load(find("metric", name))
    return _value(module, Metric, name)


def _value(module: ModuleType, kind: type[Any], name: str) -> Any:
    found = [v for v in vars(module).values() if isinstance(v, kind)]
    named = [v for v in found if v.name == name]
    if not named:
        names = ", ".join(v.name for v in found) or "nothing"
        raise SaBenchError(
            f"{module.__file__} must define a {kind.__name__.lower()} called {name}, has {names}."
        )
    return named[0]
