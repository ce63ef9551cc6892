"""Selective Amnesia with one part taken away or spoilt: what is lost without it is what that part contributes.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)] + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)] + λ Σ_i F_i (θ_i − θ*_i)²

`no_gr` drops the second term, `no_ewc` the third; `l2` and `permuted_f` keep the third but spoil F. Everything else, the
presets included, is as in `sa`. Source: the paper's ablations (Section 4.1) for the first two; the others are this
suite's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
    Seed,
    Source,
    Task,
    Times,
    Weight,
    added_later,
)
from sa_bench.training import TRAINERS, Pull, losses, reduce_losses


@dataclass(frozen=True)
class Ablation(Method):
    """Fields and training that every ablation shares with `sa`."""

    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # images of each source in a step
    reduction: Literal["sum", "mean"] = added_later("sum")  # of the losses over the batch
    trainer: Literal["adam", "ldm"] = added_later("adam")  # how L is minimised: TRAINERS
    scope: str = added_later("full")  # which parameters are trained: sa_bench.models.scopes
    times: Times = added_later("pairs")
    """How t is drawn, of diffusion models."""

    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("surrogate", "replay")
    ablates: ClassVar[str] = "sa"

    def minimise(
        self, model: Generator, run: Run, sources: Sequence[Source], gamma: float, pull: Pull | None
    ) -> Generator:
        """Minimise the loss of the first source plus γ times that of the others, and the pull's penalty."""

        def objective() -> Tensor:
            forget, *others = losses(model, sources, self.batch, run.rng, self.times)
            total = reduce_losses(forget, self.reduction)
            for remember in others:
                total = total + gamma * reduce_losses(remember, self.reduction)
            return total

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model


@dataclass(frozen=True)
class NoReplay(Ablation):
    """SA without generative replay: only the Fisher penalty holds the rest. An ablation."""

    lam: Weight = 100.0  # λ, weight of the EWC penalty
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4

    name: ClassVar[str] = "no_gr"
    needs: ClassVar[tuple[str, ...]] = ("surrogate",)
    title: ClassVar[str] = "SA without replay"
    version: ClassVar[int] = 1
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4 without its last expectation"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L without its second term."""
        pull = Pull(model.parameters(self.scope), run.fisher(self.fisher), self.lam, self.half)
        return self.minimise(model, run, (run.surrogate(),), 0.0, pull)


@dataclass(frozen=True)
class NoEWC(Ablation):
    """SA without the Fisher penalty (λ = 0): only replay holds the rest. An ablation.

    With unlimited replay little is lost without the penalty; with a limited set, or one that does not cover every class,
    it shows what the penalty buys.
    """

    gamma: Weight = 1.0  # weight of replay

    name: ClassVar[str] = "no_ewc"
    title: ClassVar[str] = "SA without EWC"
    version: ClassVar[int] = 2
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4 with λ = 0"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L without its third term."""
        return self.minimise(model, run, (run.surrogate(), run.replay()), self.gamma, None)


@dataclass(frozen=True)
class SpoiltFisher(Ablation):
    """SA with an F that is replaced before training."""

    lam: Weight = 100.0  # λ, weight of the penalty
    gamma: Weight = 1.0  # weight of replay
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    half: bool = added_later(False)  # True: λ/2 Σ F d² as in the paper's Eq. 4

    source: ClassVar[str] = "an ablation of this suite"

    def spoil(self, fisher: dict[str, Tensor], trained: Collection[str]) -> dict[str, Tensor]:
        """Replace the values of F, which covers every parameter; `trained` names those that the penalty acts on."""
        raise NotImplementedError

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L with the spoilt F."""
        parameters = model.parameters(self.scope)
        spoilt = self.spoil(run.fisher(self.fisher), parameters.keys())
        pull = Pull(parameters, spoilt, self.lam, self.half)
        return self.minimise(model, run, (run.surrogate(), run.replay()), self.gamma, pull)


@dataclass(frozen=True)
class L2(SpoiltFisher):
    """SA with F replaced by a constant: a plain anchor of the same trace. An ablation.

    The constant is the mean of F over the trained weights. At matched trace the two differ in shape alone: what is left
    between `sa` and this is what the Fisher weighting buys. λ is not matched by it; tune both.
    """

    name: ClassVar[str] = "l2"
    title: ClassVar[str] = "SA with L2"
    version: ClassVar[int] = 3

    def spoil(self, fisher: dict[str, Tensor], trained: Collection[str]) -> dict[str, Tensor]:
        """Replace every value of F by the mean over the trained weights."""
        trained_F = [fisher[name] for name in trained if name in fisher]
        mean = float(sum(F.double().sum() for F in trained_F)) / sum(F.numel() for F in trained_F)
        return {name: torch.full_like(fisher[name], mean) for name in trained if name in fisher}


@dataclass(frozen=True)
class PermutedF(SpoiltFisher):
    """SA with F permuted within each tensor: the right values on the wrong weights. An ablation.

    Trace, spread and the share of each layer are F's own; only which weight is held how firmly is lost.
    """

    permutation: Seed = 0  # seed of the permutation, the same for all forgetting seeds

    name: ClassVar[str] = "permuted_f"
    title: ClassVar[str] = "SA with permuted F"
    version: ClassVar[int] = 2

    def spoil(self, fisher: dict[str, Tensor], trained: Collection[str]) -> dict[str, Tensor]:
        """Permute F within each tensor."""
        rng = torch.Generator().manual_seed(self.permutation)
        return {
            name: F.flatten()[torch.randperm(F.numel(), generator=rng)].view_as(F)
            for name, F in fisher.items()
        }
