"""`fmn`: Forget-Me-Not (Zhang et al., 2023): the attention that the concept's tokens draw is driven to 0.

    L(θ) = E_{x ~ p(x|θ*, c_f)} Σ_l ‖A_l(x_t, c_f, t)[:, c_f's tokens]‖²          "attention resteering"

A_l is the map of a cross-attention layer, softmax(Q Kᵀ/√d), over heads, places and tokens. Nothing says what takes the
concept's place, and nothing holds the rest, so that training is short: 35 steps of AdamW at 2e-6 on one image in the code
(configs/attn.yaml, scale `paper`), on a few images of c_f. End tokens of the prompt count among c_f's (`end`), as in the
code with `use_pooler`: they have read the concept too. Where prompts are padded with them, all padding counts.

Differs from the code: images of c_f are the model's own, asked for and noised by the prompt that names c_f; the code may
first fit a token to real images by textual inversion. The norm is squared and averaged over images, heads and places, so
that it does not depend on their number. At other scales steps and rate are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.attention_maps import find_tokens, record_attention


@dataclass(frozen=True)
class FMN(Method[Prompted]):
    """Fields of the code's configs/attn.yaml."""

    end: bool = True  # the prompt's end token counts among c_f's
    lr: Rate = 2e-6  # AdamW
    steps: Count = 35
    batch: Count = 1
    decay: Weight = 0.01  # AdamW's weight decay, PyTorch's default
    scope: str = "full"  # or `xattn`

    title: ClassVar[str] = "Forget-Me-Not"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("replay", "surrogate")
    source: ClassVar[str] = "Zhang et al. 2023, Eq. 4; SHI-Labs/Forget-Me-Not, src/train_attn.py"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Minimise L from θ* for `steps` steps."""
        concept_samples = run.concept_samples()
        prompts = [str(c) for c in task.prompts_for(task.concept, "forget")]
        tokens = torch.stack([find_tokens(model, text, self.end) for text in prompts])

        def objective() -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            draw = model.draw(self.batch, run.rng)
            which = torch.randint(len(prompts), (self.batch,), generator=run.rng).tolist()
            c = model.conditions([prompts[i] for i in which])
            with record_attention(model.net) as maps:
                prediction = model.predict(model.add_noise(x, draw), draw.require_t(), c)
            # No map depends on the last layer's values; the second term gives them gradients of 0.
            return attention_energy(maps, tokens[which]) + 0 * prediction.sum()

        recipe = Recipe(self.steps, self.lr, self.batch, decay=self.decay)
        run.train(model, objective, recipe, self.scope)
        return model


def attention_energy(maps: list[Tensor], tokens: Tensor) -> Tensor:
    """Compute Σ_l of the mean over images, heads and places of Σ_tokens A², a scalar.

    Args:
        maps: of each layer, (N, heads, places, length).
        tokens: which tokens count, (N, length) bool.
    """
    weight = tokens[:, None, None, :].to(maps[0])
    return torch.stack([(A**2 * weight).sum(3).mean() for A in maps]).sum()
