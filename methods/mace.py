"""`mace`: Mass Concept Erasure (Lu et al., CVPR 2024), of one concept: closed form, adapters on attention, closed form.

    1. W' = argmin_V Σ ‖V e_f − W* e_g‖² + λ₁ Σ ‖V e_p − W* e_p‖²        what c_f left in the words around it
    2. L(B, A) = Σ_l mean (A_l(x_t, c_f, t)[:, c_f's tokens] ⊙ M_l)²     an adapter W' + B A of rank 1, on masked attention
    3. W = argmin_V Σ ‖V e_c − (W' + B A) e_c‖² + λ₂ Σ ‖V e_p − W' e_p‖²         fused into one matrix

for the keys' and values' projections of every cross-attention. e_f are states of the tokens after c_f's own in prompts
that name it, e_g those of the same tokens where the anchor stands in its place; e_c states of c_f's own tokens, e_p
those of all tokens of the retained prompts. A_l is the attention map of layer l, M_l the places of the image that show
c_f; in step 2 end tokens count among c_f's (`end`), as in the code with `use_pooler`. Timesteps are drawn by the paper's
importance, ∝ σ(.05 (t − 200)) − σ(.05 (t − 400)). Both closed forms have a small μ ‖V − W‖² besides.

Differs from the code: the masks come from θ*'s own attention (places that look at c_f's tokens more than the mean place
does), where the code asks Grounded-SAM; the retained prompts are replay's, where it has captions of COCO and of the
domain; its prompts come from GPT-4, ours are the task's own templates, drawn anew for each image, which was asked for by
the name alone. The code takes the norm where L has its square. One concept has one adapter, so that the fusion only makes
room for the rest. λ₁, λ₂ and μ are ours. The code has 50 steps at 1e-4 on 8 images, one at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight
from sa_bench.data import own_prompts
from sa_bench.models.adapters import Adapters
from sa_bench.models.attention_maps import find_places, find_tokens, find_words, record_attention
from sa_bench.models.text_projections import Term, fit_projection, sum_squares


@dataclass(frozen=True)
class MACE(Method[Prompted]):
    """Fields of the paper."""

    lambda_1: Weight = 0.1  # λ₁, weight of the retained prompts in the first closed form
    lambda_2: Weight = 0.1  # λ₂, in the second
    ridge: Rate = 0.1  # μ, how firmly what no prompt says is kept
    end: bool = True  # end tokens count among c_f's in step 2
    rank: Count = 1
    adapter_lr: Rate = 1e-4  # Adam, of A and B
    steps: Count = 50
    batch: Count = 8
    scope: Literal["kv"] = "kv"  # the closed form is that of projections of text

    title: ClassVar[str] = "MACE"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    supports: ClassVar[type] = Prompted
    source: ClassVar[str] = "Lu et al. 2024, Eq. 3-8; Shilin-LU/MACE"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        # Ours: a small model's projections are larger.
        ("text_to_image", "full"): {"adapter_lr": 3e-2},
        ("text_to_image", "quick"): {"adapter_lr": 3e-2},
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Refine, train the adapter, fuse."""
        templates = list_templates(task)
        names = (str(c) for c in task.prompts_for(task.concept, "forget"))
        phrases, anchor = list(dict.fromkeys(names)), str(task.anchor)
        pairs = [(template, phrase) for phrase in phrases for template in templates]
        around = [align(model, template, phrase, anchor) for template, phrase in pairs]
        e_f, e_g = (torch.cat(states) for states in zip(*around, strict=True))
        e_c = torch.cat([read_phrase(model, template, phrase) for template, phrase in pairs])
        others = [str(c) for c in dict.fromkeys(task.replay_conditions())]
        gram_c, gram_p = e_c.T @ e_c, sum_squares(model, others)
        share = len(pairs) / len(others)  # so that λ does not depend on the number of prompts
        projections = model.parameters(self.scope)
        texts = [template.replace("{}", phrase) for template, phrase in pairs]
        places = [find_phrase(model, template, phrase) for template, phrase in pairs]
        own, counted = (
            torch.stack(
                [
                    find_words(model, text, *place, end)
                    for text, place in zip(texts, places, strict=True)
                ]
            )
            for end in (False, self.end)
        )
        star = model.clone()

        # 1. What c_f left in the words around it.
        with torch.no_grad():
            for W in projections.values():
                residue = Term(1.0, W, e_g.T @ e_f, e_f.T @ e_f)
                rest = Term(self.lambda_1 * share, W, gram_p, gram_p)
                W.copy_(fit_projection([residue, rest], W, self.ridge))

        # 2. An adapter that takes attention away from c_f's tokens, where c_f is shown.
        layers = {name.removesuffix(".weight") for name in projections}
        adapters = Adapters(model.net, layers.__contains__, self.rank, run.rng)
        concept_samples = run.concept_samples()
        importance = focus_timesteps(model.timesteps)

        def objective() -> Tensor:
            x, _ = concept_samples.batch(self.batch, run.rng)
            t = torch.multinomial(importance, self.batch, replacement=True, generator=run.rng)
            draw = model.draw(self.batch, run.rng, t)
            which = torch.randint(len(texts), (self.batch,), generator=run.rng).tolist()
            x_t, c = model.add_noise(x, draw), model.conditions([texts[i] for i in which])
            with torch.no_grad(), record_attention(star.net) as looks:
                star.predict(x_t, draw.require_t(), c)
            shown = [find_places(A, own[which]) for A in looks]
            with record_attention(model.net) as maps:
                prediction = model.predict(x_t, draw.require_t(), c)
            # No map depends on the last layer's values; the second term gives them gradients of 0.
            return attention_inside(maps, counted[which], shown) + 0 * prediction.sum()

        recipe = Recipe(self.steps, self.adapter_lr, self.batch)
        run.train(adapters, objective, recipe)  # pyrefly: ignore[bad-argument-type]

        # 3. One matrix that reads c_f as the adapter does, and the rest as before.
        refined = {name: W.detach().clone() for name, W in projections.items()}
        adapters.merge()
        with torch.no_grad():
            for name, W in projections.items():
                erased = Term(1.0, W, gram_c, gram_c)
                rest = Term(self.lambda_2 * share, refined[name], gram_p, gram_p)
                W.copy_(fit_projection([erased, rest], refined[name], self.ridge))
        return model


