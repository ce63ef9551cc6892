"""`advunlearn`: AdvUnlearn (Zhang et al., NeurIPS 2024): erase against an attacker, in the text encoder.

    p*   = argmin_p ‖ε_θ(x_t, [p, c_f], t) − ε*(x_t, c_f, t)‖²               the attacker: k vectors before the prompt
    L(θ) = ‖ε_θ(x_t, [p*, c_f], t) − sg[ε*(x_t, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²         ESD's target
         + ρ E_{c_r} ‖ε_θ(x_t, c_r, t) − ε*(x_t, c_r, t)‖²                   utility: the rest is predicted as before

The attacker takes steps of Adam in the space of token embeddings, each time anew from random words, after a warm-up
without one. The text encoder's layers and last norm are trained, and its embeddings and the U-Net left alone
(`scope=text`), as in the code's best setting: such an encoder can be put before other U-Nets. The defaults are those of
the code's README: η = 1, k = 1, 30 steps of 1e-3, which is 0.07 of the spread of an embedding's values (the unit here, so
that it means the same in a small model), a warm-up of 200 of 1,000 steps (a share here, so that it cannot last until the
end), Adam at 1e-5; ρ = 0.3 as for nudity.

Differs from the code: within an attack x_t and t stay the same, where the code draws them for each of its steps; x_t is a
noised image of c_f by θ*, where the code samples it from the U-Net; random words are those that anybody can type, there
every token; the retained prompts are replay's, with replay's images, where the code has five prompts of COCO's objects. On
the small model the attacker has 10 steps: ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.carried import Carried
from sa_bench.models.soft_prompts import Prefix
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class AdvUnlearn(Method[Prompted]):
    """Fields of the code."""

    eta: Weight = 1.0  # η, how far beyond the unconditional prediction
    utility: Weight = 0.3  # ρ, weight of the retained prompts
    vectors: Count = 1  # k
    attack_steps: Annotated[int, Field(ge=0)] = 30
    attack_rate: Rate = 0.07  # Adam, in spreads of an embedding's values
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps before the attacker comes."""
    lr: Rate = 1e-5  # Adam
    steps: Count = 1_000
    batch: Count = 1  # images of c_f
    retained: Count = 5  # replay images
    scope: str = "text"  # or a part of the U-Net

    title: ClassVar[str] = "AdvUnlearn"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = "Zhang et al. 2024, Eq. 4-6; OPTML-Group/AdvUnlearn"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("text_to_image/micro", scale): {"attack_steps": 10, "retained": 32}
        for scale in ("full", "paper", "quick")
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Minimise L from θ* for `steps` steps."""
        star, concept_samples, replay = model.clone(), run.concept_samples(), run.replay()
        prompts = [str(c) for c in task.conditions_of_concepts()]
        words = list(model.vocabulary())
        step = torch.zeros(())  # it is carried along: a training that is resumed must know it

        def objective() -> Tensor:
            is_attacked = int(step) >= int(self.warmup * self.steps)
            step.add_(1)
            x, _ = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t, t = model.add_noise(x, draw), draw.require_t()
            which = torch.randint(len(prompts), (self.batch,), generator=run.rng).tolist()
            texts = [prompts[i] for i in which]
            c_f, c_attacked = model.conditions(texts), model.conditions(Prefix.put_before(texts))
            target = negative_guidance(star, x_t, t, c_f, self.eta, "null")
            if is_attacked:
                prefix = Prefix(model, words, self.vectors, run.rng)
                with torch.no_grad():
                    shown = star.predict(x_t, t, c_f)
                prefix.fit(
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

        run.train(
            Carried(model, {"step": step}),  # pyrefly: ignore[bad-argument-type]
            objective,
            Recipe(self.steps, self.lr, self.batch),
            self.scope,
        )
        if self.scope == "text":  # frozen again, with its embeddings
            for name, parameter in model.parameters("joint").items():
                if name.startswith("text_encoder."):
                    parameter.requires_grad_(False)
        return model
