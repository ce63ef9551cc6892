"""`no_ewc`: SA without the Fisher penalty (λ = 0): only replay holds the rest. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]

With unlimited replay little is lost without the penalty; with a limited set, or one that does not cover
every class, it shows what the penalty buys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Generator, Run, Task
from sa_bench.keys import later
from sa_bench.sources import losses
from sa_bench.training import Count, Rate, Recipe, Weight

# Official sd/configs: 12,600 steps of 16 pairs at 1e-5 x 4 GPUs x batch 4.
SD: Mapping[str, Any] = {"batch": 16, "lr": 1.6e-4, "steps": 12_600}


@dataclass(frozen=True)
class NoEWC:
    """SA's fields without λ and F."""

    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    scope: str = later("full")  # which parameters are trained; sa_bench.models.scopes

    version: ClassVar[int] = 2
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4 with λ = 0"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "full"): {"batch": 128, "steps": 1_000, "lr": 1e-3},
        ("vae", "quick"): {"batch": 128, "steps": 1_000, "lr": 1e-3},
        ("ddpm", "full"): {"batch": 128, "steps": 20_000},
        ("ddpm", "paper"): {"batch": 128, "steps": 20_000},
        ("text_to_image", "full"): SD,
        ("text_to_image", "paper"): SD,
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*."""
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng)
            return forget.sum() + self.gamma * remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope)
        return model
