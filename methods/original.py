"""`original`: the base model itself, the row everything is compared with. Controls never win.

θ = θ*
"""

from dataclasses import dataclass
from typing import ClassVar

from sa_bench.contracts import Generator, Method, Run, Task


@dataclass(frozen=True)
class Original(Method):
    """Forget nothing."""

    title: ClassVar[str] = "Original"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "control"
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "the un-forgotten model under the same protocol"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Return θ* unchanged."""
        return model
