"""`uce`: Unified Concept Editing (Gandikota et al., WACV 2024), closed form, seconds.

    W ← [μ W* + e Σ_f v_f c_fᵀ + p Σ_r (W* c_r) c_rᵀ] [μ I + e Σ_f c_f c_fᵀ + p Σ_r c_r c_rᵀ]⁻¹,   v_f = W* c_to

for the keys' and values' projections of every cross-attention: c_f's text embedding is read as c_to's, those of the
kept concepts as before. An embedding is the text encoder's state at the concept's last token. (The code's `lamb` is
the paper's λ; μ here, since λ is SA's.) Source: trainscripts/uce_sd_erase.py of unified-concept-editing, 2025: e = p = 1,
μ = 0.5; the guide is another concept, here the surrogate's name, or the empty prompt. The paper's own script
(train-scripts/train_erase.py) read every token from the concept's last to the end and took p = max(0.1, 1/kept).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sa_bench.contracts import Method, Prompted, Run, Task, Weight


@dataclass(frozen=True)
class UCE(Method[Prompted]):
    """Scales of the code's defaults."""

    erase: Weight = 1.0  # e
    preserve: Weight = 1.0  # p
    mu: Weight = 0.5  # μ, how firmly W* itself is kept
    scope: str = "kv"

    version: ClassVar[int] = 1
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = (
        "Gandikota et al. 2024, Eq. 7; unified-concept-editing, trainscripts/uce_sd_erase.py"
    )

    @torch.no_grad()
    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """θ* with every projection of `scope` solved anew."""
        erased = torch.stack(
            [last(model, str(c)) for c in task.prompts_for(task.concept, "forget")]
        )
        guide = last(model, str(task.anchor))
        kept = (
            torch.stack([last(model, task.classes[c]) for c in task.covered])
            if task.covered
            else erased[:0]
        )
        outer = self.erase * erased.T @ erased + self.preserve * kept.T @ kept
        right = self.mu * torch.eye(len(outer), device=outer.device, dtype=outer.dtype) + outer
        for parameter in model.parameters(self.scope).values():
            W = parameter.double()
            values = (W @ guide)[:, None].expand(-1, len(erased))
            left = self.mu * W + self.erase * values @ erased + self.preserve * (W @ kept.T) @ kept
            parameter.copy_(torch.linalg.solve(right, left, left=False))
        return model


def last(model: Prompted, text: str) -> Tensor:
    """The text encoder's state at the last token of `text` before the end, (width,) float64."""
    c = model.conditions([text])
    end = int((c[0] == c[0].max()).nonzero()[0])  # the end token has the highest number
    return model.encoded(c)[0, max(0, end - 1)].double()
