"""`advunlearn`: AdvUnlearn (Zhang et al., NeurIPS 2024): erase against an attacker, in the text encoder.

    p*   = argmin_p ‖ε_θ(x_t, [p, c_f], t) − ε*(x_t, c_f, t)‖²               the attacker: k vectors before the prompt
    L(θ) = ‖ε_θ(x_t, [p*, c_f], t) − sg[ε*(x_t, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²         ESD's target
         + ρ E_{c_r} ‖ε_θ(x_t, c_r, t) − ε*(x_t, c_r, t)‖²                   utility: the rest is predicted as before

The attacker takes steps of the gradient's sign in the space of token embeddings, anew in each step after a warm-up
without one. The text encoder is trained and the U-Net left alone (`scope=text`), as in the code's best setting: such an
encoder can be put before other U-Nets. The defaults are the code's: η = 1, k = 1, 30 steps of 1e-3, which is 0.07 of the
spread of an embedding's values (the unit here, so that it means the same in a small model), 200 of 1,000 steps of
warm-up, Adam at 1e-5; ρ = 0.3 as for nudity.

Differs from the code: the attacker's steps are those of its `fast_at`, while its default takes them with Adam, and x_t
and t stay the same from step to step; x_t is a noised image of c_f by θ*, where the code samples it from the model being
trained; the retained prompts are replay's, with replay's images, where the code has five prompts of COCO's objects. At
scales other than `paper` the attacker has 10 steps, and the warm-up is 20 steps: ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.soft_prompts import Prefix
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class AdvUnlearn(Method[Prompted]):
    """Fields of the code."""

    eta: Weight = 1.0  # η, how far beyond the unconditional prediction
    utility: Weight = 0.3  # ρ, weight of the retained prompts
    vectors: Count = 1  # k
    attack_steps: Annotated[int, Field(ge=0)] = 30
    attack_rate: Rate = 0.07  # length of a step, in spreads of an embedding's values
    warmup: Annotated[int, Field(ge=0)] = 200  # steps before the attacker comes
    lr: Rate = 1e-5  # Adam
    steps: Count = 1_000
    batch: Count = 1  # images of c_f
    retained: Count = 5  # replay images
    scope: str = "text"  # or a part of the U-Net

    title: ClassVar[str] = "AdvUnlearn"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Zhang et al. 2024, Eq. 4-6; OPTML-Group/AdvUnlearn"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("text_to_image", scale): {"attack_steps": 10, "warmup": 20, "retained": 32}
        for scale in ("full", "quick")
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Minimise L from θ* for `steps` steps."""
        star, concept_samples, replay = model.clone(), run.concept_samples(), run.replay()
        prompts = [str(c) for c in task.conditions_of_concepts()]

        def objective(is_attacked: bool) -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t, t = model.add_noise(x, draw), draw.require_t()
            which = torch.randint(len(prompts), (self.batch,), generator=run.rng).tolist()
            texts = [prompts[i] for i in which]
            c_f, c_attacked = model.conditions(texts), model.conditions(Prefix.put_before(texts))
            target = negative_guidance(star, x_t, t, c_f, self.eta, "null")
            if is_attacked:
                prefix = Prefix(model, self.vectors, run.rng)
                with torch.no_grad():
                    shown = star.predict(x_t, t, c_f)
                prefix.descend(
                    lambda: ((model.predict(x_t, t, c_attacked) - shown) ** 2).mean(),
                    self.attack_steps,
                    self.attack_rate,
                )
                with prefix.in_place():
                    predicted = model.predict(x_t, t, c_attacked)
            else:
                predicted = model.predict(x_t, t, c_f)
            x_r, c_r = replay.batch(self.retained, run.rng)
            draw_r = model.draw(self.retained, run.rng)
            x_r, t_r = model.add_noise(x_r, draw_r), draw_r.require_t()
            with torch.no_grad():
                kept = star.predict(x_r, t_r, c_r)
            drift = ((model.predict(x_r, t_r, c_r) - kept) ** 2).mean()
            return ((predicted - target) ** 2).mean() + self.utility * drift

        # Two trainings, so that one that is resumed knows whether the attacker has come.
        warmup = min(self.warmup, self.steps)
        for steps, is_attacked in ((warmup, False), (self.steps - warmup, True)):
            if steps:
                recipe = Recipe(steps, self.lr, self.batch)
                run.train(model, partial(objective, is_attacked), recipe, self.scope)
        if self.scope == "text":
            for parameter in model.parameters(self.scope).values():
                parameter.requires_grad_(False)
        return model
