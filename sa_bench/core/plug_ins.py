"""Read a plug-in's code as a value: every source file that it imports of its own code.

Its own code is what lies in its folder or distribution. What is hashed is what runs: the files are
read once, their hash enters every key, and the modules are made from those bytes under names of
their own (`sa_bench_plugin_<hash>`), so that neither an edit, nor another plug-in's helper of the
same name, nor what `sys.modules` holds can put other code under that hash.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from sa_bench.core import late_imports
from sa_bench.core.errors import SaBenchError

PREFIX = "sa_bench_plugin_"
UNFOLLOWED = frozenset({"__import__", "import_module", "exec", "eval", "run_path", "run_module"})
"""Calls that load other code; if the name is not written out, it cannot be traced."""


@dataclass(frozen=True)
class SourceFile:
    """A module of a plug-in: its bytes as they were read."""

    path: Path
    data: bytes
    is_package: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the bytes, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Source:
    """All code of a plug-in that was read, by the dotted name it is imported under."""

    module: str  # the plug-in's own name, `mine` or `package.mine`
    root: Path  # the folder from which `module` is imported
    files: Mapping[str, SourceFile]
    unfollowed: tuple[str, ...] = ()  # "mine.py, line 12: import_module(...)"
    folders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Folders of the packages without __init__.py, by dotted name."""

    @property
    def path(self) -> Path:
        """File of the plug-in itself."""
        return self.files[self.module].path

    @property
    def sha256(self) -> str:
        """Hash of the code: that of its only file, or one over all names and hashes."""
        return hash_code({name: file.data for name, file in self.files.items()})

    @property
    def package(self) -> str:
        """Private package that its modules are imported into."""
        location = hashlib.sha256(f"{self.root}\0{self.module}".encode()).hexdigest()[:8]
        return f"{PREFIX}{location}_{self.sha256[:16]}"


def hash_code(files: Mapping[str, bytes]) -> str:
    """Hash code, given by dotted name: that of its only file, or one over all names and hashes."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def read(path: Path) -> Source:
    """Read the plug-in at `path`, a file or a package's folder, and what it imports.

    Raises:
        SaBenchError: a file cannot be read as Python.
    """
    if path.is_dir():
        return _read(path.name, path.parent, {})
    root, module = path.parent, path.stem
    relative = any(
        isinstance(node, ast.ImportFrom) and node.level
        for node in ast.walk(parse(_read_bytes(path), path))
    )
    # With `from . import x` the file is part of the package around it.
    while relative and (root / "__init__.py").is_file():
        root, module = root.parent, f"{root.name}.{module}"
    return _read(module, root, {})


def read_installed(module: str, tops: Mapping[str, Path]) -> Source:
    """Read the plug-in that is imported as `module`, and what it imports of its own distribution.

    Args:
        module: dotted name of the plug-in.
        tops: the distribution's top-level packages, with the folder each is imported from.

    Raises:
        SaBenchError: there is no such module, or a file cannot be read as Python.
    """
    top = module.partition(".")[0]
    root = tops.get(top) or find_loose_root(top, anywhere=True)
    if root is None:
        raise SaBenchError(f"there is no module {module}; is its package installed?")
    return _read(module, root, tops)


def find_definition(path: Path, kind: str) -> Path:
    """Find the file in which a plug-in's components are defined: itself, or its package's `__init__.py`.

    Raises:
        SaBenchError: there is no such file, or the folder is no package.
    """
    file = path / "__init__.py" if path.is_dir() else path
    if file.is_file():
        return file
    if (path / "run.json").is_file():
        raise SaBenchError(
            f"{path} is a run's folder and no {kind}; `report`, `export` and `compare` read runs."
        )
    missing = f"{path} has no __init__.py" if path.is_dir() else f"There is no file {path}"
    raise SaBenchError(f"{missing}, so no {kind} can be read from it.")


def find_module_file(module: str, root: Path) -> Path | None:
    """Find the file that `module` is imported from below `root`; None if there is none."""
    located = dict(_locate(module, root)).get(module)
    return located if located is not None and located.is_file() else None


def _read(module: str, root: Path, tops: Mapping[str, Path]) -> Source:
    """Read a module and, in turn, every module of the plug-in's own that it imports."""
    files: dict[str, SourceFile] = {}
    folders: dict[str, list[str]] = {}
    unfollowed: list[str] = []
    waiting = [module]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        folder = (
            root
            if name == module or top == module.partition(".")[0]
            else _find_root(top, root, tops)
        )
        for dotted, location in _locate(name, folder) if folder is not None else ():
            if location.is_dir():
                folders.setdefault(dotted, [str(location)])
            elif dotted not in files:
                files[dotted] = _read_source_file(location)
                imported, untraced = _find_imports(files[dotted], dotted)
                waiting += imported
                unfollowed += untraced
    if module not in files:
        raise SaBenchError(f"there is no module {module} under {root}.")
    return Source(module, root, files, tuple(unfollowed), folders)


def _read_source_file(path: Path) -> SourceFile:
    return SourceFile(path, _read_bytes(path), path.name.startswith("__init__."))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read ({error.strerror}).") from error


