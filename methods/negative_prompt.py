"""`negative_prompt`: c_f in the empty prompt's place of classifier-free guidance. Nothing is trained.

    ε = ε(x_t, c_f) + s [ε(x_t, c) − ε(x_t, c_f)]

Every image is steered away from the concept, with no weight changed: whoever has the weights has the concept. The negative
prompt is encoded once, so that an attack on the words that users ask with cannot reach it.
"""

from dataclasses import dataclass
from typing import ClassVar

from sa_bench.contracts import Method, Prompted, Run, Task
from sa_bench.models.guidance import InsteadOfNull


@dataclass(frozen=True)
class NegativePrompt(Method[Prompted]):
    """No fields: the negative prompt is c_f's own."""

    title: ClassVar[str] = "Negative prompt"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = (
        "diffusers' `negative_prompt`; the SD-NEGP rows of P4D (Chin et al. 2024)"
    )

    def unfit(self, task: Task) -> str:
        """Say why the task's sampler has no guidance to act on; "" if it has."""
        if task.sampler.guidance == 1:
            return "it acts on guidance, of which there is none at 1"
        return ""

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Return θ* unchanged."""
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """Give θ* the negative prompt in place of the empty one."""
        concept = ", ".join(map(str, task.conditions_of_concepts()))
        model.defence = InsteadOfNull(model.encoded(model.conditions([concept])).detach())
        return model
