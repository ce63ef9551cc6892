"""`relabel`: another class's condition copied over c_f's. Nothing is trained and nothing unlearned.

    slot(c_f) ← slot(c')

It scores perfectly on P(c_f), accuracy, drift and cost; a benchmark that it can win measures the wire
to the knowledge and not the knowledge. Recovery exposes it.
"""

from dataclasses import dataclass
from typing import ClassVar

from sa_bench.contracts import Generator, Method, Run, Task


@dataclass(frozen=True)
class Relabel(Method):
    """Copy the slot of the task's `relabel_to` (c') over c_f's."""

    title: ClassVar[str] = "Relabel"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "control"
    exposes: ClassVar[str] = "classes"
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "a control of this suite"

    def unfit(self, task: Task) -> str:
        """Say why a slot cannot be copied; "" if it can.

        A pretrained model's names are several tokens that other words share; other tasks may have
        no other class.
        """
        if task.model:
            return (
                "a name is several tokens here, which other words share and other names have more or fewer of; the "
                "control to use is prompt_filter"
            )
        return "there is no other class to copy from" if task.relabel_to == task.concept else ""

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Overwrite c_f's slot of θ*."""
        for concept in task.concepts:
            model.condition(concept).write(model.condition(task.relabel_to).read())
        return model
