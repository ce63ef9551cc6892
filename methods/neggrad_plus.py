"""`neggrad_plus`: NegGrad+ (Kurmanji et al., NeurIPS 2023): gradient ascent on the concept beside replay.

    L(θ) = −α E_{p(x|θ*, c_f)}[−ELBO(x|θ, c_f)]        the model's own images of c_f are made unlikely
           + E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]         generative replay

The paper weighs the two by 1 − β and β, in [0, 1]; α is (1 − β)/β. The first term has no lower bound, so that α is small
and training short; it ends early at `stop_at`, where the model knows nothing about c_f's images any more (`naive` explains
the number). α, and `stop_at`, are ours: the paper searches β for each task. Unlike `naive`, nothing pulls towards θ*.

Differs from the paper: images of c_f and of the rest are the model's own, −ELBO replaces a classifier's loss.
A base's averaged weights become the trained ones: at the base's own rate they would hardly follow so short a training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task, Weight
from sa_bench.training.sources import losses, reduce_losses


@dataclass(frozen=True)
class NegGradPlus(Method):
    """Fields: the weight of ascent, and where to stop."""

    alpha: Weight = 0.1  # α, weight of c_f's term; (1 − β)/β of the paper
    stop_at: Rate | Literal["auto", "none"] = "auto"  # mean loss of c_f's images at which it ends
    lr: Rate = 1e-5  # Adam
    steps: Count = 1_000  # at the most
    batch: Count = 16  # images of c_f and replay images each
    reduction: Literal["sum", "mean"] = "mean"  # of the losses over the batch
    scope: str = "full"

    title: ClassVar[str] = "NegGrad+"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Kurmanji et al. 2023, Section 5; meghdadk/SCRUB"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", scale): {"lr": 1e-4, "steps": 5_000, "batch": 128}
        for scale in ("full", "quick", "paper")
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L from θ*, until `stop_at` is reached."""
        ends = {"auto": model.uninformed, "none": inf}
        end = ends[self.stop_at] if isinstance(self.stop_at, str) else self.stop_at
        concept_samples, replay, mean_loss = run.concept_samples(), run.replay(), 0.0

        def objective() -> Tensor:
            nonlocal mean_loss
            forget, remember = losses(model, (concept_samples, replay), self.batch, run.rng)
            mean_loss = float(torch.mean(forget.detach()))
            return reduce_losses(remember, self.reduction) - self.alpha * reduce_losses(
                forget, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, ema=0.0)
        run.train(model, objective, recipe, self.scope, stop=lambda: mean_loss >= end)
        return model
