"""`l2`: SA with F replaced by a constant: a plain anchor of the same trace. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]
         + λ f̄ Σ_i (θ_i − θ*_i)²,     f̄ = the mean of F over the trained weights

At matched trace the two differ in shape alone: what is left between `sa` and this is what the Fisher
weighting buys. λ is not matched by it; tune both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import FisherOptions, Generator, Run, Task
from sa_bench.keys import later
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
class L2:
    """SA's fields."""

    lam: Weight = 100.0  # λ, weight of the penalty
    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    scope: str = later("full")  # which parameters are trained; sa_bench.models.scopes

    version: ClassVar[int] = 3
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
        trained, F = model.parameters(self.scope), run.fisher(self.fisher)
        fisher = {name: F[name] for name in trained if name in F}
        mean = float(sum(F.double().sum() for F in fisher.values())) / sum(F.numel() for F in fisher.values())
        flat = {name: torch.full_like(F, mean) for name, F in fisher.items()}
        pull = Pull(trained, flat, self.lam)
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng)
            return forget.sum() + self.gamma * remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope, pull=pull)
        return model
