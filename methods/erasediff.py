"""`erasediff`: EraseDiff (Wu et al., CVPR 2025; arXiv:2401.05779): keep the rest, subject to the concept being gone.

    min_θ L_r(θ)   subject to   q(θ) = L_f(θ) − L_f(θ_K) ≤ 0,      θ_K: θ after K gradient steps on L_f
    g = ∇L_r + κ ∇q,      κ = max(0, [φ(θ) − ⟨∇L_r, ∇q⟩] / ‖∇q‖²),      φ = η ‖∇q‖²

L_r is replay's loss. L_f(θ) = E ‖ε_θ(x_t, c_f, t) − y‖² on images of c_f, with a wrong target y. For classes y is uniform
noise on [0, 1], and x_t is made with it in ε's place, as in the code; with `noise=gaussian` x_t is made with Gaussian noise,
as images are drawn. For texts y is the prediction for the anchor: of the current model, as in the code, or of θ* (`frozen`).
g is the dynamic barrier of BOME (Liu et al. 2022, Eq. 5; the multiplier is κ, since λ is SA's): both losses descend where
they can, and where they are opposed L_f comes first, by ⟨g, ∇L_f⟩ ≥ η ‖∇L_f‖².

θ_K counts as a constant, so ∇q = ∇L_f: the inner steps change neither q's gradient nor φ, here as in the code, and are not
taken. The code has a constant in κ's place (0.1 by default, 1 in its scripts) or, where that is negative,
max(0, 0.1 − cos(∇L_r, ∇q)). Images of c_f and replay are the model's own. Averaged weights follow at 0.99, as in the code.
η is ours. Scale `paper` on Stable Diffusion has the scripts' 1e-5, batches of 16 and the 60 steps that they call enough for
a class; nudity has 160 steps and all layers but cross-attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import (
    Count,
    Diffusion,
    Draw,
    Method,
    Rate,
    Recipe,
    Run,
    Task,
    Weight,
    added_later,
)


@dataclass(frozen=True)
class EraseDiff(Method[Diffusion]):
    """Fields of the paper."""

    eta: Weight = 1.0  # η, how firmly L_f is made to descend
    target: Literal["uniform", "anchor", "frozen"] = (
        "anchor"  # y; frozen: θ*'s prediction for the anchor
    )
    noise: Literal["uniform", "gaussian"] = added_later("uniform")
    """What x_t is made with where y is uniform noise."""
    lr: Rate = 1e-5  # Adam
    steps: Count = 500
    batch: Count = 8  # images of c_f and replay images each
    scope: str = "full"

    title: ClassVar[str] = "EraseDiff"
    version: ClassVar[int] = 5
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Diffusion
    source: ClassVar[str] = "Wu et al. 2025, Algorithm 1; BOME's multiplier, Liu et al. 2022, Eq. 5"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        **{
            ("ddpm", scale): {"target": "uniform", "lr": 1e-4, "steps": 1_000, "batch": 128}
            for scale in ("full", "quick", "paper")
        },
        ("text_to_image", "paper"): {"steps": 60, "batch": 16},
    }

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """Take `steps` steps along g from θ*."""
        concept_samples, replay = run.concept_samples(), run.replay()
        anchor = model.conditions([task.anchor] * self.batch)
        star = model.clone() if self.target == "frozen" else model
        params = list(model.parameters(self.scope).values())

        def forget_loss(x: Tensor, c: Any, draw: Draw, y: Tensor) -> Tensor:
            """Compute L_f of a batch, in the unit of the model's loss."""
            x_t, t = model.add_noise(x, draw), draw.require_t()
            with model.with_dropout(draw.seed):
                error = model.predict(x_t, t, c).float() - y
            return (error**2).mean() * model.uninformed

        def forget_batch() -> tuple[Tensor, Any, Draw, Tensor]:
            """Draw images of c_f with all that L_f needs besides θ; y is of θ as it is now."""
            x, c = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            y = torch.rand(x.shape, generator=run.rng).to(x.device)
            if self.target == "uniform":
                return x, c, draw._replace(noise=y) if self.noise == "uniform" else draw, y
            with torch.no_grad(), star.with_dropout(draw.seed):
                y = star.predict(star.add_noise(x, draw), draw.require_t(), anchor)
            return x, c, draw, y

        def objective() -> None:
            x_r, c_r = replay.batch(self.batch, run.rng)
            retained = model.loss(x_r, c_r, model.draw(self.batch, run.rng)).mean()
            g_r = torch.autograd.grad(retained, params)
            g_f = torch.autograd.grad(forget_loss(*forget_batch()), params)
            kappa = multiplier(g_r, g_f, self.eta)
            for p, keep, erase in zip(params, g_r, g_f, strict=True):
                p.grad = keep + kappa * erase

        recipe = Recipe(self.steps, self.lr, self.batch, ema=0.99)
        run.train(model, objective, recipe, self.scope)
        return model


def multiplier(g_r: Sequence[Tensor], g_f: Sequence[Tensor], eta: float) -> float:
    """Compute κ = max(0, η − ⟨g_r, g_f⟩ / ‖g_f‖²); 0 where g_f vanishes.

    Args:
        g_r: gradients of L_r by parameter.
        g_f: gradients of L_f, in the same order.
        eta: φ / ‖g_f‖².
    """
    square = float(sum((g.double() ** 2).sum() for g in g_f))
    product = float(sum((a.double() * b.double()).sum() for a, b in zip(g_r, g_f, strict=True)))
    return max(0.0, eta - product / square) if square else 0.0
