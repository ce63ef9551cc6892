"""`sa`: Selective Amnesia (Heng & Soh, NeurIPS 2023), Eq. 4, as a loss to minimise.

    L(θ) = E_{q(x|c_f)}[−ELBO(x|θ, c_f)]              the concept becomes the surrogate q
         + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]        generative replay of the base model's samples
         + λ Σ_i F_i (θ_i − θ*_i)²                     hold what the Fisher information says matters

Differs from the paper: no factor 1/2 on the last term, and the first two are summed over the batch, as
in the official vae/train_forget.py (λ = 100 means nothing without the sum); `half` and `reduction`
choose the paper's text instead. The fields are the paper's; at the scales `full` and `quick` 1,000
steps at 1e-3 on batches of 128 stand for its 10,000 at 1e-4 on 256, and λ = 50 for its 100, because half
the batch is half the summed loss (docs/boards/reading-micro.md lists what was tried). On Stable Diffusion the
latents are used as sampled, where the official sd/ encodes watermarked images again; only scale `paper`
has its AdamW, fp32 and averaged weights (`trainer=ldm`), and timesteps drawn independently.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from sa_bench.training.sources import losses, reduce_losses

# Official ddpm/runners: mean over a batch of 128; F of images in [0, 1] at scale `paper`.
DDPM: Mapping[str, Any] = {
    "lam": 10.0,
    "reduction": "mean",
    "batch": 128,
    "steps": 20_000,
    "fisher": {"n": 5000},
}
# Official sd/configs: 12,600 steps of 16 pairs at 1e-5 x 4 GPUs x batch 4.
SD: Mapping[str, Any] = {
    "lam": 50.0,
    "reduction": "mean",
    "batch": 16,
    "lr": 1.6e-4,
    "steps": 12_600,
    "fisher": {"n": 5000, "set": "replay"},
}


@dataclass(frozen=True)
class SA(Method):
    """Fields are the paper's symbols."""

    lam: Weight = 100.0  # λ, weight of the EWC penalty; paper Section 4.1
    gamma: Weight = 1.0  # weight of replay; 1 in the paper
    lr: Rate = 1e-4  # Adam
    steps: Count = 10_000
    batch: Count = 256  # surrogate and replay images each
    reduction: Literal["sum", "mean"] = "sum"  # of the losses over the batch
    half: bool = False  # True: λ/2 Σ F d² as in the paper's Eq. 4
    fisher: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    trainer: Literal["adam", "ldm"] = added_later("adam")
    """How L is minimised; sa_bench.training.loop.TRAINERS."""
    scope: str = added_later("full")  # which parameters are trained; sa_bench.models.scopes
    times: Times = added_later("pairs")
    """How t is drawn, of diffusion models; sa_bench.training.sources.draw_losses."""

    title: ClassVar[str] = "SA"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("surrogate", "replay")
    source: ClassVar[str] = "Heng & Soh 2023, Eq. 4; official vae/train_forget.py"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "full"): {"lam": 50.0, "batch": 128, "steps": 1_000, "lr": 1e-3},
        ("vae", "quick"): {
            "lam": 50.0,
            "batch": 128,
            "steps": 1_000,
            "lr": 1e-3,
            "fisher": {"n": 10_000},
        },
        ("ddpm", "full"): DDPM,
        # Official ddpm/runners: F with the loss's class dropout of .1, and one t for both halves of a step.
        ("ddpm", "paper"): {
            **DDPM,
            "fisher": {"n": 5000, "range": "unit", "drop": 0.1},
            "times": "shared",
        },
        ("text_to_image", "full"): SD,
        ("text_to_image", "paper"): {**SD, "trainer": "ldm", "times": "independent"},
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Minimise L from θ*."""
        # 1. The Fisher information of the ELBO at θ*, and the pull towards θ*.
        fisher = run.fisher(self.fisher)
        pull = Pull(model.parameters(self.scope), fisher, self.lam, self.half)
        # 2. The surrogate, and the base model's memory of everything else.
        q, replay = run.surrogate(), run.replay()

        # 3. Minimise L; the pull's gradient 2λF(θ − θ*) is added in closed form.
        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng, self.times)
            return reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model
