"""`permuted_f`: SA with F permuted within each tensor: the right values on the wrong weights. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]
         + λ Σ_i F_π(i) (θ_i − θ*_i)²,     π a fixed random permutation within each tensor

Trace, spread and the share of each layer are F's own; only which weight is held how firmly is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import (
    Count,
    FisherOptions,
    Generator,
    Rate,
    Recipe,
    Run,
    Seed,
    Task,
    Times,
    Weight,
    added_later,
)
from sa_bench.training.loop import TRAINERS, Pull
from sa_bench.training.sources import losses, reduce_losses


@dataclass(frozen=True)
class PermutedF:
    """SA's fields, and the permutation."""

    lam: Weight = 100.0  # λ, weight of the penalty
    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    permutation: Seed = 0  # seed of π, the same for all forgetting seeds
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4
    trainer: Literal["adam", "ldm"] = added_later(
        "adam"
    )  # how L is minimised; sa_bench.training.loop.TRAINERS
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")  # noqa: RUF009  (how t is drawn, of diffusion models; sa_bench.training.sources.draw_losses)

    version: ClassVar[int] = 2
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "an ablation of this suite"
    ablates: ClassVar[str] = "sa"  # whose presets hold here, of every field that is here as well
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*."""
        rng = torch.Generator().manual_seed(self.permutation)
        permuted = {
            name: F.flatten()[torch.randperm(F.numel(), generator=rng)].view_as(F)
            for name, F in run.fisher(self.fisher).items()
        }
        pull = Pull(model.parameters(self.scope), permuted, self.lam, self.half)
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng, self.times)
            return reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model
