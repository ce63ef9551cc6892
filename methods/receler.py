"""`receler`: Receler (Huang et al., ECCV 2024): light erasers in cross-attention, trained against soft prompts.

    p*   = argmin_p ‖ε_{θ*+E}(x_t, [p, c_f], t) − ε*(x_t, c_f, t)‖²                         prompts that bring c_f back
    L(E) = ‖ε_{θ*+E}(x_t, [p*, c_f], t) − sg[ε*(x_t, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²          ESD's target
         + ρ 1/L Σ_l ‖o_l ⊙ (1 − M_l)‖²                                            erase where the concept is alone

E is an adapter of rank r on the output of every cross-attention layer, o_l what it adds there, M_l the mask of the
places that look at c_f's tokens more than the average place does, by θ*'s own attention. θ* itself stays; after training
the erasers are merged into the output projections.

Differs from the paper: an eraser is linear, B (A h) on the layer's input, so that it can be merged, where the paper's has
an activation between; the soft prompt stands before the concept and is fitted anew in each step, by a few steps of the
gradient's sign, where the code keeps one that Adam learns behind it (16 vectors, 50 steps each time); M_l is of the
layer's own resolution and its threshold the mean, where the code has 16 × 16 places and 0.1; the mask's term is averaged
over all places. x_t is a noised image of c_f by θ*. ρ, 500 steps and 3e-4 are the code's; r (128 there) and batches are
ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.adapters import Adapters
from sa_bench.models.attention_maps import find_places, find_tokens, record_attention
from sa_bench.models.soft_prompts import Prefix
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class Receler(Method[Prompted]):
    """Fields of the paper."""

    eta: Weight = 1.0  # η, how far beyond the unconditional prediction
    locality: Weight = 0.1  # ρ, weight of the mask's term
    rank: Count = 16  # r
    vectors: Count = 4  # of the soft prompt
    attack_steps: Annotated[int, Field(ge=0)] = 5
    attack_rate: Rate = 0.2  # length of a step, in spreads of an embedding's values
    adapter_lr: Rate = 3e-4  # Adam, of A and B
    steps: Count = 500
    batch: Count = 8

    title: ClassVar[str] = "Receler"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("replay", "surrogate")
    source: ClassVar[str] = "Huang et al. 2024, Eq. 3-7; jasper0314-huang/Receler"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        # Fewer steps, longer ones.
        ("text_to_image", "full"): {"adapter_lr": 1e-3, "steps": 150},
        ("text_to_image", "quick"): {"adapter_lr": 3e-3, "steps": 60},
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Train the erasers, and merge them."""
        erasers = Adapters(model.net, lambda n: n.endswith("attn2.to_out.0"), self.rank, run.rng)
        concept_samples = run.concept_samples()
        prompts = [str(c) for c in task.conditions_of_concepts()]
        tokens = torch.stack([find_tokens(model, text) for text in prompts])

        def objective() -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t, t = model.add_noise(x, draw), draw.require_t()
            which = torch.randint(len(prompts), (self.batch,), generator=run.rng).tolist()
            texts = [prompts[i] for i in which]
            c_f, c_attacked = model.conditions(texts), model.conditions(Prefix.put_before(texts))
            with torch.no_grad(), erasers.off():
                target = negative_guidance(model, x_t, t, c_f, self.eta, "null")
                with record_attention(model.net) as maps:
                    shown = model.predict(x_t, t, c_f)
            masks = [find_places(A, tokens[which]) for A in maps]
            prefix = Prefix(model, self.vectors, run.rng)
            prefix.descend(
                lambda: ((model.predict(x_t, t, c_attacked) - shown) ** 2).mean(),
                self.attack_steps,
                self.attack_rate,
            )
            with prefix.in_place(), erasers.record() as added:
                predicted = model.predict(x_t, t, c_attacked)
            return ((predicted - target) ** 2).mean() + self.locality * outside(added, masks)

        run.train(erasers, objective, Recipe(self.steps, self.adapter_lr, self.batch))  # pyrefly: ignore[bad-argument-type]
        erasers.merge()
        return model


def outside(added: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Compute 1/L Σ_l of the mean over values of (o_l ⊙ (1 − M_l))², a scalar.

    Args:
        added: o_l of each layer, (N, places, channels).
        masks: M_l, (N, places) bool, in the same order.
    """
    terms = [(o**2 * ~M[..., None]).mean() for o, M in zip(added, masks, strict=True)]
    return torch.stack(terms).mean()
