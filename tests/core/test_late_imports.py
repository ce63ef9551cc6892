"""Components are declared without torch: a mistake in a command is told before it is loaded."""

import ast
import builtins
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sa_bench.core import late_imports

ROOT = Path(__file__).parents[2]


def run(code, tmp_path):
    """Run code in a process of its own, which has not loaded torch."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "SA_BENCH_STORE": str(tmp_path / "store")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def execute():
    """Run a module's text as a component's is run."""
    names = []

    def call(text, name="late_example"):
        module = types.ModuleType(name)
        sys.modules[name] = module
        names.append(name)
        late_imports.run(module, ast.parse(text), "late_example.py", vars(builtins))
        return module

    yield call
    for name in names:
        sys.modules.pop(name, None)


def test_every_component_is_declared_without_torch(tmp_path):
    code = """
import sys
from dataclasses import fields
from sa_bench.core import registry
from sa_bench.core.fields import validate
heavy = []
for kind, get in (("method", registry.get_method), ("task", registry.get_task)):
    for entry in registry.list_entries(kind):
        component = get(entry.name)
        if kind == "method":
            registry.get_presets(entry.name)
            validate(component, {}, entry.name)
        if "torch" in sys.modules:
            heavy.append(entry.name)
            break
assert not heavy, heavy
"""
    run(code, tmp_path)


COMMANDS = [
    ["run", "--task", "mnist_0", "--method", "sa", "--set", "sa.lamm=3"],
    ["run", "--task", "mnist_0", "--method", "sa", "--part", "3/2"],
    ["plan", "--task", "mnist_0", "--method", "sa", "--set", "lam=x"],
    ["plan", "--task", "mnist_0", "--method", "sa", "--jobs", "0"],
    ["plan", "--suite", "micro-11"],
    ["check", "saa"],
    ["doctor", "mnist_00"],
    ["fetch", "mnist_00"],
    ["verify", "nowhere.zip"],
    ["evaluate", "nowhere", "--task", "mnist_0"],
    ["report", "nowhere"],
]


@pytest.mark.process
def test_wrong_arguments_of_commands_load_no_torch(tmp_path):
    """One process for all: the modules that one command loads stay loaded for the next."""
    code = f"""
import sys
from sa_bench.commands.app import main
for arguments in {COMMANDS!r}:
    sys.argv = ["sa_bench", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 2, (arguments, stop.code)
    assert "torch" not in sys.modules, arguments
"""
    run(code, tmp_path)


@pytest.mark.process
def test_suites_of_every_family_are_planned_without_torch(tmp_path):
    """Neither keys of what is to be trained nor its memory need a network, nor a library of one."""
    code = """
import sys
from sa_bench.commands.plan import describe_plan
from sa_bench.engine.suites import resolve_suite
for suite in ("micro-ddpm-1", "micro-t2i-1", "table1", "table2"):
    assert "memory:" in describe_plan(resolve_suite(suite))
    assert not {"torch", "diffusers", "transformers"} & set(sys.modules), suite
"""
    run(code, tmp_path)


LATE = '''
from dataclasses import dataclass
import torch
from torch import Tensor
from torch.nn import functional as F
from sa_bench.training.sources import losses


@dataclass(frozen=True)
class Both:
    inner: Tensor | None = None
    number: int = 3

    @torch.no_grad()
    def double(self, x: Tensor) -> Tensor:
        """Double."""
        assert not torch.is_grad_enabled()
        return F.relu(x) * 2


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)
'''


def test_names_are_imported_with_their_first_use(execute, rng):
    import torch

    from sa_bench.training import sources

    module = execute(LATE)
    assert not {"torch", "Tensor", "F", "losses"} & set(vars(module))
    x = torch.randn(3, generator=rng, requires_grad=True)
    doubled = module.Both().double(x)
    assert torch.equal(doubled, 2 * x.clamp(min=0))
    assert not doubled.requires_grad
    assert module.Both.double.__doc__ == "Double."
    assert vars(module)["F"] is torch.nn.functional
    assert module.is_tensor(x)
    assert not module.is_tensor(3)
    assert module.losses is sources.losses
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
    with pytest.raises(NameError, match="nowhere"):
        execute("import torch\nnowhere")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from sa_bench.training import lossses", "lossses"),
        ("from torch import Tensr", "Tensr"),
        ("from sa_bench.nowhere import x", "nowhere"),
        ("import nowhere_at_all", "nowhere_at_all"),
    ],
)
def test_a_wrong_import_is_told_at_once(execute, text, error):
    with pytest.raises(ImportError, match=error):
        execute(f"import torch\n{text}\n")


def test_what_a_class_is_made_of_is_imported_at_once(execute):
    import torch

    module = execute("from torch import nn\n\nclass Net(nn.Module):\n    limit: float = 1.0\n")
    assert issubclass(module.Net, torch.nn.Module)
