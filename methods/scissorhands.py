"""`scissorhands`: Scissorhands (Wu & Harandi, ECCV 2024): cut what the concept hangs on, then repair the rest.

    s_i = |θ*_i| Σ |∂L_f/∂θ_i|                       connection sensitivity of c_f, over a few batches
    θ_i ← a new random value                          for the share of each layer's weights with the largest s_i
    g = ∇(L_r − λ L_f),   and g ← g − max(0, ⟨g, ∇L_f⟩ / ‖∇L_f‖²) ∇L_f         repair: never a step towards c_f

L_f is the loss of θ on images of c_f, L_r on replay. A step that would make c_f likelier loses that part: what is left is
orthogonal to ∇L_f, which is the solution of the paper's quadratic programme with its one constraint. λ = 0.1 is the code's.

Differs from the code (Classification/unlearn/SHs_cifar10.py): images of c_f and of the rest are the model's own; ∇L_f is
that of the present θ, where the code takes the constraint's from a copy made at the start of each epoch; the constraint has
no margin, where the code adds at least half of −∇L_f to every step that violates it. λ's term and the constraint rest where
nothing is known of c_f's images any more (`naive` explains the number): without that the repair goes on raising L_f, and
on a small DDPM it lost a good part of the rest even where nothing had been cut. Each tensor of the scope with two or more
dimensions loses the same share, where the code chooses among all weights and cuts those chosen in some layers: chosen among
all, the cut fell on few layers of a small DDPM and cost it 3 to 9 bits a dimension. New values are PyTorch's own uniform
initialisation. Averaged weights become the trained ones.

On Stable Diffusion (scale `paper`) the code has no constraint, `project=false`: L_r − 0.1 L_f for a thing (SD/shs_cls.py,
sparsity 0.999, 2e-5, three epochs of a class of Imagenette by 8), for nudity L_r + 0.1 ‖ε(c_f) − ε("a photo of a person
wearing clothes")‖² (SD/shs.py, 0.995, 1e-5, five epochs by 16), whose second term is here −λ L_f too. It cuts in the
self-attention of two blocks, by the error of the guided prediction for a thing. On the small models steps and rates are
ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sa_bench.contracts import (
    Count,
    Diffusion,
    Method,
    Rate,
    Recipe,
    Run,
    Source,
    Task,
    Weight,
)


@dataclass(frozen=True)
class Scissorhands(Method[Diffusion]):
    """Fields: what is cut, and the repair."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.001  # of each layer's weights that are cut
    saliency: Count = 10  # batches that the sensitivity is summed over
    lam: Weight = 0.1  # λ, weight of L_f in the repair
    project: bool = True  # no step towards c_f; without it λ's term alone holds c_f off
    lr: Rate = 1e-5  # Adam
    steps: Count = 1_000
    batch: Count = 8  # images of c_f and replay images each
    scope: str = "full"

    title: ClassVar[str] = "Scissorhands"
    version: ClassVar[int] = 3
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Diffusion
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Wu & Harandi 2024, Algorithm 1"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        **{("ddpm", scale): {"lr": 1e-4, "batch": 128} for scale in ("full", "quick", "paper")},
        ("text_to_image", "paper"): {"project": False, "lr": 2e-5, "steps": 360},
    }

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """Cut, then repair for `steps` steps."""
        concept_samples, replay = run.concept_samples(), run.replay()
        self.cut(model, concept_samples, run)
        params = list(model.parameters(self.scope).values())

        def objective() -> None:
            losses = []
            for source in (concept_samples, replay):
                x, c = source.batch(self.batch, run.rng)
                losses += [model.loss(x, c, model.draw(self.batch, run.rng)).mean()]
            g_f, g = (torch.autograd.grad(loss, params) for loss in losses)
            if float(losses[0].detach()) < model.uninformed:
                g = [keep - self.lam * erase for keep, erase in zip(g, g_f, strict=True)]
                g = project(g, g_f) if self.project else g
            for p, direction in zip(params, g, strict=True):
                p.grad = direction

        recipe = Recipe(self.steps, self.lr, self.batch, ema=0.0)
        run.train(model, objective, recipe, self.scope)
        return model

    def cut(self, model: Diffusion, concept_samples: Source, run: Run) -> None:
        """Draw the most sensitive share of every layer's weights anew, in place."""
        params = {n: p for n, p in model.parameters(self.scope).items() if p.ndim > 1}
        total = [torch.zeros_like(p) for p in params.values()]
        for _ in range(self.saliency):
            x, c = concept_samples.batch(self.batch, run.rng)
            loss = model.loss(x, c, model.draw(self.batch, run.rng)).mean()
            for sums, g in zip(
                total, torch.autograd.grad(loss, list(params.values())), strict=True
            ):
                sums += g.abs()
        with torch.no_grad():
            for p, sums in zip(params.values(), total, strict=True):
                chosen = choose_largest(p.abs() * sums, self.share)
                bound = prod(p.shape[1:]) ** -0.5
                new = (2 * torch.rand(p.shape, generator=run.rng) - 1).to(p) * bound
                p.copy_(torch.where(chosen, new, p))


def choose_largest(values: Tensor, share: float) -> Tensor:
    """Choose the `share` of entries with the largest values, True there; the number is rounded."""
    n = round(share * values.numel())
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.flatten().topk(n).indices] = True
    return chosen.view_as(values)


def project(g: Sequence[Tensor], g_f: Sequence[Tensor]) -> list[Tensor]:
    """Take from g its part along g_f, if a step down g would be one down g_f."""
    square = float(sum((g.double() ** 2).sum() for g in g_f))
    product = float(sum((a.double() * b.double()).sum() for a, b in zip(g, g_f, strict=True)))
    factor = max(0.0, product / square) if square else 0.0
    return [a - factor * b for a, b in zip(g, g_f, strict=True)]
