"""`esd`: Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023).

    ε_θ(x_t, c_f, t) ← ε*(x_t, c_from, t) − η [ε*(x_t, c_f, t) − ε*(x_t, t)]          mean squared error

The concept's prediction is pushed to the other side of the unconditional one; x_t is a sample of the frozen model for
c_f after k of the sampler's steps, t the level that it has reached. The default is the code of 2025 (esd_sd.py):
c_from = c_f and η = 2, which equals the paper's own formula (c_from empty) with η = 1; `start=null` is the paper's. Scale
`paper` follows the code of 2023 (train-esd.py), which Heng & Soh used: x_t from the edited model, 1,000 steps at 1e-5. One
detail of it is not repeated: it drew t between the sampler's levels and stopped x_t about two steps beyond t. ESD-x trains
cross-attention (`scope=xattn`, for names and styles), ESD-u everything else (`scope=esd-u`, for concepts that no single
word names; in 2023 LDM's `noxattn`, and nudity by that one word: `erase=name`). Classes are ours: a DDPM's averaged weights
become the trained ones, since at the base's own rate they would hardly follow so short a training. On Stable Diffusion x_t
comes from the task's sampler, where the code of 2025 has the pipeline's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import (
    Count,
    Diffusion,
    Method,
    Rate,
    Recipe,
    Run,
    Task,
    Weight,
    added_later,
)
from sa_bench.training.sources import sample_conditions
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class ESD(Method[Diffusion]):
    """Fields of the paper; defaults of esd_sd.py (2025), at scale `paper` of train-esd.py (2023)."""

    eta: Weight = 2.0  # η, how far beyond the unconditional prediction
    start: Literal["concept", "null"] = "concept"  # c_from
    guidance: float = 3.0  # s, with which x_t is made
    ddim_steps: Count = 50  # of the sampler that makes x_t
    frozen: bool = True  # x_t from the frozen model; False: from the one being edited
    scope: str = "xattn"  # ESD-x; `esd-u` or `noxattn` is ESD-u
    lr: Rate = 5e-5  # Adam
    steps: Count = 200
    batch: Count = 1
    erase: Literal["prompts", "name"] = added_later("prompts")
    """What names c_f: the task's prompts for it, or its name alone."""

    title: ClassVar[str] = "ESD"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    supports: ClassVar[type] = Diffusion
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("ddpm", "full"): {"scope": "full"},  # classes have no cross-attention
        ("ddpm", "quick"): {"scope": "full"},
        ("ddpm", "paper"): {"scope": "full"},
        ("text_to_image", "paper"): {
            "eta": 1.0,
            "start": "null",
            "frozen": False,
            "lr": 1e-5,
            "steps": 1_000,
        },
    }
    source: ClassVar[str] = (
        "Gandikota et al. 2023, Eq. 6; rohitgandikota/erasing, esd_sd.py and train-esd.py"
    )

    def forget(self, model: Diffusion, task: Task, run: Run) -> Diffusion:
        """Minimise the loss above from θ* for `steps` steps."""
        star, c_f = model.clone(), task.conditions_of_concepts()
        if self.erase == "name" and task.prompts is not None:
            c_f = [task.classes[c] for c in task.concepts]
        sampler = replace(task.sampler, guidance=self.guidance, steps=self.ddim_steps)
        levels = torch.tensor(star.levels(sampler))

        def objective() -> Tensor:
            c = sample_conditions(star, c_f, self.batch, run.rng)
            k = int(torch.randint(self.ddim_steps, (1,), generator=run.rng))
            x_t = (star if self.frozen else model).sample_until(c, k, run.rng, sampler)
            t = levels[k].expand(self.batch).to(x_t.device)
            target = negative_guidance(star, x_t, t, c, self.eta, self.start)
            with model.with_dropout(model.dropout_seed(run.rng)):
                return ((model.predict(x_t, t, c) - target) ** 2).mean()

        recipe = Recipe(self.steps, self.lr, self.batch, ema=0.0)
        run.train(model, objective, recipe, self.scope)
        return model
