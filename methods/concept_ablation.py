"""`concept_ablation`: Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV 2023).

    L(θ) = E_{x ~ p(x|c*)} ‖ sg[ε_θ(x_t, c*, t)] − ε_θ(x_t, c_f, t) ‖²                   model-based, the paper's Eq. 5

c_f is predicted as its anchor c* is, on images of the anchor: the task's surrogate. Trained are the keys' and values'
projections of cross-attention. The target is made by the network being trained (`target="current"`), as paper and code
have it to save memory: nothing holds it, and at a small model's rates c* drifts along with c_f. "frozen" asks θ*. Not
here: augmentation by crops, which the code has for objects, and its stopped gradient at the start token (with a frozen
target the micro model is the same with and without it). Steps, rate and batch of the code's README (200 steps on one
GPU, 2e-6 x batch 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Prompted, Run, Task
from sa_bench.keys import later
from sa_bench.training import Count, Rate, Recipe


@dataclass(frozen=True)
class ConceptAblation:
    """Fields of the code's README."""

    scope: str = "kv"
    lr: Rate = 8e-6  # Adam
    steps: Count = 200
    batch: Count = 4
    target: Literal["current", "frozen"] = later("current")  # whose prediction for c* is learned

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Prompted
    needs: ClassVar[tuple[str, ...]] = ()
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = "Kumari et al. 2023, Eq. 5; nupurkmr9/concept-ablation, diffusers/README"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """θ after `steps` of L from θ*."""
        images = run.surrogate()
        anchor = model.conditions([task.anchor] * self.batch)
        teacher = model.clone() if self.target == "frozen" else model

        def objective() -> Tensor:
            x, c_f = images.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t = model.add_noise(x, draw)
            with torch.no_grad():
                target = teacher.predict(x_t, draw.t, anchor)  # type: ignore[arg-type]
            return ((model.predict(x_t, draw.t, c_f) - target) ** 2).mean()  # type: ignore[arg-type]

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope)
        return model
