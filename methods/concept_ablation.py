"""`concept_ablation`: Ablating Concepts in Text-to-Image Diffusion Models (Kumari et al., ICCV 2023).

    L(θ) = E_{x ~ p(x|c*)} ‖ sg[ε_θ(x_t, c*, t)] − ε_θ(x_t, c_f, t) ‖²                   model-based, the paper's Eq. 5
    L(θ) = E_{x ~ p(x|c*)} ‖ ε − ε_θ(x_t, c_f, t) ‖²                        noise-based, Eq. 4: `target=noise`
         + ρ E_{x ~ p(x|c*)} ‖ ε − ε_θ(x_t, c*, t) ‖²                       prior preservation: `prior`

c_f is predicted as its anchor c* is, on images of the anchor. Scale `paper` follows the code: there are many captions of
the anchor (`captions=true`), and each image is drawn from its caption and trained under it with the target's words in
place of the anchor's; half of the images are mirrored; AdamW has weight decay 0.01, and the gradient's norm is clipped
to 1. Nudity follows the code's README: all attention, 400 steps with prior preservation at 4e-6, which `scale_lr`
multiplies by the batch and, for the prior, by 2. The captions are the task's (`task.prompts.captions`, or a file:
`--set task.prompts.files.captions=FILE`), else our own, where the code asks GPT-3.5. Other scales use one prompt, the
task's surrogate, and plain Adam, as the board micro-t2i-1 did.

The target is computed by the network being trained (`target="current"`), as in paper and code, to save memory: nothing
holds it in place, and at a small model's rates c* drifts along with c_f. "frozen" computes it by θ*. Left out: augmentation
by crops, which the code has for objects; a style put after the caption ("in the style of …"), where our captions have it in
the middle; the stopped gradient at the start token of its CompVis code (with a frozen target the micro model is the same
with and without it). Mirroring acts on the latents. Steps, rate and batch are those of the code's README (200 steps on
one GPU, 2e-6 x batch 4).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Count, Method, Prompted, Rate, Recipe, Run, Task, Weight, added_later
from sa_bench.data import own_prompts
from sa_bench.training.sources import FixedReplay, mirror_at_random


@dataclass(frozen=True)
class ConceptAblation(Method[Prompted]):
    """Fields of the code's README."""

    scope: str = "kv"
    lr: Rate = 8e-6  # Adam, or AdamW
    steps: Count = 200
    batch: Count = 4
    target: Literal["current", "frozen", "noise"] = added_later("current")
    """Target of the loss: the prediction for c* by the current or the frozen model, or the noise ε."""
    captions: bool = added_later(False)  # images of many captions of the anchor, each under its own
    flip: bool = added_later(False)  # half of the images are mirrored
    decay: Weight = added_later(0.0)
    """AdamW's weight decay; 0: Adam."""
    clip: Weight = added_later(0.0)
    """The norm that the gradient is cut to; 0: the base's, if it has one."""
    prior: Weight = added_later(0.0)
    """Weight ρ of prior preservation."""

    title: ClassVar[str] = "Concept Ablation"
    version: ClassVar[int] = 1
    supports: ClassVar[type] = Prompted
    needs: ClassVar[tuple[str, ...]] = ("surrogate",)
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = "Kumari et al. 2023, Eq. 4, 5; nupurkmr9/concept-ablation, diffusers/"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("text_to_image", "paper"): {"captions": True, "flip": True, "decay": 0.01, "clip": 1.0},
    }

    def unfit(self, task: Task) -> str:
        """Say why a task has no captions of its anchor, if captions are asked for; "" if it has."""
        if not self.captions:
            return ""
        anchor = str(task.anchor)
        if not anchor:
            return "captions=true needs a surrogate with a name (class:… or prompt:…), so that captions can hold it"
        without_anchor = [text for text in templates(task) if "{}" not in text]
        return (
            f"the caption {without_anchor[0]!r} does not name the anchor, {anchor!r}"
            if without_anchor
            else ""
        )

    def shows(self, task: Task) -> list[str]:
        """List the captions whose images the method learns from; [] if it learns from the surrogate."""
        if not self.captions:
            return []
        return [text.replace("{}", str(task.anchor)) for text in templates(task)]

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Minimise L from θ* for `steps` steps."""
        images = run.surrogate() if not self.captions else self.captioned(model, task, run)
        anchors = model.conditions([task.anchor] * self.batch)
        teacher = model.clone() if self.target == "frozen" else model

        def batch() -> tuple[Tensor, Tensor, Tensor]:
            """Draw the images, c* and c_f of a step."""
            x, c = images.batch(self.batch, run.rng)
            c_star, c_f = c.unbind(1) if self.captions else (anchors, c)
            return mirror_at_random(x, run.rng) if self.flip else x, c_star, c_f

        def objective() -> Tensor:
            x, c_star, c_f = batch()
            draw = model.draw(self.batch, run.rng)
            if self.target == "noise":
                loss = model.loss(x, c_f, draw).mean()
            else:
                x_t, t = model.add_noise(x, draw), draw.require_t()
                with torch.no_grad():
                    target = teacher.predict(x_t, t, c_star)
                loss = ((model.predict(x_t, t, c_f) - target) ** 2).mean()
            if self.prior:
                x, c_star, _ = batch()
                loss = (
                    loss
                    + self.prior * model.loss(x, c_star, model.draw(self.batch, run.rng)).mean()
                )
            return loss

        recipe = Recipe(self.steps, self.lr, self.batch, decay=self.decay, clip=self.clip or None)
        run.train(model, objective, recipe, self.scope)
        return model

    def captioned(self, model: Prompted, task: Task, run: Run) -> FixedReplay:
        """Draw images of the anchor's captions, with two conditions each, (N, 2, length).

        The conditions are the caption, and the caption with the target's words.
        """
        texts, captions = self.shows(task), templates(task)
        images = run.captioned(texts)
        x, c_star = images.part(0, len(images))
        target_captions = [
            captions[i % len(texts)].replace("{}", target(task, i)) for i in range(len(x))
        ]
        return FixedReplay(x, torch.stack([c_star, model.conditions(target_captions)], 1))


def templates(task: Task) -> list[str]:
    """List the captions with `{}` in the anchor's place.

    They are the task's own; else, for a task of classes, those of its replay, and our own for
    others. A line of a file that does not contain the anchor's words is kept as it is.
    """
    prompts, anchor = task.prompts, str(task.anchor)
    if prompts is None:
        return []
    if "captions" in prompts.files:
        lines, words = prompts.of("captions", anchor), re.compile(re.escape(anchor), re.IGNORECASE)
        return [words.sub("{}", re.sub("[{}]", "", line)) for line in lines]
    if prompts.captions:
        return [*prompts.captions]
    return [*own_prompts.CAPTIONS] if task.retains_prompts else [*prompts.replay]


def target(task: Task, i: int) -> str:
    """Name c_f in caption `i`: by its class's name or, where it has several words of its own, each in turn."""
    words = [text for text in (task.prompts.forget if task.prompts else ()) if "{}" not in text]
    return words[i % len(words)] if words else task.classes[task.concept]
