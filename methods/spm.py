"""`spm`: Semi-Permeable Membranes (Lyu et al., CVPR 2024): adapters of rank 1 that act on prompts near the concept alone.

    L(B, A) = ‖ε_{θ*+BA}(x_t, c_f, t) − sg[ε*(x_t, t) − η (ε*(x_t, c_f, t) − ε*(x_t, t))]‖²             erase, as ESD
            + ρ E_{c_r} w(c_r) ‖ε_{θ*+BA}(x_t, c_r, t) − ε*(x_t, c_r, t)‖²,   w(c) = 1 − cos(c, c_f)    latent anchoring
    while sampling:   W = W* + γ(c)² B A,   γ(c) = 1 where c_f is named, near 0 for others              facilitated transport

Every Linear and Conv2d layer of the U-Net's transformers gets an adapter y = W* x + B (A x). After training B A is merged
into the weights; when images are made θ* takes its place again, and B A acts by γ². (The paper has γ; the code scales A
and B by it, each.) As in the code γ is the larger of two likenesses of the prompt to c_f: the share of c_f's tokens that
stand in it, anywhere and in any order, and a cosine. η = 1 and ρ = 1000 are the code's too.

The share is that of the phrase for c_f of which the prompt has most. A token is known by the vector that enters the text
encoder: what stands in a token's place instead, as a fitted or a soft prompt, is not c_f's token, whatever it is near to,
and γ is then the cosine, through which an attacker's gradients flow. Beside c_f's name γ is 1, whatever else is there.

Differs from the code: c_r are the replay prompts, with replay's images, where the code draws random embeddings near
c_f's norm and keeps them with probability w; there is one for each image of c_f, at a timestep of its own, where the code
has 4 (sampling_batch_size) at the erase term's own x_t and t. The cosine is the largest between a state of the prompt and
the state at the last token of c_f, less that of the empty prompt, rescaled to reach 1: the code takes that of the states
of all tokens together, as it is. Guidance's pass for the empty prompt has the empty prompt's γ, which is 0; in the code
it has the prompt's. x_t is a noised image, where the code samples it with the adapters on. Without warm-up and restarts
of the rate. A gate acts around the weights, so that who holds them turns it off: the threat model is `service`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.models.adapters import Adapters, Gate, TokenShares
from sa_bench.models.text_projections import encode_last_token
from sa_bench.training.sources import sample_conditions
from sa_bench.training.targets import negative_guidance


@dataclass(frozen=True)
class SPM(Method[Prompted]):
    """Fields of the code's configs."""

    eta: Weight = 1.0  # η, how far beyond the unconditional prediction
    anchoring: Weight = 1000.0  # ρ, weight of latent anchoring
    rank: Count = 1
    adapter_lr: Rate = 1e-4  # AdamW, of A and B
    steps: Count = 3_000
    batch: Count = 1  # images of c_f and replay images each
    decay: Weight = 0.01  # AdamW's weight decay

    title: ClassVar[str] = "SPM"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("replay", "concept_samples")
    supports: ClassVar[type] = Prompted
    ignores: ClassVar[tuple[str, ...]] = ("surrogate",)
    source: ClassVar[str] = (
        "Lyu et al. 2024, Eq. 3-6; Con6924/SPM, src/configs/prompt.py and infer_spm.py"
    )
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        # Ours: a few dozen steps have to do what takes 3,000, and ρ must let them.
        **{
            ("text_to_image/micro", scale): {"adapter_lr": 3e-3, "anchoring": 10.0, "steps": 150}
            for scale in ("full", "paper")
        },
        ("text_to_image/micro", "quick"): {"adapter_lr": 1e-2, "anchoring": 10.0, "steps": 60},
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Train the adapters, and merge them."""
        adapters = Adapters(model.net, lambda name: ".attentions." in name, self.rank, run.rng)
        concept_samples, replay = run.concept_samples(), run.replay()
        texts = task.prompts_for(task.concept, "forget")
        concept = torch.stack([encode_last_token(model, str(text)) for text in texts]).float()

        def objective() -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            c_f, draw = (
                sample_conditions(model, texts, self.batch, run.rng),
                model.draw(self.batch, run.rng),
            )
            x_t, t = model.add_noise(x, draw), draw.require_t()
            x_r, c_r = replay.batch(self.batch, run.rng)
            draw_r = model.draw(self.batch, run.rng)
            x_r, t_r = model.add_noise(x_r, draw_r), draw_r.require_t()
            with adapters.off(), torch.no_grad():
                target = negative_guidance(model, x_t, t, c_f, self.eta, "null")
                kept = model.predict(x_r, t_r, c_r)
            erase = ((model.predict(x_t, t, c_f) - target) ** 2).mean()
            drift = ((model.predict(x_r, t_r, c_r) - kept) ** 2).flatten(1).mean(1)
            weight = 1 - compare(model.encoded(c_r), concept)
            return erase + self.anchoring * (weight * drift).mean()

        recipe = Recipe(self.steps, self.adapter_lr, self.batch, decay=self.decay)
        run.train(adapters, objective, recipe)  # pyrefly: ignore[bad-argument-type]
        adapters.merge()
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """Let what was learned act by γ(c) alone, around θ*."""
        whole: Any = model
        read = getattr(model, "origin", None)
        if read is None:
            return model  # a new model is θ* itself
        texts = [str(text) for text in task.prompts_for(task.concept, "forget")]
        shares = TokenShares(whole.text, [model.tokens_of(text) for text in texts])
        whole.forget_texts()  # what is encoded from now on has a share
        concept = torch.stack([encode_last_token(model, text) for text in texts]).float()
        null = model.encoded(model.conditions([model.null]))[0].float()
        stars = {name.removeprefix("unet."): p for name, p in read().items()}
        Gate(concept, null, shares).put_on(model.net, stars)
        return model


def compare(states: Tensor, concept: Tensor) -> Tensor:
    """Compute the largest cosine between states of a text and the concept's, (N,) in [0, 1].

    Args:
        states: (N, length, width).
        concept: (k, width).
    """
    cosines = F.normalize(states.float(), dim=2) @ F.normalize(concept, dim=1).T
    return cosines.amax((1, 2)).clamp(min=0)
