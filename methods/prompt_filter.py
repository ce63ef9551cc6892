"""`prompt_filter`: the concept's word is replaced in every prompt. Nothing is trained and nothing unlearned.

It scores perfectly on forgetting, retention, drift and cost, as `relabel` does in the other families; a new token,
a synonym or a misspelling walks past it.
"""

from dataclasses import dataclass
from typing import ClassVar

from sa_bench.contracts import Method, Prompted, Run, Task


@dataclass(frozen=True)
class PromptFilter(Method[Prompted]):
    """Replace c_f's words by the anchor's; without a surrogate in words, strike them out."""

    title: ClassVar[str] = "Prompt filter"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "control"
    exposes: ClassVar[str] = "prompts"
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = "a control of this suite"

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Return θ* unchanged."""
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """Put the filter in front of θ*."""
        names = (task.classes[c] for c in task.concepts)
        words = {*names, *map(str, task.conditions_of_concepts())}
        model.prompt_filter = (tuple(sorted(words, key=len, reverse=True)), str(task.anchor))
        return model
