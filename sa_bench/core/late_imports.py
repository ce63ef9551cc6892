"""Run a component's module without the libraries that only its functions need: torch takes seconds.

A mistake in a command is told from a component's class, its fields and what it says of itself. So
an `import torch` at the top of its file happens when the name `torch` is first used, as Python's
PEP 810 has it for `lazy import`. Only what can be vouched for is put off: a few names of large
libraries, and names that this package's own files define. All else is imported where it stands, so
that a name that does not exist is told at once.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

LARGE: Mapping[str, frozenset[str]] = {
    "torch": frozenset({"Generator", "Tensor", "device", "dtype", "nn"}),
    "torch.nn": frozenset({"Module", "Parameter", "functional"}),
    "torch.nn.functional": frozenset(),
    "numpy": frozenset({"ndarray"}),
}
"""Modules that `import` may wait for, with the names that `from ... import` may wait for."""
DECORATE = "_decorate_late"  # what `@torch.no_grad()` becomes: applied with the first call
CONTRACTS = "sa_bench.contracts"
"""What classes are declared with; it is never put off."""


class LateNames(dict[str, Any]):
    """The built-in names of a module, and after them the names that it imports late.

    Python looks here for a name that the module does not have (yet).
    """

    def __init__(
        self,
        built_in: Mapping[str, Any],
        namespace: dict[str, Any],
        imports: Mapping[str, ast.Import | ast.ImportFrom],
    ) -> None:
        super().__init__(built_in)
        self.namespace = namespace
        self.imports = imports

    def __missing__(self, name: str) -> Any:
        """Import the name into the module, and return it.

        Raises:
            KeyError: the module imports nothing of that name.
        """
        tree = ast.Module([self.imports[name]], [])
        exec(compile(tree, self.namespace["__file__"], "exec"), self.namespace)
        return self.namespace[name]


def run(module: ModuleType, tree: ast.Module, file: str, built_in: Mapping[str, Any]) -> None:
    """Run a module's code in its namespace; what it may import late waits for its first use.

    Args:
        module: the module, already in `sys.modules`.
        tree: its code, which is changed.
        file: name of its file, for tracebacks.
        built_in: the built-in names that it sees.
    """
    namespace = vars(module)
    namespace.setdefault("__file__", file)
    imports = _take_late_imports(tree)
    names = LateNames(built_in, namespace, imports) if imports else dict(built_in)
    namespace["__builtins__"] = names
    if imports:
        _put_off_uses(tree, imports)
        namespace[DECORATE] = _decorate_late

        def get_late(name: str) -> Any:
            if name not in imports:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return names[name]

        namespace["__getattr__"] = get_late  # for `module.torch` and `from module import torch`
    exec(compile(tree, file, "exec", dont_inherit=True), namespace)


def import_component(name: str) -> ModuleType:
    """Import a built-in component's module; it loads torch only where it uses it at once."""
    if name in sys.modules:
        return sys.modules[name]
    if "torch" in sys.modules:  # nothing is won then
        return importlib.import_module(name)
    parent, _, stem = name.rpartition(".")
    package = importlib.import_module(parent)
    spec = importlib.util.find_spec(name)
    if spec is None or type(spec.loader) is not SourceFileLoader:
        return importlib.import_module(name)
    spec.loader = _LateLoader(name, spec.loader.path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(package, stem, module)
    return module


class _LateLoader(SourceFileLoader):
    """Loader of a module whose large libraries are loaded late."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's file."""
        tree = ast.parse(self.get_data(self.path), self.path)
        run(module, tree, self.path, vars(builtins))


def _take_late_imports(tree: ast.Module) -> dict[str, ast.Import | ast.ImportFrom]:
    """Take the imports that may wait out of a module's top level, and return them by bound name."""
    late: dict[str, ast.Import | ast.ImportFrom] = {}
    kept = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and _may_wait(node):
            late |= {alias.asname or alias.name: node for alias in node.names}
        else:
            kept.append(node)
    tree.body = kept
    return late


def _may_wait(node: ast.Import | ast.ImportFrom) -> bool:
    """Return whether an import can be vouched for, so that it may happen at the first use."""
    if isinstance(node, ast.Import):
        return all(a.name in LARGE and (a.asname or "." not in a.name) for a in node.names)
    names = {alias.name for alias in node.names}
    module = node.module or ""
    if node.level or module == CONTRACTS or not module:
        return False
    if module.partition(".")[0] == "sa_bench":
        return names <= _list_names(module)
    return names <= LARGE.get(module, frozenset())


@functools.lru_cache(maxsize=64)
def _list_names(module: str) -> frozenset[str]:
    """List what a module of this package defines or imports at its top level, without importing it."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return frozenset()
    names = {p.stem for p in path.glob("*.py")} if path.is_dir() else set()
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = {target.id for target in targets if isinstance(target, ast.Name)}
            # a package that loads its names late lists them
            names |= (
                set(ast.literal_eval(node.value)) if bound == {"__all__"} and node.value else bound
            )
    return frozenset(names)


def _put_off_uses(tree: ast.Module, imports: Iterable[str]) -> None:
    """Put off what definitions use of late names: annotations, and decorators of functions.

    Annotations become text, as PEP 563 has it; a decorator such as `@torch.no_grad()` is made with
    the first call.
    """
    late = frozenset(imports)

    def uses_late(expression: ast.AST) -> bool:
        return any(isinstance(n, ast.Name) and n.id in late for n in ast.walk(expression))

    def quote(annotation: ast.expr | None) -> ast.expr | None:
        if annotation is None or not uses_late(annotation):
            return annotation
        return ast.copy_location(ast.Constant(ast.unparse(annotation)), annotation)

    def put_off(decorator: ast.expr) -> ast.expr:
        root = decorator.func if isinstance(decorator, ast.Call) else decorator
        if not uses_late(root):  # `@metric(bound=np.inf)` says what the function is: made at once
            return decorator
        call = ast.parse(f"{DECORATE}(lambda: {ast.unparse(decorator)})", mode="eval").body
        for node in ast.walk(call):
            ast.copy_location(node, decorator)
        return call

    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = quote(node.returns)
            node.decorator_list = [put_off(decorator) for decorator in node.decorator_list]
        elif isinstance(node, ast.arg):
            node.annotation = quote(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            node.annotation = quote(node.annotation) or node.annotation


def _decorate_late(make: Callable[[], Any]) -> Callable[[Any], Any]:
    """Return a decorator that applies the decorator `make()` with the first call."""

    def decorate(function: Any) -> Any:
        decorated: list[Any] = []

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not decorated:
                decorated.append(make()(function))
            return decorated[0](*args, **kwargs)

        return call

    return decorate
