"""What a training did: its loss over the steps, thinned, how many steps, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

POINTS = 100  # of a curve at most
ALL_DONE, STOPPED = "all steps were done", "the method stopped it"


@dataclass(frozen=True)
class TrainingRecord:
    """One training: each point of its curve is the mean loss of as many steps as any other."""

    stage: str  # its name in progress lines: `forget sa`
    steps: int  # that were done
    planned: int  # that the recipe asks for
    end: str  # why it ended
    losses: tuple[float, ...]  # in the order of the steps, POINTS at most

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON values, losses to five digits."""
        losses = [float(f"{loss:.5g}") for loss in self.losses]
        return {**vars(self), "losses": losses}


class LossCurve:
    """Adds up losses by blocks of steps, on the device, so that no step waits for it."""

    def __init__(self, steps: int, device: torch.device) -> None:
        """Begin a curve of `steps` steps."""
        self.planned, self.done = steps, 0
        self.sums = torch.zeros(min(POINTS, max(1, steps)), device=device)

    def add(self, step: int, loss: Tensor | None) -> None:
        """Add the scalar loss of a step, counted from 0; None for a step without one."""
        block = step * len(self.sums) // self.planned
        self.sums[block] += torch.nan if loss is None else loss.detach()
        self.done = step + 1

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of it."""
        return {"losses": self.sums, "done": torch.tensor(self.done)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the state of a checkpoint, where it has one."""
        if "losses" in state and state["losses"].shape == self.sums.shape:
            self.sums.copy_(state["losses"])
            self.done = int(state["done"])

    def record(self, stage: str) -> TrainingRecord:
        """Make the record of the training that was shown as `stage`."""
        blocks = torch.arange(self.done) * len(self.sums) // max(1, self.planned)
        counts = torch.bincount(blocks, minlength=len(self.sums))
        means = self.sums.cpu()[counts > 0] / counts[counts > 0]
        means = means[means.isfinite()]  # blocks with a step that has no loss are left out
        end = ALL_DONE if self.done == self.planned else STOPPED
        return TrainingRecord(stage, self.done, self.planned, end, tuple(means.tolist()))
