"""`task_vector`: negation of a task vector (Ilharco et al., ICLR 2023), as erasure (Pham et al., arXiv:2404.03631).

    θ_ft = argmin E_{x ~ p(x|θ*, c_f)}[−ELBO(x|θ, c_f)]       fine-tuned on the concept, from θ*
    θ    = θ* − α (θ_ft − θ*)                                  a step the other way

What fine-tuning on c_f would learn further, in all weights, is subtracted; nothing holds the rest, but that α and the
fine-tuning are short. "Robust Concept Erasure Using Task Vectors" (Pham, Marshall, Hegde and Cohen) chooses α for
each prompt of a diverse set by an inverted embedding; here it is a field.

Differs from it: the images of c_f are the model's own. Steps, rate and α are ours: Stable Diffusion's are those of
fine-tuning on a few hundred images. Averaged weights get the same step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task, Weight


@dataclass(frozen=True)
class TaskVector(Method):
    """Fields: the length of the step back, and the fine-tuning."""

    alpha: Weight = 2.0  # α
    lr: Rate = 1e-5  # Adam
    steps: Count = 500
    batch: Count = 16
    scope: str = "full"

    title: ClassVar[str] = "Task vector"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    ignores: ClassVar[tuple[str, ...]] = ("replay", "surrogate")
    source: ClassVar[str] = "Ilharco et al. 2023, Section 2; Pham et al. 2024b"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", scale): {"lr": 1e-3, "steps": 300, "batch": 128}
        for scale in ("full", "quick", "paper")
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Fine-tune a copy on c_f's images, and subtract α times what changed."""
        star = {name: p.detach().clone() for name, p in model.parameters(self.scope).items()}
        averages = {name: p.detach().clone() for name, p in (model.averages() or {}).items()}
        concept_samples = run.concept_samples()

        def objective() -> Tensor:
            x, c = concept_samples.batch(self.batch, run.rng)
            return model.loss(x, c, model.draw(self.batch, run.rng)).mean()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch), self.scope)
        with torch.no_grad():
            current_averages = model.averages() or {}
            for name, parameter in model.parameters(self.scope).items():
                step = self.alpha * (parameter - star[name])
                parameter.copy_(star[name] - step)
                if name in current_averages:
                    current_averages[name].copy_(averages[name] - step)
        return model