def parse(data: bytes, path: Path) -> ast.Module:
    """Parse a plug-in's bytes; a byte order mark and a coding line are understood.

    Raises:
        SaBenchError: they are not Python.
    """
    try:
        return ast.parse(data, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SaBenchError(
            f"{path} cannot be read as Python ({str(error) or type(error).__name__})."
        ) from error


def _find_imports(file: SourceFile, module: str) -> tuple[list[str], list[str]]:
    """Find the imports of a module.

    Returns:
        The dotted names that it may import, and the calls whose target is unknown.
    """
    if file.path.suffix != ".py":
        return [], []
    package = module if file.is_package else module.rpartition(".")[0]
    names, unfollowed = [], []
    for node in ast.walk(parse(file.data, file.path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parents = package.split(".") if package else []
                parents = parents[: len(parents) - node.level + 1]
                origin = ".".join([*parents, *([node.module] if node.module else [])])
            names += [
                origin,
                *(f"{origin}.{alias.name}" if origin else alias.name for alias in node.names),
            ]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called not in UNFOLLOWED or (
                called in ("exec", "eval") and not isinstance(node.func, ast.Name)
            ):
                continue
            first = node.args[0] if node.args else None
            if called in ("__import__", "import_module") and isinstance(first, ast.Constant):
                target = str(first.value)
                names.append(f"{package}{target}" if target.startswith(".") else target)
            else:
                unfollowed.append(f"{file.path.name}, line {node.lineno}: {called}(…)")
    return [name for name in names if name], unfollowed


def _find_root(top: str, root: Path, tops: Mapping[str, Path]) -> Path | None:
    """Find the folder of the package `top` if it is the plug-in's own code; None for a library."""
    if top == "sa_bench" or top in sys.stdlib_module_names:
        return None
    if top in tops:
        return tops[top]
    if not tops and not _is_library(root) and any(True for _ in _locate(top, root)):
        return root
    return find_loose_root(top)


@lru_cache(maxsize=1)
def _list_libraries() -> frozenset[Path]:
    """List the folders of installed libraries."""
    return frozenset(Path(path).resolve() for path in sysconfig.get_paths().values())


def _is_library(folder: Path) -> bool:
    """Return whether `folder` holds installed packages, which change only with their versions."""
    return folder.resolve() in _list_libraries() or folder.name in (
        "site-packages",
        "dist-packages",
    )


def find_loose_root(top: str, anywhere: bool = False) -> Path | None:
    """Find the folder from which Python would import `top`.

    Code outside the library folders (a package installed for editing, a file beside the command)
    may change from one run to the next without a new version, so it counts as the plug-in's own.

    Args:
        top: name of a top-level package or module.
        anywhere: accept a library folder too.

    Returns:
        The folder; None if there is none, or if it is a library folder and `anywhere` is False.
    """
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    search_locations = list(spec.submodule_search_locations or []) if spec else []
    origin = spec.origin if spec and spec.origin not in (None, "built-in", "frozen") else None
    if origin is None and not search_locations:
        return None
    path = Path(origin or search_locations[0])
    folder = path.parent.parent if search_locations and origin else path.parent
    return folder if anywhere or not _is_library(folder) else None


def _locate(module: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each package on the way to `module`, and the module itself, with its file.

    For a package without __init__.py its folder is yielded. The walk ends at a name that is not a
    module (the name of a value).
    """
    folder, dotted = root, ""
    for part in module.split("."):
        dotted = f"{dotted}.{part}" if dotted else part
        candidates = [folder / part / "__init__.py", folder / f"{part}.py"]
        candidates += [folder / f"{part}{suffix}" for suffix in EXTENSION_SUFFIXES]
        file = next((path for path in candidates if path.is_file()), None)
        if file is None and not ((folder / part).is_dir() and any((folder / part).glob("*.py"))):
            return
        yield dotted, file or folder / part
        if file is not None and not file.name.startswith("__init__."):
            return
        folder = folder / part


class _Finder(MetaPathFinder, Loader):
    """Importer of plug-ins' modules, which are made from the bytes that were hashed."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's specification, if it is a plug-in's."""
        package, _, module = fullname.partition(".")
        source = self.sources.get(package)
        if source is None:
            return None
        file = source.files.get(module)
        if file is not None and file.path.suffix != ".py":
            loader = ExtensionFileLoader(fullname, str(file.path))
            return importlib.util.spec_from_file_location(fullname, str(file.path), loader=loader)
        if file is None and module and module not in source.folders:
            if source.unfollowed:  # it may import what cannot be traced, and is never cached
                return None
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        is_package = file is None or file.is_package
        spec = ModuleSpec(
            fullname, self, origin=str(file.path) if file else None, is_package=is_package
        )
        spec.has_location = file is not None
        if is_package:
            search_locations = source.folders.get(module, [str(source.root)])
            spec.submodule_search_locations = (
                [str(file.path.parent)] if file else list(search_locations)
            )
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the creation of the module to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the bytes that were hashed."""
        package, _, name = module.__name__.partition(".")
        source = self.sources[package]
        if name in source.files:
            file = source.files[name]
            built_in = {**vars(builtins), "__import__": _make_importer(source)}
            late_imports.run(module, ast.parse(file.data, str(file.path)), str(file.path), built_in)


def _make_importer(source: Source) -> Any:
    """Make `__import__` for a plug-in's modules: its own code comes from its own package."""
    own_packages = {name.partition(".")[0] for name in (*source.files, *source.folders)}

    def import_own(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in own_packages:
            return builtins.__import__(name, globals, locals, fromlist, level)
        imported = builtins.__import__(
            f"{source.package}.{name}", globals, locals, fromlist or ("",), 0
        )
        return imported if fromlist else sys.modules[f"{source.package}.{top}"]

    return import_own


_finder = _Finder()


def load(source: Source) -> ModuleType:
    """Import the plug-in's module from the bytes that were read; once for the same bytes.

    Raises:
        SaBenchError: it cannot be imported, or it tries to end the process.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.sources[source.package] = source
    try:
        return importlib.import_module(f"{source.package}.{source.module}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = " ".join(str(error).split()).replace(f"{source.package}.", "")
        raise SaBenchError(
            f"{source.path} cannot be imported: {type(error).__name__}: {reason}."
        ) from error
