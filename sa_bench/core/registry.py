"""Find components by name. Listing reads the files with `ast`; only what is used is imported.

Components come from three places: the folders of this package, installed packages that declare an
entry point of the group `sa_bench` (`"method.mine" = "my_package.mine"`), and files named by path.
The latter two are plug-ins: their code is read by `sa_bench.core.plug_ins`, and its hash is part of
every key and every result.
"""

from __future__ import annotations

import ast
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sa_bench.core import late_imports, plug_ins
from sa_bench.core.errors import CellFailed, SaBenchError, unknown_name
from sa_bench.core.store import write_atomic

if TYPE_CHECKING:  # pydantic takes longer to load than all that `list` does
    from sa_bench.contracts import Metric, Task

ROOMS = {"method": "methods", "task": "tasks", "metric": "metrics"}
FACTS = {"standing": "method", "exposes": "", "supports": "Generator", "title": ""}
"""What is read of a method without running it, with the defaults of `Method`."""


@dataclass(frozen=True)
class Entry:
    """A component that can be used by name, or an installed plug-in that is broken."""

    kind: str
    name: str
    summary: str
    module: str
    path: Path | None = None  # a plug-in's source file; None for a built-in component
    by_path: bool = False  # named by path on the command line, not installed
    standing: str = ""  # `Method.standing` of a method
    exposes: str = ""  # `Method.exposes` of a method
    title: str = ""  # `Method.title` of a method
    supports: str = ""  # name of the class `Method.supports` of a method
    tops: Mapping[str, Path] = field(default_factory=dict)
    """Top-level packages of an installed plug-in, with the folder that each is imported from."""
    broken: str = ""  # why it cannot be used; "" if it can


@dataclass
class PlugIns:
    """The plug-ins of this process and their code as it was read; its workers run the same."""

    by_path: dict[tuple[str, str], Entry] = field(default_factory=dict)
    sources: dict[tuple[str, str], plug_ins.Source] = field(default_factory=dict)
    command: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Random id of this command: part of the key of artifacts that no other command may reuse."""


_known = PlugIns()


def component_folder(kind: str) -> Path:
    """Return the folder of a kind: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / ROOMS[kind]
    return inside if inside.is_dir() else package.parent / ROOMS[kind]


def list_entries(kind: str) -> list[Entry]:
    """List all usable components of a kind, sorted by name; files are read, nothing is imported."""
    by_name = {e.name: e for e in (*_list_installed(kind), *_list_built_in(kind)) if not e.broken}
    by_name |= {e.name: e for e in _known.by_path.values() if e.kind == kind}
    return sorted(by_name.values(), key=lambda e: e.name)


def list_broken(kind: str) -> list[Entry]:
    """List the installed plug-ins of a kind that cannot be used, each with the reason."""
    return [e for e in _list_installed(kind) if e.broken]


@lru_cache(maxsize=8)
def _list_built_in(kind: str) -> tuple[Entry, ...]:
    """List the components of a kind that this package brings."""
    files = sorted(component_folder(kind).glob("[a-z]*.py"))
    return tuple(e for p in files for e in _read(kind, p, f"sa_bench.{ROOMS[kind]}.{p.stem}"))


@lru_cache(maxsize=8)
def _list_installed(kind: str) -> tuple[Entry, ...]:
    """List the components of a kind that installed packages declare.

    One whose name is taken or whose file cannot be read is marked as broken; the others stay
    usable.
    """
    taken = {entry.name: "sa_bench itself" for entry in _list_built_in(kind)}
    entries = []
    for point in sorted(metadata.entry_points(group="sa_bench"), key=lambda p: (p.name, p.value)):
        point_kind, _, name = point.name.partition(".")
        if point_kind != kind or point.dist is None:
            continue
        module, owner = point.value.partition(":")[0].strip(), str(point.dist.name)
        for entry in _read_declared(kind, name, module, point.dist):
            reason = entry.broken or (
                f"{taken[entry.name]} has one of this name" if entry.name in taken else ""
            )
            entries.append(replace(entry, broken=f"{reason} (package {owner})" if reason else ""))
            taken.setdefault(entry.name, f"the package {owner}")
    return tuple(entries)


