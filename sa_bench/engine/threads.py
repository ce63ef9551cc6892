"""The number of threads that a command computes with."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one intra-op thread, so that results and timings do not depend on the core count.

    Where torch is not loaded yet, it has one thread from its first moment, and is not loaded for it.
    """
    limit = _Limit()
    if "torch" in sys.modules:
        limit.apply(sys.modules["torch"])
    else:
        sys.meta_path.insert(0, limit)
    try:
        yield
    finally:
        limit.lift()


class _Limit(MetaPathFinder):
    """A limit of torch to one thread, which waits for torch to be imported."""

    def __init__(self) -> None:
        """Limit nothing yet."""
        self._torch: Any = None
        self._threads = 0

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find torch as Python would, and apply the limit once its module has run."""
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            run = loader.exec_module

            def run_and_limit(module: Any) -> None:
                run(module)
                self.apply(module)

            loader.exec_module = run_and_limit
        return spec

    def apply(self, torch: Any) -> None:
        """Limit torch to one thread, and remember how many it had."""
        self._torch, self._threads = torch, torch.get_num_threads()
        torch.set_num_threads(1)

    def lift(self) -> None:
        """Give torch its threads back, or stop waiting for it."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self._torch is not None:
            self._torch.set_num_threads(self._threads)
