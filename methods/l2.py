"""`l2`: SA with F replaced by a constant: a plain anchor of the same trace. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]
         + λ f̄ Σ_i (θ_i − θ*_i)²,     f̄ = the mean of F over the trained weights

At matched trace the two differ in shape alone: what is left between `sa` and this is what the Fisher
weighting buys. λ is not matched by it; tune both.
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
    Task,
    Times,
    Weight,
    added_later,
)
from sa_bench.training.loop import TRAINERS, Pull
from sa_bench.training.sources import losses, reduce_losses


@dataclass(frozen=True)
class L2:
    """SA's fields."""

    lam: Weight = 100.0  # λ, weight of the penalty
    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4
    trainer: Literal["adam", "ldm"] = added_later(
        "adam"
    )  # how L is minimised; sa_bench.training.loop.TRAINERS
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")  # noqa: RUF009  (how t is drawn, of diffusion models; sa_bench.training.sources.draw_losses)

    version: ClassVar[int] = 3
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "an ablation of this suite"
    ablates: ClassVar[str] = "sa"  # whose presets hold here, of every field that is here as well
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*."""
        trained, F = model.parameters(self.scope), run.fisher(self.fisher)
        fisher = {name: F[name] for name in trained if name in F}
        mean = float(sum(F.double().sum() for F in fisher.values())) / sum(F.numel() for F in fisher.values())
        flat = {name: torch.full_like(F, mean) for name, F in fisher.items()}
        pull = Pull(trained, flat, self.lam, self.half)
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng, self.times)
            return reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model
