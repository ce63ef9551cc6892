"""`no_gr`: SA without generative replay: only the Fisher penalty holds the rest. An ablation.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + λ Σ_i F_i (θ_i − θ*_i)²

Source: the paper's ablation without replay (Section 4.1); everything else as in `sa`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
class NoReplay:
    """SA's fields without γ."""

    lam: Weight = 100.0  # λ, weight of the EWC penalty
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate images each
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4
    trainer: Literal["adam", "ldm"] = added_later(
        "adam"
    )  # how L is minimised; sa_bench.training.loop.TRAINERS
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")  # noqa: RUF009  (how t is drawn, of diffusion models; sa_bench.training.sources.draw_losses)

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4 without its last expectation"
    ablates: ClassVar[str] = "sa"  # whose presets hold here, of every field that is here as well
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ after minimising L from θ*."""
        pull = Pull(model.parameters(self.scope), run.fisher(self.fisher), self.lam, self.half)
        q = run.surrogate()

        def objective() -> Tensor:
            (forget,) = losses(model, (q,), self.batch, run.rng, self.times)
            return reduce_losses(forget, self.reduction)

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model
