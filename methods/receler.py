"""`receler`: Receler (Huang et al., ECCV 2024): light erasers in cross-attention, trained against soft prompts.

    p ← N steps of Adam on ‖ε_{θ*+E}(x_t, [c_f, p], t) − ε*(x_t, c_f, t)‖²                 vectors that bring c_f back
    L(E) = ‖ε_{θ*+E}(x_t, [c_f, p], t) − sg[ε*(x_t, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²           ESD's target
         + ρ 1/L Σ_l ‖o_l ⊙ (1 − M)‖²                                              erase where the concept is alone

E is an adapter of rank r on the output of every cross-attention layer, o_l what it adds there. p stands in the space of
the text encoder's states, in the places behind c_f's own tokens. It starts uniform on [0, 1) and is kept from step to step,
with Adam's moments; each prompt for c_f has its own, and a step takes one of the prompts. M are the places that look at
c_f's tokens, by θ*'s own attention: the maps of 16 × 16 places (of 64 × 64 latents), averaged over layers, heads and
tokens and stretched to [0, 1], are 0.1 or more. ‖·‖² is the mean, that of the last term over the places outside of M. θ*
itself stays; after training the erasers are merged into the output projections.

Differs from the code: an eraser is linear, B (A h) on the input of the layer's output projection, so that it can be merged,
where the code has up(GELU(down(·))) with biases on the output; both begin as PyTorch's linear layers, with B = up = 0. In
the code p never reaches the U-Net: it is assigned to a copy of the states (`emb_n[:, advrs_indices, :].data = …`), so that
the erasers are trained on c_f alone; here it does, as in the paper. L is taken after the N-th step, there before it. A model
without maps of 16 × 16 has those whose side is nearest to a quarter of the latents'. x_t is a noised image of c_f by θ*,
where the code draws it by the model being trained. N = 50, 16 vectors, their rate and decay, ρ, η, 500 steps and 3e-4 are
the code's; r (128 there) and batches (1 there) are ours. The small model has fewer steps and vectors, N = 5 and a decay
of 1e-4: 0.1 outweighs p's gradient there (about 2e-5), so that p is near 0 after some tens of steps of Adam; with no decay
p grew, and the erasers spoilt the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.adapters import Adapters
from sa_bench.models.attention_maps import find_tokens, record_attention
from sa_bench.models.carried import Carried
from sa_bench.models.soft_prompts import Suffix
from sa_bench.training.targets import negative_guidance

# Ours: fewer steps, vectors and N, and a decay that leaves p something to attack with.
MICRO: Mapping[str, Any] = {"vectors": 4, "attack_steps": 5, "attack_decay": 1e-4}


@dataclass(frozen=True)
class Receler(Method[Prompted]):
    """Fields of the code."""

    eta: Weight = 1.0  # η, how far beyond the unconditional prediction
    locality: Weight = 0.1  # ρ, weight of the mask's term
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.1  # of M
    rank: Count = 16  # r
    vectors: Count = 16  # of the soft prompt
    attack_steps: Annotated[int, Field(ge=0)] = 50  # N
    attack_rate: Rate = 0.1  # Adam, of the soft prompt
    attack_decay: Weight = 0.1  # its weight decay
    adapter_lr: Rate = 3e-4  # Adam, of A and B
    steps: Count = 500
    batch: Count = 8

    title: ClassVar[str] = "Receler"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("replay", "surrogate")
    source: ClassVar[str] = "Huang et al. 2024, Eq. 3-7; jasper0314-huang/Receler"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("text_to_image/micro", "full"): {**MICRO, "adapter_lr": 1e-3, "steps": 150},
        ("text_to_image/micro", "paper"): {**MICRO, "adapter_lr": 1e-3, "steps": 150},
        ("text_to_image/micro", "quick"): {**MICRO, "adapter_lr": 3e-3, "steps": 60},
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Train the erasers, and merge them."""
        erasers = Adapters(model.net, lambda n: n.endswith("attn2.to_out.0"), self.rank, run.rng)
        concept_samples = run.concept_samples()
        prompts = [str(c) for c in task.conditions_of_concepts()]
        soft = (self.vectors, self.attack_rate, self.attack_decay, run.rng)
        adversaries = [Suffix(model, text, *soft) for text in prompts]

        def objective() -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            x_t, t = model.add_noise(x, draw), draw.require_t()
            which = int(torch.randint(len(prompts), (1,), generator=run.rng))
            text, adversary = prompts[which], adversaries[which]
            c_f = model.conditions([text] * self.batch)
            with torch.no_grad(), erasers.off():
                target = negative_guidance(model, x_t, t, c_f, self.eta, "null")
                with record_attention(model.net) as maps:
                    shown = model.predict(x_t, t, c_f)
            masks = find_masks(maps, find_tokens(model, text), self.threshold, model.shape[-1])
            adversary.fit(
                lambda: ((model.predict(x_t, t, c_f) - shown) ** 2).mean(), self.attack_steps
            )
            with adversary.in_place(), erasers.record() as added:
                predicted = model.predict(x_t, t, c_f)
            return ((predicted - target) ** 2).mean() + self.locality * outside(added, masks)

        kept = {f"{i}.{k}": v for i, each in enumerate(adversaries) for k, v in each.state.items()}
        recipe = Recipe(self.steps, self.adapter_lr, self.batch)
        run.train(Carried(erasers, kept), objective, recipe)  # pyrefly: ignore[bad-argument-type]
        erasers.merge()
        return model


def find_masks(maps: Sequence[Tensor], tokens: Tensor, threshold: float, side: int) -> list[Tensor]:
    """Find the places that look at the concept's tokens, (N, places) bool for each layer.

    One mask, of the layers whose side is nearest to a quarter of `side`, is put to the size of every layer.

    Args:
        maps: attention of each layer, (N, heads, places, length).
        tokens: the concept's tokens, (length,) bool.
        threshold: least share of the way from the least attention of an image to its greatest.
        side: places along a side of the latents.
    """
    sides = [isqrt(A.shape[2]) for A in maps]
    chosen = min(sides, key=lambda s: abs(s - side / 4))
    looks = [A[..., tokens].mean((1, 3)) for A, s in zip(maps, sides, strict=True) if s == chosen]
    attention = torch.stack(looks).mean(0)
    least, greatest = attention.aminmax(dim=1, keepdim=True)
    inside = attention - least >= threshold * (greatest - least)
    square = inside.float().unflatten(1, (1, chosen, chosen))
    return [F.interpolate(square, (s, s)).flatten(1) > 0 for s in sides]


def outside(added: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Compute 1/L Σ_l of the mean of o_l² over the channels and the places outside of M_l, a scalar.

    Args:
        added: o_l of each layer, (N, places, channels).
        masks: M_l, (N, places) bool, in the same order.
    """
    terms = [
        ((o**2).mean(2) * ~M).sum() / (~M).sum().clamp(min=1)
        for o, M in zip(added, masks, strict=True)
    ]
    return torch.stack(terms).mean()
