"""`finetune_retain`: go on training on everything but the concept, and hope that c_f fades.

    L(θ) = E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]           generative replay alone

The simplest baseline of the unlearning literature (Golatkar et al. call it fine-tuning): catastrophic forgetting, with
nothing to speed it up. Every method with a replay term contains it, so that what such a method adds is what it does
beyond this row.

Differs from the literature: the images are the model's own, −ELBO replaces a classifier's loss. Rate and steps are ours.
A base's averaged weights become the trained ones: at the base's own rate they would hardly follow so short a training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task
from sa_bench.training.sources import losses, reduce_losses


@dataclass(frozen=True)
class FinetuneRetain(Method):
    """Fields of the training."""

    lr: Rate = 1e-5  # Adam
    steps: Count = 1_000
    batch: Count = 16
    reduction: Literal["sum", "mean"] = "mean"  # of the losses over the batch
    scope: str = "full"

    title: ClassVar[str] = "Fine-tuning"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay",)
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Golatkar et al. 2020, the baseline `fine-tune`"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", scale): {"lr": 1e-3, "steps": 1_000, "batch": 128}
        for scale in ("full", "quick", "paper")
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L from θ*."""
        replay = run.replay()

        def objective() -> Tensor:
            (remember,) = losses(model, (replay,), self.batch, run.rng)
            return reduce_losses(remember, self.reduction)

        recipe = Recipe(self.steps, self.lr, self.batch, ema=0.0)
        run.train(model, objective, recipe, self.scope)
        return model
