"""`salun`: SalUn, saliency-based unlearning (Fan et al., ICLR 2024), for text-to-image and classes.

    m = the share of weights with the largest |∇_θ E ‖ε − ε_θ(x_t, c_f, t)‖²|                    once, at θ*
    L(θ) = E ‖ε_θ(x_t, c_f, t) − sg[ε_θ(x_t, c', t)]‖² + α E ‖ε − ε_θ(x_r,t, c_r, t)‖²         gradients times m

x are the model's own images of c_f, c' a pseudo label (the anchor, for classes the next one), x_r replay, where the code
has images of the pseudo prompt. The target is the current model, as in the code; `target="frozen"` asks θ* (why it
matters: `concept_ablation`). Defaults of SD/train-scripts (nudity: α = 0.1, 1e-5, one epoch of 800 images by 8).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sa_bench.contracts import Diffusion, Run, Task
from sa_bench.keys import later
from sa_bench.training import Count, Rate, Recipe, Weight


@dataclass(frozen=True)
class SalUn:
    """Fields of the code."""

    alpha: Weight = 0.1  # α, weight of the retained term
    share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the weights that may move
    saliency: Count = 100  # batches that the mask is made from
    scope: str = "full"
    lr: Rate = 1e-5  # Adam
    steps: Count = 100
    batch: Count = 8
    target: Literal["current", "frozen"] = later("current")  # whose prediction for c' is learned

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Diffusion
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "Fan et al. 2024, Eq. 3, 4, 6; OPTML-Group/Unlearn-Saliency, SD/train-scripts"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """θ after `steps` of L from θ*, the masked weights alone."""
        own, replay, params = run.own(), run.replay(), model.parameters(self.scope)
        pseudo = model.conditions([task.anchor] * self.batch)
        teacher = model.clone() if self.target == "frozen" else model
        saliency = {name: torch.zeros_like(p) for name, p in params.items()}
        for _ in range(self.saliency):
            x, c = own.batch(self.batch, run.rng)
            loss = model.loss(x, c, model.draw(self.batch, run.rng)).mean()
            for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
                saliency[name] += g
        size = torch.cat([v.abs().flatten() for v in saliency.values()])
        least = size.kthvalue(max(1, round(len(size) * (1 - self.share)))).values
        masks = [(p, (saliency[name].abs() > least).to(p.dtype)) for name, p in params.items()]

        def objective() -> Tensor:
            x, c = own.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t = model.add_noise(x, draw)
            with torch.no_grad():
                target = teacher.predict(x_t, draw.t, pseudo)  # type: ignore[arg-type]
            forget = ((model.predict(x_t, draw.t, c) - target) ** 2).mean()  # type: ignore[arg-type]
            x_r, c_r = replay.batch(self.batch, run.rng)
            return forget + self.alpha * model.loss(x_r, c_r, model.draw(self.batch, run.rng)).mean()

        hooks = [p.register_hook(lambda g, m=m: g * m) for p, m in masks]
        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope)
        for hook in hooks:
            hook.remove()
        return model
