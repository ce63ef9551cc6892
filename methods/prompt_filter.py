"""`prompt_filter`: the concept's word is replaced in every prompt. Nothing is trained and nothing unlearned.

It scores perfectly on forgetting, retention, drift and cost, as `relabel` does in the other families; a new token,
a synonym or a misspelling walks past it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sa_bench.contracts import Prompted, Run, Task


@dataclass(frozen=True)
class PromptFilter:
    """c_f's name becomes that of the task's `relabel_to`."""

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "control"
    supports: ClassVar[type] = Prompted
    needs: ClassVar[tuple[str, ...]] = ()
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = "a control of this suite"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """θ*."""
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """θ* behind the filter."""
        model.reworded = (task.classes[task.concept], task.classes[task.relabel_to])
        return model
