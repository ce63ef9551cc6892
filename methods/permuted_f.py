"""`permuted_f`: SA with F permuted within each tensor: the right values on the wrong weights. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]
         + λ Σ_i F_π(i) (θ_i − θ*_i)²,     π a fixed random permutation within each tensor

Trace, spread and the share of each layer are F's own; only which weight is held how firmly is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import FisherOptions, Generator, Run, Task
from sa_bench.keys import later
from sa_bench.seeds import Seed
from sa_bench.sources import losses
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
class PermutedF:
    """SA's fields, and the permutation."""

    lam: Weight = 100.0  # λ, weight of the penalty
    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    permutation: Seed = 0  # seed of π, the same for all forgetting seeds
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    scope: str = later("full")  # which parameters are trained; sa_bench.models.scopes

    version: ClassVar[int] = 2
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "an ablation of this suite"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "full"): {"lam": 50.0, "batch": 128, "steps": 1_000, "lr": 1e-3},
        ("vae", "quick"): {"lam": 50.0, "batch": 128, "steps": 1_000, "lr": 1e-3, "fisher": {"n": 10_000}},
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
        """θ after minimising L from θ*."""
        rng = torch.Generator().manual_seed(self.permutation)
        permuted = {
            name: F.flatten()[torch.randperm(F.numel(), generator=rng)].view_as(F)
            for name, F in run.fisher(self.fisher).items()
        }
        pull = Pull(model.parameters(self.scope), permuted, self.lam)
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng)
            return forget.sum() + self.gamma * remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope, pull=pull)
        return model
