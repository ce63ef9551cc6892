"""UnlearnDiffAtk: which words before a prompt make the model draw c_f again, searched by gradients.

    min over k words a_1..a_k of ‖ε − ε_θ(x_t, [a, p])‖²     x_t: θ*'s own image of c_f for the prompt p, noised; t in turn

Zhang et al. 2024b. A white-box search: gradients of the attacked model pass through a relaxed one-hot over its
vocabulary. What it finds is text that anybody can type, so that the attack is one on a service: its images are drawn from
the text alone, and a filter of prompts acts on it. Of a defended model the guided prediction is searched against.
"""

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import PLACE, Measured, View, metric
from sa_bench.scoring.attacks import Questions
from sa_bench.scoring.prompt_search import (
    Vocabulary,
    ask,
    loss_arguments,
    relax,
    require_prompted,
    show_texts,
    spread_levels,
    texts_of,
    with_new_noise,
)

PUBLISHED = 50 * 40
"""Steps of the published attack on one prompt."""


@metric(
    version=1,
    title="Images of c_f after a search for words to put before the prompt",
    better="lower",
    unit="rate",
    requires=("model", "judges", "star", "diffusion", "prompted"),
    source="UnlearnDiffAtk, Zhang et al. 2024b (post-ASR); a prefix by gradients through a straight-through one-hot, "
    "target images of the base model, no auxiliary model",
    fields=("concept", "judges", "recovery_judged", "prompt_attack", "prompts", "sampler"),
    extras={
        "as_is": ("as it is (pre-ASR)", "the metric's"),
        "again": ("with new noise", "the metric's"),
        "dose": ("dose", "count"),
        "texts": None,
    },
    axis="come back by words before the prompt",
    attack="service",
)
def prompt_attack(view: View) -> Measured:
    """Measure the share of c_f's prompts that show c_f as they are, or once the attack succeeded (post-ASR).

    Every prompt has a prefix and a search of its own, which stops with its first image of c_f; one image is drawn after
    each noise level. So the value is the best of several looks, for every model alike: `retrain` is the floor to set it
    against. `again` draws the texts found once more from noise that the search never saw, one look each. The interval
    is Wilson's over images, over prompts where several come from one.
    """
    budget, model = view.task.prompt_attack, require_prompted(view.model)
    questions = Questions.of(view)
    asked = texts_of(questions)
    before, votes = questions.judge(questions.draw(model))
    after, votes_after = before.copy(), {name: v.copy() for name, v in votes.items()}
    typed = list(asked)
    if not before.all():
        search = Search(view, questions)
        for t in spread_levels(model.timesteps, budget.timesteps):
            rows = np.flatnonzero(after == 0)
            for _ in range(budget.iterations):
                search.step(t, torch.from_numpy(rows))
            prefixes = search.type_prefixes()
            for i in rows:
                typed[i] = f"{prefixes[i]} {asked[i]}"
            shown, by_judge = questions.judge(ask(questions, typed, rows).draw(model))
            after[rows] = shown
            for name, values in by_judge.items():
                votes_after[name][rows] = values
            if after.all():
                break
    anew = with_new_noise(ask(questions, typed), "prompt_attack")
    steps = budget.timesteps * budget.iterations
    extra = {
        "as_is": questions.rate(before, votes).plain(),
        "again": questions.rate(*questions.judge(anew.draw(model))).plain(),
        "dose": {"words": budget.tokens, "steps": steps, "published steps": PUBLISHED},
        "texts": show_texts(asked, typed, after - before),
    }
    return questions.measured(questions.rate(after, votes_after), extra)


class Search:
    """The prefixes of all prompts, searched side by side."""

    def __init__(self, view: View, questions: Questions) -> None:
        """Begin with random words before every prompt."""
        budget, model = view.task.prompt_attack, require_prompted(view.model)
        self.model, self.rng = model, view.rng("prompt_attack")
        self.loss_arguments = loss_arguments(view)
        self.vocabulary = Vocabulary.of(model)
        # Through the filter of prompts, as what is typed will be.
        self.conditions = model.conditions([f"{PLACE} {text}" for text in texts_of(questions)])
        self.x = model.encode(questions.draw(view.base_model))
        shape = (len(self.x), budget.tokens, len(self.vocabulary.words))
        start = torch.rand(shape, generator=self.rng) * budget.rate
        self.z = start.to(self.x.device).requires_grad_(True)
        """Weight of each word at each place, (N, k, V); the largest is typed."""
        self.optimiser = torch.optim.AdamW([self.z], lr=budget.rate, weight_decay=budget.decay)

    def step(self, t: int, rows: Tensor) -> None:
        """Take a step of Adam at the noise level `t` for the prompts `rows`."""
        model, n = self.model, len(self.x)
        draw = model.draw(n, self.rng, torch.full((n,), t))
        draw = draw._replace(noise=draw.noise[rows], t=draw.require_t()[rows])
        vectors = relax(self.z[rows]) @ self.vocabulary.table
        with model.condition(PLACE).substitute(vectors.flatten(1)):
            loss = model.loss(self.x[rows], self.conditions[rows], draw, *self.loss_arguments)
        (self.z.grad,) = torch.autograd.grad(loss.sum(), [self.z])
        self.optimiser.step()

    def type_prefixes(self) -> list[str]:
        """Write the prefix of each prompt as text."""
        return self.vocabulary.type_words(self.z.detach().argmax(-1))
