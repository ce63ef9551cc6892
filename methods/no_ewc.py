"""`no_ewc`: SA without the Fisher penalty (λ = 0): only replay holds the rest. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]

With unlimited replay little is lost without the penalty; with a limited set, or one that does not cover
every class, it shows what the penalty buys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sa_bench.contracts import Count, Generator, Rate, Recipe, Run, Task, Times, Weight, added_later
from sa_bench.training.loop import TRAINERS
from sa_bench.training.sources import losses, reduce_losses


@dataclass(frozen=True)
class NoEWC:
    """SA's fields without λ and F."""

    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    trainer: Literal["adam", "ldm"] = added_later(
        "adam"
    )  # how L is minimised; sa_bench.training.loop.TRAINERS
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")  # noqa: RUF009  (how t is drawn, of diffusion models; sa_bench.training.sources.draw_losses)

    version: ClassVar[int] = 2
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4 with λ = 0"
    ablates: ClassVar[str] = "sa"  # whose presets hold here, of every field that is here as well
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*."""
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng, self.times)
            return reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope)
        return model
