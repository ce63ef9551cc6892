"""Forget concepts one after another: the base model of each step is the model after the step before."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sa_bench.contracts import Generator, Task
from sa_bench.core.parts import parts_of
from sa_bench.core.store import Artifact
from sa_bench.engine.base import BaseSource, CellParts, TrainedBase
from sa_bench.engine.metering import note_cost
from sa_bench.models import base_models


class Steps(CellParts, Protocol):
    """What a cell's chain of stages does for a sequence."""

    base_source: BaseSource

    def of_step(self, task: Task) -> Steps:
        """Make the chain of one step."""
        ...

    @cached_property
    def forgotten(self) -> Artifact:
        """Model after forgetting."""
        ...

    @cached_property
    def model_content(self) -> str:
        """Hash of that model."""
        ...

    def model(self) -> Generator:
        """Load that model."""
        ...


class EarlierStep(TrainedBase):
    """The model after the step before, as the base model of a step."""

    def __init__(self, chain: Steps, earlier: Steps) -> None:
        """Take the chain of the step and that of the step before."""
        super().__init__(chain)
        self.earlier = earlier

    def find(self) -> base_models.Base:
        """Make the model after the step before, or find it in the store."""
        forgotten = self.earlier.forgotten
        precision = str(forgotten.meta.get("precision", "unknown"))
        file = forgotten.path / "model.safetensors"
        return base_models.Base(file, self.earlier.model_content, False, precision)

    def copy(self) -> Generator:
        """Load it; a file of what differs from its base could not be loaded alone."""
        return self.earlier.model()

    def stage(self) -> None:
        """Give None: it is no training of a base model."""
        return None


def list_steps(task: Task) -> list[Task]:
    """List the tasks of a sequence's steps: what the earlier ones forgot is gone from the later."""
    concepts = (task.concept, *task.then)
    return [
        replace(task, concept=c, then=(), gone=(*task.gone, *concepts[:i]))
        for i, c in enumerate(concepts)
    ]


def forget_in_turn(chain: Steps, folder: Path, last_alone: bool) -> dict[str, Any]:
    """Run a cell's method on each concept of its sequence in turn, and save the last model.

    With `last_alone` only the last step is done, in which all that is to be gone is: a reference, which is trained from
    scratch, builds on no model of before.

    Each step is an artifact of its own: its method sees the model after the step before as θ*, takes
    replay and F from it, and what is gone is neither forgotten again nor replayed.

    The cost of the whole is that of all steps, wherever they were made.

    Returns:
        What the forget stage records: precision, and the trainings of all steps.
    """
    step: Steps | None = None
    trainings: list[Any] = []
    tasks = list_steps(chain.task)
    for number, task in enumerate(tasks[-1:] if last_alone else tasks):
        earlier, step = step, chain.of_step(task)
        if earlier is not None:
            step.base_source = EarlierStep(step, earlier)
        trainings += step.forgotten.meta.get("trainings", ())
        note_cost(parts_of(folder), number, step.forgotten.meta.get("cost", {}))
    if step is None:
        raise ValueError(f"{chain.task.name} has no concept to forget")
    step.model().save(folder)
    return {"precision": step.forgotten.meta.get("precision", "unknown"), "trainings": trainings}
