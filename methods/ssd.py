"""`ssd`: Selective Synaptic Dampening (Foster et al., AAAI 2024): no training, one step in closed form.

    β_i = min(λ F_i / F_f,i, 1)                θ_i ← β_i θ*_i where F_f,i > α F_i, else θ*_i

F is the diagonal of the Fisher information over all that the model draws, F_f that over c_f alone: weights that matter
more than α times as much for c_f as for everything are shrunk, the more so the more they belong to c_f. λ is called
`dampening` here, since λ is SA's.

Differs from the paper: F is that of a generator's −ELBO on its own samples, where the paper has a classifier's loss on
data, and per sample, where the code squares the gradient of a batch. F contains c_f, as in the paper, where the task has
classes; F_f/F is then at most their number, so that the paper's α = 10 would select nothing: α is ours. Where it has
prompts alone (Stable Diffusion), F is of the rest. F_f is estimated as F is, of as many images and timesteps:
with fewer its noise would look like importance. Averaged weights are shrunk by the same factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import FisherOptions, Generator, Method, Run, Task, Weight

SIZES = {
    "full": {"n": 100, "timesteps": 200},
    "quick": {"n": 20, "timesteps": 20},
    "paper": {"n": 500, "timesteps": 100},
}
"""Images, and timesteps of each, of the F of diffusion models, by scale."""


@dataclass(frozen=True)
class SSD(Method):
    """Fields of the paper, and how F is estimated."""

    alpha: Weight = 2.0  # α, how much more a weight must matter for c_f; 10 in the paper
    dampening: Weight = 1.0  # λ; 1 in the paper
    importance: FisherOptions = FisherOptions()  # noqa: RUF009 (frozen)
    """How F is estimated, and F_f, which is that of c_f alone."""
    scope: str = "full"

    title: ClassVar[str] = "SSD"
    version: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Foster et al. 2024, Eq. 5, 6; if-loops/selective-synaptic-dampening"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "quick"): {"importance": {"n": 10_000}},
        **{("ddpm", scale): {"alpha": 4.0, "importance": size} for scale, size in SIZES.items()},
        **{
            ("text_to_image", scale): {"alpha": 3.0, "importance": {**size, "set": "replay"}}
            for scale, size in SIZES.items()
        },
        **{("text_to_image/micro", scale): {"importance": {"set": "all"}} for scale in SIZES},
    }

    def fishers(self) -> dict[str, FisherOptions]:
        """Return the options of F and of F_f."""
        of_concept = replace(self.importance, set="concept", draws="replacement")
        return {"importance": self.importance, "importance_f": of_concept}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Shrink the weights of `scope` that belong to c_f."""
        F, F_f = (run.fisher(options) for options in self.fishers().values())
        averages = model.averages() or {}
        with torch.no_grad():
            for name, parameter in model.parameters(self.scope).items():
                beta = dampen(F[name], F_f[name], self.alpha, self.dampening).to(parameter)
                parameter.mul_(beta)
                if name in averages:
                    averages[name].mul_(beta)
        return model


def dampen(F: Tensor, F_f: Tensor, alpha: float, dampening: float) -> Tensor:
    """Compute β, shaped like F, in [0, 1]: 1 where a weight does not belong to c_f.

    Args:
        F: the Fisher diagonal of everything, ≥ 0.
        F_f: that of c_f, ≥ 0.
        alpha: α.
        dampening: λ.
    """
    selected = F_f > alpha * F
    beta = (dampening * F / F_f).clamp(max=1)
    return torch.where(selected, beta, 1.0)