def attention_inside(maps: list[Tensor], tokens: Tensor, places: list[Tensor]) -> Tensor:
    """Compute Σ_l of the mean over images, heads and places of Σ_tokens (A ⊙ M)², a scalar.

    Args:
        maps: of each layer, (N, heads, places, length).
        tokens: which tokens count, (N, length) bool.
        places: M of each layer, (N, places) bool.
    """
    terms = [
        (A**2 * tokens[:, None, None, :] * M[:, None, :, None]).sum(3).mean()
        for A, M in zip(maps, places, strict=True)
    ]
    return torch.stack(terms).sum()


def focus_timesteps(T: int) -> Tensor:
    """Compute the importance of the timesteps 0..T − 1, (T,): σ(.05 (t − 200)) − σ(.05 (t − 400)), t out of 1,000."""
    t = torch.arange(T) * (1000 / T)
    return (0.05 * (t - 200)).sigmoid() - (0.05 * (t - 400)).sigmoid()


def list_templates(task: Task) -> list[str]:
    """List prompts with `{}` for the concept: the task's own of replay, else this suite's."""
    templates = [text for text in task.prompt_options.replay if "{}" in text]
    return templates or [text for text in own_prompts.CAPTIONS if "{}" in text]


def find_phrase(model: Prompted, template: str, phrase: str) -> tuple[int, int]:
    """Find the places of a phrase's tokens in a prompt, counted without the first: the first, and the one after the last."""
    start = int(find_tokens(model, template.partition("{}")[0].strip()).sum())
    return start, start + int(find_tokens(model, phrase).sum())


def read_phrase(model: Prompted, template: str, phrase: str) -> Tensor:
    """Encode a prompt, and return the states of the phrase's own tokens, (k, width) float64."""
    states = model.encoded(model.conditions([template.replace("{}", phrase)]))[0].double()
    start, stop = find_phrase(model, template, phrase)
    return states[1 + start : 1 + stop]


def align(model: Prompted, template: str, phrase: str, anchor: str) -> tuple[Tensor, Tensor]:
    """Encode a prompt twice, and return the states of the tokens after the phrase and after the anchor, (k, width) each.

    Tokens before it are the same in both: a causal text encoder has not read the phrase yet.
    """
    prompts = [template.replace("{}", words) for words in (phrase, anchor)]
    states = model.encoded(model.conditions(prompts)).double()
    ends = [1 + find_phrase(model, template, words)[1] for words in (phrase, anchor)]
    k = states.shape[1] - max(ends)
    return states[0, ends[0] : ends[0] + k], states[1, ends[1] : ends[1] + k]
