"""`mace`: Mass Concept Erasure (Lu et al., CVPR 2024), of one concept: closed form, adapters on attention, closed form.

    1. W' = argmin_V Σ ‖V e_f − W* e_g‖² + λ₁ Σ ‖V e_p − W* e_p‖² + μ ‖V − W*‖²          what c_f left in other words
    2. L(B, A) = Σ_l mean (A_l(x_t, c_f, t)[:, c_f's tokens] ⊙ M_l)²     an adapter W' + B A of rank 1, on masked attention
    3. W = argmin_V Σ ‖V e_c − (W' + B A) e_c‖² + λ₂ Σ ‖V e_p − W* e_p‖² + μ ‖V − W'‖²           fused into one matrix

for the keys' and values' projections of every cross-attention. e_c are states of all tokens of prompts that name c_f,
padding included. e_f are those of the tokens that are the same at the beginning and at the end of the prompt where the
anchor stands in c_f's place, e_g the states of these tokens there. (A causal text encoder gives those at the beginning
the same states in both: they are kept.) e_p are states of all tokens of the retained prompts, which are held to θ*'s own
outputs, after step 1 and after step 3. A_l is the attention map of layer l, M_l the places of the image that show c_f; in
step 2 end tokens count among c_f's (`end`), as in the code with `use_pooler`. A starts as N(0, 1/r²), B at 0. Timesteps
are drawn by the paper's importance, ∝ σ(.05 (t − 200)) − σ(.05 (t − 400)), or evenly (`focus` off), as the code does for
nudity.

The code trains for 50 steps at 1e-4 for celebrities and styles, 50 at 1e-5 for objects, and 120 at 1e-5 for nudity; a
step sees one of 8 images.

Differs from the code: the masks come from θ*'s own attention (places that look at c_f's tokens more than the mean place
does), where the code asks Grounded-SAM. The retained prompts are replay's, where it has
captions of COCO and of the domain; its prompts are a list of its own (or GPT's), ours are the task's templates, drawn
anew for each image, which was asked for by the name alone. The code takes the norm where L has its square. Several words
for c_f share one adapter, where the code's configs erase each as a concept with its own; with one adapter the fusion only
makes room for the rest. λ₁, λ₂ and μ are ours, and λ is of the sum per prompt that names c_f. The code's λ is of the sum
over all captions: 1e-4 for celebrities and styles, 7e-7 for nudity, with μ = 0; in step 1 it is applied twice, so
squared. For objects it has λ = 0 and μ of 10 to 1,000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
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
    adapter_lr: Rate = 1e-4  # AdamW, of A and B
    steps: Count = 50
    batch: Count = 1
    focus: bool = True  # timesteps are drawn by the paper's importance, not evenly
    decay: Weight = 0.01  # AdamW's weight decay
    clip: Rate = 1.0  # largest norm of the gradient
    scope: Literal["kv"] = "kv"  # the closed form is that of projections of text

    title: ClassVar[str] = "MACE"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("concept_samples",)
    supports: ClassVar[type] = Prompted
    source: ClassVar[str] = "Lu et al. 2024, Eq. 3-8; Shilin-LU/MACE"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("text_to_image/micro", scale): {"adapter_lr": 3e-3, "lambda_1": 30.0, "lambda_2": 30.0}
        for scale in ("full", "paper", "quick")  # ours, found by search on other digits
    }

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Refine, train the adapter, fuse."""
        templates = list_templates(task)
        names = (str(c) for c in task.prompts_for(task.concept, "forget"))
        phrases, anchor = list(dict.fromkeys(names)), str(task.anchor)
        pairs = [(template, phrase) for phrase in phrases for template in templates]
        around = [align(model, template, phrase, anchor) for template, phrase in pairs]
        e_f, e_g = (torch.cat(states) for states in zip(*around, strict=True))
        texts = [template.replace("{}", phrase) for template, phrase in pairs]
        others = [str(c) for c in dict.fromkeys(task.replay_conditions())]
        gram_c, gram_p = sum_squares(model, texts), sum_squares(model, others)
        share = len(texts) / len(others)  # so that λ does not depend on the number of prompts
        projections = model.parameters(self.scope)
        stars = {name: W.detach().clone() for name, W in projections.items()}
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

        # 1. What c_f left in other words.
        with torch.no_grad():
            for W in projections.values():
                residue = Term(1.0, W, e_g.T @ e_f, e_f.T @ e_f)
                rest = Term(self.lambda_1 * share, W, gram_p, gram_p)
                W.copy_(fit_projection([residue, rest], W, self.ridge))

        # 2. An adapter that takes attention away from c_f's tokens, where c_f is shown.
        layers = {name.removesuffix(".weight") for name in projections}
        adapters = Adapters(model.net, layers.__contains__, self.rank, run.rng, 1 / self.rank)
        concept_samples, T = run.concept_samples(), model.timesteps
        importance = focus_timesteps(T) if self.focus else torch.ones(T)

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

        recipe = Recipe(self.steps, self.adapter_lr, self.batch, clip=self.clip, decay=self.decay)
        run.train(adapters, objective, recipe)  # pyrefly: ignore[bad-argument-type]

        # 3. One matrix that reads c_f's prompts as the adapter does, and the rest as θ*.
        refined = {name: W.detach().clone() for name, W in projections.items()}
        adapters.merge()
        with torch.no_grad():
            for name, W in projections.items():
                erased = Term(1.0, W, gram_c, gram_c)
                rest = Term(self.lambda_2 * share, stars[name], gram_p, gram_p)
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


def align(model: Prompted, template: str, phrase: str, anchor: str) -> tuple[Tensor, Tensor]:
    """Encode a prompt with the phrase and with the anchor; return the states of tokens that both have, (k, width) each.

    They are the tokens that are the same from the beginning on, those that are the same up to the end token, and as much
    of the padding as both have.
    """
    c = model.conditions([template.replace("{}", words) for words in (phrase, anchor)])
    prompts = [row[: 1 + int((row == row.max()).nonzero()[0])].tolist() for row in c]
    states = model.encoded(c).double()
    old, new = match_tokens(prompts[0], prompts[1], c.shape[1])
    return states[0, old], states[1, new]


def match_tokens(old: list[int], new: list[int], length: int) -> tuple[list[int], list[int]]:
    """Find the places of the tokens that two prompts have in common, in each.

    Args:
        old: a prompt's token numbers, up to its end token.
        new: the other's.
        length: places of a prompt with its padding.
    """
    start = count_equal(old, new)
    end = count_equal(old[start:][::-1], new[start:][::-1])
    padding = length - max(len(old), len(new))
    first, second = (
        [*range(start), *range(len(tokens) - end, len(tokens) + padding)] for tokens in (old, new)
    )
    return first, second


def count_equal(old: list[int], new: list[int]) -> int:
    """Count the tokens that are equal from the first on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
