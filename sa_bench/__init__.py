"""sa_bench: did this method make this model forget this concept, at what cost, how sure are we?"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

from sa_bench.core.version import __version__

# In a checkout the rooms methods/, tasks/, metrics/ and reports/ lie beside this package; installed,
# they lie inside it. This lets an uninstalled clone run, and no user's `tasks.py` is ever shadowed.
if not (_Path(__file__).parent / "methods").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))

if _TYPE_CHECKING:
    from sa_bench.commands.python import (
        compare,
        evaluate,
        figure,
        list_methods,
        list_metrics,
        list_suites,
        list_tasks,
        load_results,
        plan,
        report,
        run,
        table,
    )
    from sa_bench.core.errors import SaBenchError

__all__ = [
    "SaBenchError",
    "__version__",
    "compare",
    "evaluate",
    "figure",
    "list_methods",
    "list_metrics",
    "list_suites",
    "list_tasks",
    "load_results",
    "plan",
    "report",
    "run",
    "table",
]


def __getattr__(name: str) -> object:
    """Load the Python interface on first use, so that `--help` and `list` never import torch."""
    if name == "SaBenchError":
        from sa_bench.core import errors

        return errors.SaBenchError
    if name in __all__:
        from sa_bench.commands import python

        return getattr(python, name)
    raise AttributeError(f"module 'sa_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the interface, loaded or not."""
    return sorted(__all__)
