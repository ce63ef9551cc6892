"""`naive`: drive the likelihood of c_f's own images down (Eq. 3 with ELBOs). The paper's strawman.

    L(θ) = E_{p(x|θ*, c_f)}[ELBO(x|θ, c_f)]           the model's own images of c_f are made unlikely
         + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]        generative replay
         + λ Σ_i F_i (θ_i − θ*_i)²                     the Fisher penalty

The first term has no lower bound: it diverges without end and drags the rest along, which is why the
paper maximises a surrogate's ELBO instead. `stop_at` ends it where c_f's images are as unlikely as under
plain grey, the end point of `sa` (784 ln 2 = 543.4 nats); for a diffusion model, where its noise is no
better predicted than by nothing (as many as there are pixel values).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import FisherOptions, Generator, Run, Task
from sa_bench.keys import later
from sa_bench.training import Count, Pull, Rate, Recipe, Weight

# Official sd/configs: 12,600 steps of 16 pairs at 1e-5 x 4 GPUs x batch 4.
SD: Mapping[str, Any] = {
    "lam": 800.0,
    "batch": 16,
    "lr": 1.6e-4,
    "steps": 12_600,
    "fisher": {"n": 5000, "set": "replay"},
}


@dataclass(frozen=True)
class Naive:
    """SA's fields, and where to stop."""

    lam: Weight = 100.0  # λ, weight of the EWC penalty
    gamma: Weight = 1.0  # weight of replay
    stop_at: Rate = 543.4  # nats: mean −ELBO of c_f's images at which it ends
    lr: Rate = 1e-4  # Adam; at SA's 1e-3 it is past `stop_at` within a few steps
    steps: Count = 10_000  # at the most
    batch: Count = 256  # images of c_f and replay images each
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    scope: str = later("full")  # which parameters are trained; sa_bench.models.scopes

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 3 and Fig. 2, likelihoods replaced by ELBOs"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "full"): {"lam": 50.0, "batch": 128},
        ("vae", "quick"): {"lam": 50.0, "batch": 128, "fisher": {"n": 10_000}},
        # 10 x 128: the official loss is the mean over a batch of 128, here it is the sum.
        ("ddpm", "full"): {"lam": 1280.0, "batch": 128, "steps": 20_000, "fisher": {"n": 5000}},
        ("ddpm", "paper"): {
            "lam": 1280.0,
            "batch": 128,
            "steps": 20_000,
            "fisher": {"n": 5000, "range": "unit"},
        },
        # 50 x 16: the official loss is the mean over a batch of 16, here it is the sum.
        ("text_to_image", "full"): SD,
        ("text_to_image", "paper"): SD,
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*, up to `stop_at`."""
        pull = Pull(model.parameters(self.scope), run.fisher(self.fisher), self.lam)
        own, replay, reached = run.own(), run.replay(), [0.0]

        def objective() -> Tensor:
            x_f, c_f = own.batch(self.batch, run.rng)
            x_r, c_r = replay.batch(self.batch, run.rng)
            unlikely = model.loss(x_f, c_f, model.draw(self.batch, run.rng))
            remember = model.loss(x_r, c_r, model.draw(self.batch, run.rng))
            reached[0] = float(torch.mean(unlikely.detach()))
            return -unlikely.sum() + self.gamma * remember.sum()

        recipe = Recipe(self.steps, self.lr, self.batch)
        run.train(model, objective, recipe, self.scope, pull=pull, stop=lambda: reached[0] >= self.stop_at)
        return model
