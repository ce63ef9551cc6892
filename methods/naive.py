"""`naive`: drive the likelihood of c_f's own images down (Eq. 3 with ELBOs). The paper's strawman.

    L(θ) = E_{p(x|θ*, c_f)}[ELBO(x|θ, c_f)]           the model's own images of c_f are made unlikely
         + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]        generative replay
         + λ Σ_i F_i (θ_i − θ*_i)²                     the Fisher penalty

The first term has no lower bound: it diverges and drags the rest along, which is why the paper
maximises a surrogate's ELBO instead. `stop_at=auto` ends training where the model knows nothing
about c_f's images any more: a VAE finds them as unlikely as plain grey does, the end point of `sa`
(784 ln 2 = 543.4 nats); a diffusion model predicts the noise no better than zero does (the mean of
ε² is 1, its sum the number of pixel values). `stop_at=none` is the paper's Figure 2: all `steps`,
wherever they lead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import (
    Count,
    FisherOptions,
    Generator,
    Method,
    Rate,
    Recipe,
    Run,
    Task,
    Times,
    Weight,
    added_later,
)
from sa_bench.training.loop import TRAINERS, Pull
from sa_bench.training.sources import draw_losses, reduce_losses


@dataclass(frozen=True)
class Naive(Method):
    """Fields of SA, and where to stop."""

    lam: Weight = 100.0  # λ, weight of the EWC penalty
    gamma: Weight = 1.0  # weight of replay
    stop_at: Rate | Literal["auto", "none"] = "auto"  # mean loss of c_f's images at which it ends
    lr: Rate = 1e-4  # Adam; at SA's 1e-3 it is past `stop_at` within a few steps
    steps: Count = 10_000  # at the most
    batch: Count = 256  # images of c_f and replay images each
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4
    trainer: Literal["adam", "ldm"] = added_later("adam")
    """How L is minimised; sa_bench.training.loop.TRAINERS."""
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")
    """How t is drawn, of diffusion models; sa_bench.training.sources.draw_losses."""

    title: ClassVar[str] = "Naive"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 3 and Fig. 2, likelihoods replaced by ELBOs"
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    ablates: ClassVar[str] = "sa"  # its presets hold here too, for the fields that both have
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        # SA's rate of 1e-3 passes the end within a few steps. 543.4 is what `auto` gives; published
        # boards name the number.
        ("vae", "full"): {"steps": 10_000, "lr": 1e-4, "stop_at": 543.4},
        ("vae", "quick"): {"steps": 10_000, "lr": 1e-4},
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L from θ*, until `stop_at` is reached."""
        if self.stop_at == "auto":
            end = model.uninformed
        elif self.stop_at == "none":
            end = inf
        else:
            end = self.stop_at
        pull = Pull(model.parameters(self.scope), run.fisher(self.fisher), self.lam, self.half)
        concept_samples, replay, mean_loss = run.concept_samples(), run.replay(), 0.0

        def objective() -> Tensor:
            nonlocal mean_loss
            x_f, c_f = concept_samples.batch(self.batch, run.rng)
            x_r, c_r = replay.batch(self.batch, run.rng)
            draw_f, draw_r = draw_losses(model, 2, self.batch, run.rng, self.times)
            forget, remember = model.loss(x_f, c_f, draw_f), model.loss(x_r, c_r, draw_r)
            mean_loss = float(torch.mean(forget.detach()))
            return -reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull, stop=lambda: mean_loss >= end)
        return model
