"""`rece`: Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024): UCE, and again for what still stands for c_f.

    W ← UCE(W, c_f → c_to)                                             the closed form of `uce`
    T times:
        c'_f = argmin Σ_l ‖W_l c'_f − W*_l c_f‖² + λ ‖c'_f‖²           the embedding that the edited model reads as c_f
        W ← UCE(W, c'_f → c_to)

c'_f is known in closed form, [Σ_l W_lᵀ W_l + λ I]⁻¹ Σ_l W_lᵀ W*_l c_f, over the keys' and values' projections of every
cross-attention. λ (`ridge` here, since λ is SA's) keeps c'_f short, so that its erasure costs the rest little. Every edit
holds the retained concepts as `uce` does, and all tokens of the empty prompt, as the code's two edits do. e, p and μ are
UCE's, c_to the guide of `uce`.

Differs from the code: the embedding of a concept, or of the guide, is the state at its last token, as in `uce`, where the
code's rounds take the states of all tokens; beside the empty prompt the code retains nothing, or other artists. T, λ, μ and
p are ours. The code's scripts have T = 5, λ = 0.1 for nudity and for three of five objects, 1e-3 for the other two and for
an artist, and in a round μ = p = 0.1. Ours is the model after T rounds. The code looks at images after each: of nudity it
keeps a round that shows less than all before, of an object one that beats UCE, and it stops once the object is gone.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from sa_bench.contracts import Method, Prompted, Rate, Run, Task, Weight
from sa_bench.models.text_projections import edit_projections, encode_last_token, find_survivor


@dataclass(frozen=True)
class RECE(Method[Prompted]):
    """Fields of the paper, and UCE's weights."""

    rounds: Annotated[int, Field(ge=0)] = 3  # T
    ridge: Rate = 0.01  # λ, how short c' is kept
    erase: Weight = 1.0  # e
    preserve: Weight = 1.0  # p
    mu: Weight = 0.5  # μ, how firmly W itself is kept
    scope: Literal["kv"] = "kv"  # the closed form is that of projections of text

    title: ClassVar[str] = "RECE"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    source: ClassVar[str] = "Gong et al. 2024, Eq. 9, 10, on Gandikota et al. 2024, Eq. 7"

    @torch.no_grad()
    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Edit every projection of `scope`, 1 + T times."""
        concept = torch.stack(
            [encode_last_token(model, str(c)) for c in task.conditions_of_concepts()]
        )
        guide = encode_last_token(model, str(task.anchor))
        kept = [encode_last_token(model, task.classes[c]) for c in task.covered]
        empty = model.encoded(model.conditions([model.null]))[0].double()
        retained = torch.cat([*(state[None] for state in kept), empty])
        projections = list(model.parameters(self.scope).values())
        star = [W.detach().clone() for W in projections]
        weights = (self.erase, self.preserve, self.mu)
        edit_projections(projections, concept, guide, retained, *weights)
        for _ in range(self.rounds):
            survivors = torch.stack(
                [find_survivor(projections, star, c, self.ridge) for c in concept]
            )
            edit_projections(projections, survivors, guide, retained, *weights)
        return model
