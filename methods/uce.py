"""`uce`: Unified Concept Editing (Gandikota et al., WACV 2024), closed form, seconds.

    W ← [μ W* + e Σ_f v_f c_fᵀ + p Σ_r (W* c_r) c_rᵀ] [μ I + e Σ_f c_f c_fᵀ + p Σ_r c_r c_rᵀ]⁻¹,   v_f = W* c_to

for the keys' and values' projections of every cross-attention: c_f's text embedding is then read as c_to's, and those
of the retained concepts as before. An embedding is the text encoder's state at the concept's last token. (The code's
`lamb` is the paper's λ; it is μ here, since λ is SA's.) Source: trainscripts/uce_sd_erase.py of
unified-concept-editing, 2025: e = p = 1,
μ = 0.5; the guide is another concept, here the surrogate's name, or the empty prompt. The paper's own script
(train-scripts/train_erase.py) read every token from the concept's last to the end and took p = max(0.1, 1/kept).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sa_bench.contracts import Method, Prompted, Run, Task, Weight
from sa_bench.models.text_projections import edit_projections, encode_last_token


@dataclass(frozen=True)
class UCE(Method[Prompted]):
    """Fields: weights, with the code's defaults."""

    erase: Weight = 1.0  # e
    preserve: Weight = 1.0  # p
    mu: Weight = 0.5  # μ, how firmly W* itself is kept
    scope: Literal["kv"] = "kv"  # the closed form is that of projections of text

    title: ClassVar[str] = "UCE"
    version: ClassVar[int] = 1
    several: ClassVar[bool] = True
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Gandikota et al. 2024, Eq. 7; unified-concept-editing, trainscripts/uce_sd_erase.py"
    )

    @torch.no_grad()
    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Solve every projection of `scope` anew, in closed form."""
        erased = torch.stack(
            [encode_last_token(model, str(c)) for c in task.conditions_of_concepts()]
        )
        guide = encode_last_token(model, str(task.anchor))
        retained = erased[:0]
        if task.covered:
            retained = torch.stack(
                [encode_last_token(model, task.classes[c]) for c in task.covered]
            )
        projections = model.parameters(self.scope).values()
        weights = (self.erase, self.preserve, self.mu)
        edit_projections(projections, erased, guide, retained, *weights)
        return model
