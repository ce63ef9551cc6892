"""`sa_esd`: Selective Amnesia's replay and Fisher penalty around ESD's target, which takes the surrogate's place.

    L(θ) = E_{x ~ p(x|θ*, c_f)} ‖ε_θ(x_t, c_f, t) − sg[ε*(x_t, c_f, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²
         + γ E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)]
         + λ Σ_i F_i (θ_i − θ*_i)²

Heng & Soh leave it as future work: no surrogate has to be chosen, since c_f's prediction is pushed beyond the
unconditional one, and what ESD lacks, a term that keeps the rest, is there. The first term counts as the model's own
loss does (a sum over an image's values for a DDPM, a mean over latents), so that λ and γ mean what they mean in `sa`.

Differs from `esd`: x_t is a noised image of c_f by θ*, which costs no sampling, where ESD runs the sampler for each step.
The settings are those of `sa`. η = 4 is ours: at ESD's 2 the penalty lets the micro models show what they are to forget;
scale `paper` of Stable Diffusion has 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from sa_bench.contracts import (
    Count,
    Diffusion,
    FisherOptions,
    Method,
    Rate,
    Recipe,
    Run,
    Task,
    Times,
    Weight,
)
from sa_bench.training.loop import TRAINERS, Pull
from sa_bench.training.sources import draw_losses, reduce_losses
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class SAESD(Method[Diffusion]):
    """Fields of `sa`, and of ESD's target."""

    eta: Weight = 4.0  # η, how far beyond the unconditional prediction; 2 in `esd`
    start: Literal["concept", "null"] = "concept"  # c_from, as in `esd`
    lam: Weight = 10.0  # λ, weight of the EWC penalty
    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-4  # Adam
    steps: Count = 20_000
    batch: Count = 16  # images of c_f and replay images each
    reduction: Literal["sum", "mean"] = "mean"  # of the losses over the batch
    half: bool = False  # True: λ/2 Σ F d² as in the paper's Eq. 4
    fisher: FisherOptions = FisherOptions(n=5000)  # noqa: RUF009 (frozen)
    trainer: Literal["adam", "ldm"] = "adam"
    """How L is minimised; sa_bench.training.loop.TRAINERS."""
    scope: str = "full"  # which parameters are trained; sa_bench.models.scopes
    times: Times = "pairs"
    """How t is drawn; sa_bench.training.sources.draw_losses."""

    title: ClassVar[str] = "SA with ESD's target"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Diffusion
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = (
        "Heng & Soh 2023, Eq. 4, with the target of Gandikota et al. 2023, Eq. 6"
    )
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        **{("ddpm", scale): {"batch": 128} for scale in ("full", "quick", "paper")},
        **{
            ("text_to_image", scale): {
                "lam": 50.0,
                "lr": 1.6e-4,
                "steps": 12_600,
                "fisher": {"n": 5000, "set": "replay"},
                **further,
            }
            for scale, further in (
                ("full", {}),
                ("paper", {"eta": 2.0, "trainer": "ldm", "times": "independent"}),
            )
        },
    }

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """Minimise L from θ*."""
        star = model.clone()
        pull = Pull(model.parameters(self.scope), run.fisher(self.fisher), self.lam, self.half)
        concept_samples, replay = run.concept_samples(), run.replay()

        def objective() -> Tensor:
            (x_f, c_f), (x_r, c_r) = (
                source.batch(self.batch, run.rng) for source in (concept_samples, replay)
            )
            draw_f, draw_r = draw_losses(model, 2, self.batch, run.rng, self.times)
            x_t, t = model.add_noise(x_f, draw_f), draw_f.require_t()
            target = negative_guidance(star, x_t, t, c_f, self.eta, self.start)
            with model.with_dropout(draw_f.seed):
                error = model.predict(x_t, t, c_f).float() - target
            forget = (error**2).flatten(1).mean(1) * model.uninformed  # in the unit of the loss
            remember = model.loss(x_r, c_r, draw_r)
            return reduce_losses(forget, self.reduction) + self.gamma * reduce_losses(
                remember, self.reduction
            )

        recipe = Recipe(self.steps, self.lr, self.batch, **TRAINERS[self.trainer])
        run.train(model, objective, recipe, self.scope, pull=pull)
        return model
