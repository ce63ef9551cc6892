"""`original`: the base model itself, the row everything is compared with. Controls never win.

θ = θ*
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sa_bench.contracts import Generator, Run, Task


@dataclass(frozen=True)
class Original:
    """Forget nothing."""

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "control"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "the un-forgotten model under the same protocol"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ*, unchanged."""
        return model
