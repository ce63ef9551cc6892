"""sa_bench: did this method make this model forget this concept, at what cost, how sure are we?"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

from sa_bench.core.version import __version__

# In a checkout the rooms methods/, tasks/, metrics/ and reports/ lie beside this package; installed,
# they lie inside it. This lets an uninstalled clone run, and no user's `tasks.py` is ever shadowed.
if not (_Path(__file__).parent / "methods").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))

if _TYPE_CHECKING:
    from sa_bench.api import evaluate, load_results, run

__all__ = ["__version__", "evaluate", "load_results", "run"]


def __getattr__(name: str) -> object:
    """Load the Python interface on first use, so that `--help` and `list` never import torch."""
    if name in ("run", "evaluate", "load_results"):
        from sa_bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'sa_bench' has no attribute {name!r}")