def _read_declared(kind: str, name: str, module: str, dist: metadata.Distribution) -> list[Entry]:
    """Read the components behind an entry point.

    These are all tasks of its file or, for the other kinds, the one that it names.
    """
    tops = _list_packages(dist)
    top = module.partition(".")[0]
    try:
        root = tops.get(top) or plug_ins.find_loose_root(top, anywhere=True)
        path = plug_ins.find_module_file(module, root) if root else None
        if path is None:
            raise SaBenchError(f"there is no module {module}")
        declared = _read(kind, path, module)
    except SaBenchError as error:
        return [Entry(kind, name, f"({module})", module, tops=tops, broken=str(error).rstrip("."))]
    if kind != "task":
        declared = [entry for entry in declared if entry.name == name] or [
            replace(entry, name=name) for entry in declared[:1]
        ]
    entries = declared or [Entry(kind, name, "", module)]
    return [replace(entry, path=path, tops=tops) for entry in entries]


def _list_packages(dist: metadata.Distribution) -> dict[str, Path]:
    """List the packages and modules of a distribution, with the folder each is imported from."""
    tops: dict[str, Path] = {}
    for file in dist.files or ():
        if file.suffix == ".py" and not file.parts[0].startswith(("__editable__", "..")):
            tops.setdefault(file.parts[0].removesuffix(".py"), Path(str(dist.locate_file(""))))
    return tops


def _read(kind: str, path: Path, module: str) -> list[Entry]:
    """Read the components that a file defines from its syntax tree."""
    tree = _parse_file(path)
    if kind == "task":
        return [Entry(kind, name, title, module) for name, title in _read_task_titles(tree).items()]
    named_components = _read_methods(tree) if kind == "method" else _read_metrics(tree)
    if named_components:
        return [Entry(kind, n, summary, module, **facts) for n, summary, facts in named_components]
    name = path.parent.name if path.name == "__init__.py" else path.stem
    summary = (ast.get_docstring(tree) or "").partition("\n")[0].removeprefix(f"`{name}`: ")
    return [Entry(kind, name, summary, module, **(_read_facts(tree) if kind == "method" else {}))]


