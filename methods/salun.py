"""`salun`: SalUn, saliency-based unlearning (Fan et al., ICLR 2024), for text-to-image and classes.

    m = the share of weights with the largest |∇_θ E ‖ε − (1 + w) ε_θ(x_t, c_f, t) + w ε_θ(x_t, t)‖²|    once, at θ*
    L(θ) = E ‖ε_θ(x_t, c_f, t) − sg[ε_θ(x_t, c', t)]‖² + α E ‖ε − ε_θ(x_r,t, c_r, t)‖²            gradients times m

c' is a pseudo label: the anchor. The mask uses the error of the guided prediction, as in the code (`mask=guided`, the
default); `mask=plain` uses that of ε_θ(x_t, c_f, t) alone, as the board micro-t2i-1 did (on its model the two agree in
65 % of the weights, half by chance). The target is the current model's prediction, as in the code; `target="frozen"`
takes that of θ* (why it matters: `concept_ablation`). The settings are those of SD/: for a thing α = 0.5, 1e-5, five
epochs of a class of Imagenette by 8 (README, random_label.py); for nudity α = 0.1, one epoch of 800 images by 8, and x_r are
images of the pseudo prompt (nsfw_removal.py: `remain=pseudo`). For classes they are those of DDPM/ (CIFAR10:
α = 1e-3, 1,000 steps of 128 at 1e-4, w = 2, c = ∅ in a tenth of the images, no averaged weights; the second term is summed
over the image, the first is a mean, as here). The code has no settings for STL10, which here takes its task's batch of 64.

Differs from the code: x are the model's own images of c_f and x_r its replay, where the code has real images of both; the
pseudo class is the task's, where the code takes c_f + 1; DDPM/ clips the gradient before it is masked, here it is clipped
after; t is drawn in antithetic pairs also on Stable Diffusion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

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
    added_later,
)
from sa_bench.training.sources import drop_conditions

# Official SD/train-scripts: generate_mask.py and, for a thing, random_label.py; nudity's α is its tasks'.
SD: Mapping[str, Any] = {"alpha": 0.5, "mask": "guided", "guidance": 7.5}
# Official DDPM/: README, configs/cifar10_saliency_unlearn.yml and runners; the mask from one epoch of 5,000 images.
DDPM: Mapping[str, Any] = {
    "alpha": 1e-3,
    "mask": "guided",
    "guidance": 2.0,
    "mask_clip": 1.0,
    "saliency": 40,
    "lr": 1e-4,
    "steps": 1_000,
    "batch": 128,
    "drop": 0.1,
    "averaged": False,
}


@dataclass(frozen=True)
class SalUn(Method[Diffusion]):
    """Fields of the code."""

    alpha: Weight = 0.1  # α, weight of the retained term
    share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the weights that may move
    saliency: Count = 100  # batches that the mask is made from
    scope: str = "full"
    lr: Rate = 1e-5  # Adam
    steps: Count = 100
    batch: Count = 8
    target: Literal["current", "frozen"] = added_later("current")
    """The model whose prediction for c' is learned."""
    mask: Literal["guided", "plain"] = added_later("plain")
    """The prediction whose error makes the mask; presets have `guided`."""
    guidance: Weight = added_later(7.5)
    """Guidance w of the guided mask."""
    mask_clip: Weight = added_later(0.0)
    """The norm that each batch's gradient is cut to for the mask; 0: none."""
    remain: Literal["replay", "pseudo"] = added_later("replay")
    """What x_r are: replay, or the anchor's images."""
    drop: Annotated[float, Field(ge=0, lt=1)] = added_later(0.0)
    """Share of conditions that become ∅."""
    averaged: bool = added_later(True)
    """True trains a DDPM's averaged weights along; False replaces them by the raw ones."""

    title: ClassVar[str] = "SalUn"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Diffusion
    source: ClassVar[str] = (
        "Fan et al. 2024, Eq. 3, 4, 6; OPTML-Group/Unlearn-Saliency, SD/ and DDPM/"
    )
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        **{("ddpm", scale): DDPM for scale in ("full", "paper", "quick")},
        **{("text_to_image", scale): SD for scale in ("full", "quick")},
        ("text_to_image", "paper"): {**SD, "steps": 600},
    }

    def unfit(self, task: Task) -> str:
        """Say why a task has no images of the pseudo label, if they are asked for; "" if it has."""
        if self.remain == "pseudo" and task.surrogate.partition(":")[0] not in ("class", "prompt"):
            return f"remain=pseudo needs a surrogate that is a class or a prompt; {task.name} has {task.surrogate}"
        return ""

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """Minimise L from θ* for `steps` steps, over the masked weights alone."""
        concept_samples = run.concept_samples()
        remain = run.replay() if self.remain == "replay" else run.surrogate()
        pseudo = model.conditions([task.anchor] * self.batch)
        teacher = model.clone() if self.target == "frozen" else model
        masks = self.masks(model, concept_samples, run)
        null = model.conditions([model.null])

        def objective() -> Tensor:
            x, c = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            t = draw.require_t()
            x_t, c = model.add_noise(x, draw), drop_conditions(c, null, self.drop, run.rng)
            c_pseudo = drop_conditions(pseudo, null, self.drop, run.rng)
            with model.with_dropout(draw.seed):
                with torch.no_grad():
                    target = teacher.predict(x_t, t, c_pseudo)
                forget = ((model.predict(x_t, t, c) - target) ** 2).mean()
            x_r, c_r = remain.batch(self.batch, run.rng)
            c_r = c_r if self.remain == "replay" else pseudo
            c_r = drop_conditions(c_r, null, self.drop, run.rng)
            return (
                forget + self.alpha * model.loss(x_r, c_r, model.draw(self.batch, run.rng)).mean()
            )

        params = model.parameters(self.scope)
        hooks = [p.register_hook(lambda g, m=masks[name]: g * m) for name, p in params.items()]
        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope)
        for hook in hooks:
            hook.remove()
        if not self.averaged and (averages := model.averages()) is not None:
            with torch.no_grad():
                for name, p in params.items():
                    averages[name].copy_(p)
        return model

    def masks(self, model: Diffusion, concept_samples: Source, run: Run) -> dict[str, Tensor]:
        """Compute m by parameter name from `saliency` batches of c_f's images: 1 where a weight may move, else 0."""
        params = model.parameters(self.scope)
        saliency = {name: torch.zeros_like(p) for name, p in params.items()}
        for _ in range(self.saliency):
            x, c = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            if self.mask == "plain":
                loss = model.loss(x, c, draw).mean()
            else:
                x_t, null = model.add_noise(x, draw), model.conditions([model.null] * len(c))
                t = draw.require_t()
                conditional = model.predict(x_t, t, c)
                unconditional = model.predict(x_t, t, null)
                guided = (1 + self.guidance) * conditional - self.guidance * unconditional
                error = guided - draw.noise
                loss = (error**2).flatten(1).sum(1).mean()
            gradients = torch.autograd.grad(loss, list(params.values()))
            cut = 1.0
            if self.mask_clip:
                norm = torch.stack([g.norm() for g in gradients]).norm()
                cut = (self.mask_clip / (norm + 1e-6)).clamp(max=1)
            for name, g in zip(params, gradients, strict=True):
                saliency[name] += cut * g
        size = torch.cat([v.abs().flatten() for v in saliency.values()])
        least = size.kthvalue(max(1, round(len(size) * (1 - self.share)))).values
        return {name: (v.abs() > least).to(v.dtype) for name, v in saliency.items()}