def _read_methods(tree: ast.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """Read (name, docstring's first line, facts) of every class with a `name` of its own."""
    methods = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (name := read_constant(node, "name")):
            methods.append(
                (name, (ast.get_docstring(node) or "").partition("\n")[0], _read_facts(node))
            )
    return methods


def _read_metrics(tree: ast.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """Read (name, title, no facts) of every metric in a file with several; [] for any other file."""
    metrics = []
    for node in tree.body:
        calls = [d for d in getattr(node, "decorator_list", []) if isinstance(d, ast.Call)]
        for call in calls:
            if (
                isinstance(call.func, ast.Name)
                and call.func.id == "metric"
                and isinstance(node, ast.FunctionDef)
            ):
                titles = [
                    k.value.value
                    for k in call.keywords
                    if k.arg == "title" and isinstance(k.value, ast.Constant)
                ]
                metrics.append((node.name, str(next(iter(titles), "")), {}))
    return metrics if len(metrics) > 1 else []


def _parse_file(path: Path) -> ast.Module:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read ({error.strerror}).") from error
    return plug_ins.parse(data, path)


def _read_facts(tree: ast.AST) -> dict[str, Any]:
    """Read what a method declares of `FACTS`, without running it."""
    return {name: read_constant(tree, name) or default for name, default in FACTS.items()}


def read_constant(tree: ast.AST, name: str) -> str:
    """Read the text or the name that a class attribute is set to; "" if there is none."""
    body = getattr(tree, "body", [])
    nested = [n for node in body if isinstance(node, ast.ClassDef) for n in node.body]
    for node in [*body, *nested]:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not any(
            isinstance(target, ast.Name) and target.id == name for target in targets
        ):
            continue
        if isinstance(node.value, ast.Name):
            return node.value.id
        return str(node.value.value) if isinstance(node.value, ast.Constant) else ""
    return ""


def _read_task_titles(tree: ast.Module) -> dict[str, str]:
    """Read name and title of every `Task(name=..., title=...)` and `replace(task, name=...)`."""
    titles = {}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in ("Task", "replace"):
            constants = {
                keyword.arg: keyword.value.value
                for keyword in call.keywords
                if isinstance(keyword.value, ast.Constant)
            }
            if constants.get("name"):  # a template has no name
                titles[str(constants["name"])] = str(constants.get("title", ""))
    return titles


def register(kind: str, reference: str) -> list[str]:
    """Register what `reference` names: a component, or the file or package folder of a plug-in.

    A plug-in's code is read at once; what runs later is what was read last.

    Returns:
        The names of the components: `reference` itself, or those that the file at that path
            defines.

    Raises:
        SaBenchError: there is no such file, or it takes the name of an existing component.
    """
    if not is_path(reference):
        entry = _known.by_path.get((kind, reference))
        if entry is None:
            _known.sources.pop((kind, reference), None)
            return [reference]
        reference = str(entry.path)  # named by path earlier in this process: read it again
    path = Path(reference).expanduser().resolve()
    file = plug_ins.find_definition(path, kind)
    entries = _read(kind, file, file.stem)
    if not entries:
        raise SaBenchError(f'{path} defines no {kind} (for a task: `Task(name="...")`).')
    source = plug_ins.read(path)
    for entry in entries:
        existing = (*_list_built_in(kind), *_list_installed(kind))
        if any(other.name == entry.name for other in existing):
            raise SaBenchError(
                f"{path}: a {kind} called {entry.name} exists already; rename yours."
            )
        _known.by_path[kind, entry.name] = replace(entry, path=path, by_path=True)
        _known.sources[kind, entry.name] = source
    return [entry.name for entry in entries]


def register_all(kind: str, references: Iterable[str]) -> list[str]:
    """Register several references, and return the names that they stand for.

    Raises:
        SaBenchError: a file is missing, or two files define components of one name.
    """
    names: list[str] = []
    path_by_name: dict[str, Path | None] = {}
    for reference in references:
        for name in register(kind, reference):
            entry = _known.by_path.get((kind, name))
            path = entry.path if entry is not None else None
            if path_by_name.setdefault(name, path) != path:
                raise SaBenchError(
                    f"{path_by_name[name]} and {path} are both a {kind} called {name}; rename one, or run them in "
                    "separate commands."
                )
            names.append(name)
    return names


def reference(kind: str, name: str) -> str:
    """Return a component's name on the command line: its path if it was given by path."""
    entry = _known.by_path.get((kind, name))
    return str(entry.path) if entry is not None else name


def is_path(reference: str) -> bool:
    """Return whether a reference names a file and not a component."""
    return reference.endswith(".py") or "/" in reference


def require_trusted(references: Iterable[str], where: str) -> None:
    """Refuse to run the code of files that another file names, unless the user gave those files.

    Raises:
        SaBenchError: one of `references` is a file that the user did not give to this process.
    """
    trusted_paths = {e.path for e in _known.by_path.values()}
    if untrusted := [
        name
        for name in references
        if is_path(name) and Path(name).expanduser().resolve() not in trusted_paths
    ]:
        raise SaBenchError(
            f"{where} names {untrusted[0]}, whose code would be run. Look at it; if you trust it, add --trust."
        )


def detect_kind(path: Path) -> str:
    """Detect from the source of a plug-in file what it defines: task, metric or method."""
    tree = _parse_file(plug_ins.find_definition(path, "component"))
    if _read_task_titles(tree):
        return "task"
    decorators = [
        decorator
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    ]
    called_names = [
        decorator.func.id
        for decorator in decorators
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name)
    ]
    return "metric" if "metric" in called_names else "method"


def get_plug_ins() -> PlugIns:
    """Return the plug-ins of this process, for its workers to `adopt`."""
    return _known


def hash_plug_in_files() -> dict[str, str]:
    """Hash every file of the plug-ins of this process, as it was read: {path: sha256}."""
    files = [file for source in _known.sources.values() for file in source.files.values()]
    return {str(file.path.absolute()): file.sha256 for file in files}


def adopt(registered: PlugIns) -> None:
    """Take over the plug-ins of another process with their code, so that both run the same."""
    global _known
    _known = registered


def forget_plug_ins() -> None:
    """Forget every plug-in that was named by path."""
    adopt(PlugIns())


def find(kind: str, name: str) -> Entry:
    """Return the entry of that name.

    Raises:
        SaBenchError: the name is unknown (the message names the nearest), or the plug-in is broken.
    """
    if (by_path := _known.by_path.get((kind, name))) is not None:
        return by_path
    for entry in (*_list_built_in(kind), *_list_installed(kind)):  # asked for thousands of times
        if entry.name == name and not entry.broken:
            return entry
    for entry in list_broken(kind):
        if entry.name == name:
            raise SaBenchError(f"The {kind} {name} cannot be used: {entry.broken}.")
    if Path(f"{name}.py").is_file():
        raise SaBenchError(
            f"Unknown {kind} {name!r}. For the file {name}.py here write ./{name}.py."
        )
    raise unknown_name(kind, name, [e.name for e in list_entries(kind)], f"list {ROOMS[kind]}")


def _get_source(kind: str, name: str) -> plug_ins.Source | None:
    """Read a plug-in's code once; None for a built-in component."""
    entry = find(kind, name)
    if entry.path is None:
        return None
    if (kind, name) not in _known.sources:
        _known.sources[kind, name] = _read_now(entry)
    return _known.sources[kind, name]


def _read_now(entry: Entry) -> plug_ins.Source:
    """Read a plug-in's code from disk."""
    if entry.by_path and entry.path is not None:
        return plug_ins.read(entry.path)
    return plug_ins.read_installed(entry.module, entry.tops)


def describe_source(kind: str, name: str) -> dict[str, Any] | None:
    """Describe a plug-in's code for a result.

    Returns:
        Its file, the sha256 of its code, the sha256 of each of its files if there are several, and
            as `unfollowed` the calls that load code which cannot be traced, if there are any. None
            for a built-in component.
    """
    code = _get_source(kind, name)
    if code is None:
        return None
    description: dict[str, Any] = {"path": str(code.path), "sha256": code.sha256}
    if len(code.files) > 1:
        description["files"] = {
            str(file.path): file.sha256 for _, file in sorted(code.files.items())
        }
    return description | ({"unfollowed": list(code.unfollowed)} if code.unfollowed else {})


def version_key(kind: str, name: str, declared: int) -> int | str:
    """Return the version of a component that enters cache keys.

    It is the declared version and, for a plug-in, the hash of its code. If that code loads other
    code that cannot be traced, the command's id is added, so that no other command reuses its
    artifacts.
    """
    code = _get_source(kind, name)
    if code is None:
        return declared
    return f"{declared}+{code.sha256[:16]}" + (f"+{_known.command}" if code.unfollowed else "")


def hash_plug_ins(components: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Hash the code of those components, (kind, name) each, that are plug-ins.

    Returns:
        sha256 by `kind name`, for example `method mine`.
    """
    return {
        f"{kind} {name}": code.sha256
        for kind, name in components
        if (code := _get_source(kind, name))
    }


def describe_sources(code: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Describe the plug-ins of a result.

    Args:
        code: sha256 by `kind name`, as `hash_plug_ins` gives it.

    Returns:
        What `describe_source` gives, with the hash from `code`, by `kind name`.
    """
    return {
        component: {**(describe_source(*component.split(" ", 1)) or {}), "sha256": sha256}
        for component, sha256 in code.items()
    }


def write_sources(code: Mapping[str, str], folder: Path) -> None:
    """Write the plug-ins' code as it was read into `folder`, one folder a component: `method-mine/`.

    Args:
        code: sha256 by `kind name`, as `hash_plug_ins` gives it.
        folder: where to; a module `mine.utils` becomes the file `mine.utils.py`.
    """
    for component in code:
        kind, _, name = component.partition(" ")
        source = _get_source(kind, name)
        for module, file in source.files.items() if source else ():
            write_atomic(folder / f"{kind}-{name}" / f"{module}.py", file.data)


def require_unchanged(code: Mapping[str, str]) -> None:
    """Require that plug-ins are still what they were when a run was resolved.

    Args:
        code: what `hash_plug_ins` returned then.

    Raises:
        CellFailed: one was changed since, in this process or on disk.
    """
    for component, sha256 in code.items():
        kind, _, name = component.partition(" ")
        source, entry = _get_source(kind, name), find(kind, name)
        try:
            current_sha256 = _read_now(entry).sha256 if entry.path is not None else ""
        except SaBenchError:
            current_sha256 = ""
        if source is None or source.sha256 != sha256 or current_sha256 != sha256:
            raise CellFailed(
                f"{entry.path}, the {kind} {name}, was changed since this run was resolved; run the command again."
            )


def plug_in_remarks(code: Mapping[str, str]) -> list[str]:
    """List the remarks that a result must make on its plug-ins: code that cannot be traced."""
    lines = []
    for component in code:
        source = _get_source(*component.split(" ", 1))
        if source is not None and source.unfollowed:
            lines.append(
                f"code: {component} loads code that cannot be followed ({source.unfollowed[0]}); "
                "nothing of it is kept for other commands"
            )
    return lines


def _load(kind: str, name: str) -> ModuleType:
    """Import the module of a component; what only its functions use is loaded with their first call."""
    code = _get_source(kind, name)
    if code is not None:
        return plug_ins.load(code)
    return late_imports.import_component(find(kind, name).module)


def get_method(name: str) -> type[Any]:
    """Return a method's dataclass: the class with that `name`, else the one that has `forget`.

    A class that does not derive from Method is given its defaults.

    Raises:
        SaBenchError: the module has none, or several without names.
    """
    return _find_method(_load("method", name), name)


@lru_cache(maxsize=256)
def _find_method(module: ModuleType, name: str) -> type[Any]:
    """Find the class of the method `name` in a module; every stage of a cell asks for it."""
    from sa_bench.contracts import Method

    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and is_dataclass(value)
        and value.__module__ == module.__name__
        and hasattr(value, "forget")
    ]
    named = [cls for cls in classes if vars(cls).get("name") == name] or classes
    if len(named) != 1:
        raise SaBenchError(
            f"{module.__file__} must define one dataclass with `forget`; it defines {len(classes)}."
        )
    return named[0] if issubclass(named[0], Method) else _add_defaults(named[0])


@lru_cache(maxsize=64)
def _add_defaults(cls: type[Any]) -> type[Any]:
    """Derive a class from Method that has its defaults."""
    from sa_bench.contracts import Method

    derived = type(
        cls.__name__, (cls, Method), {"__module__": cls.__module__, "__doc__": cls.__doc__}
    )
    return dataclass(frozen=cls.__dataclass_params__.frozen)(derived)


def get_presets(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the fields of a method that differ from its defaults, by (models, scale), as `Method.presets` has them.

    An ablation (`ablates`) has the presets of the method that it removes a part from, for every
    field that both have, so that the two cannot drift apart; its own presets come on top.
    """
    cls, full_method = get_method(name), get_method(name).ablates
    own_fields = {declared.name for declared in fields(cls)}
    presets = {
        key: {field: value for field, value in values.items() if field in own_fields}
        for key, values in (get_presets(full_method) if full_method else {}).items()
    }
    for key, values in cls.presets.items():
        presets[key] = {**presets.get(key, {}), **values}
    return presets


def get_task(name: str) -> Task:
    """Load a task by name."""
    from sa_bench.contracts import Task

    return _pick_instance(_load("task", name), Task, name)


def get_metric(name: str) -> Metric:
    """Load a metric by name."""
    from sa_bench.contracts import Metric

    return _pick_instance(_load("metric", name), Metric, name)


def _pick_instance(module: ModuleType, kind: type[Any], name: str) -> Any:
    """Pick the Task or Metric called `name` from a module."""
    instances = [v for v in vars(module).values() if isinstance(v, kind)]
    matching = [v for v in instances if v.name == name]
    if not matching:
        names = ", ".join(v.name for v in instances) or "nothing"
        raise SaBenchError(
            f"{module.__file__} must define a {kind.__name__.lower()} called {name}; it defines {names}."
        )
    return matching[0]
