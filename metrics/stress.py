"""Stress: does forgetting outlive what happens to any released model?

    round(θ)               weights of 8 bits (Zhang et al., ICLR 2025: quantisation brings back what was forgotten)
    prune(θ)               the smallest 10 % of each layer's weights become 0
    θ + BA                 the LoRA of another class on top
    another sampler        ancestral for DDIM and the other way round; twice the steps; half and double guidance

Each is done alone; the way that brings back most counts. Beside the value stands how far an edit is from being none:

    θ* + α (θ − θ*)        an edit undone in part, or overdone (Ilharco et al. 2023)

which needs θ*, and whoever has θ* needs no attack: it is never counted.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sa_bench.contracts import Diffusion, Generator, Measured, Sampler, View, metric
from sa_bench.core.errors import SaBenchError
from sa_bench.scoring.attacks import (
    LowRank,
    Questions,
    all_parameters,
    batches,
    copy_for_attack,
    descend,
    measure_worst,
    sampler_of_weights,
)
from sa_bench.scoring.inversion import prompts_with_name


@metric(
    version=1,
    title="Images of c_f under the worst of several mild changes",
    better="lower",
    unit="rate",
    requires=("model", "judges", "real", "star"),
    source="interpolation (Ilharco et al. 2023), quantisation (Zhang et al. 2025), magnitude pruning, a LoRA (Hu et al. "
    "2022) of another class, other settings of the sampler; each alone",
    fields=("concept", "judges", "recovery_judged", "relabel_to", "stress", "prompts", "sampler"),
    extras={"rates": ("way", "rate"), "interpolated": ("θ* + α (θ − θ*)", "rate"), "way": None},
    axis="come back under a mild change",
    attack="weights",
)
def stress(view: View) -> Measured:
    """Measure the highest top-1 rate of c_f over mild changes of the weights and of the sampler.

    Wilson's interval is widened for the number of changes. `rates` has each, with `none` for the model as it is;
    `interpolated` has the rates at each α, which do not count. A part that acts by hooks, an adapter's, is in both.
    """
    questions, budget, sampler = Questions.of(view), view.task.stress, view.task.sampler

    def draw_changed(change: Callable[[View, Generator], None]) -> np.ndarray:
        model = copy_for_attack(view)
        change(view, model)
        return questions.draw(model, sampler_of_weights(view))

    ways: dict[str, Callable[[], np.ndarray]] = {"none": lambda: questions.draw(view.model)}
    ways[f"{budget.bits} bits"] = partial(draw_changed, quantise)
    ways[f"{budget.pruned:.0%} pruned"] = partial(draw_changed, prune)
    ways["a LoRA of another class"] = partial(draw_changed, add_lora)
    for name, other in list_samplers(view.model, sampler).items():
        ways[name] = partial(questions.draw, view.model, other)
    worst, interpolated = measure_worst(questions, ways), {}
    for alpha in budget.alphas:
        images = draw_changed(partial(interpolate, alpha=alpha))
        interpolated[f"α = {alpha:g}"] = questions.rate(*questions.judge(images)).plain()
    return replace(worst, extra={**worst.extra, "interpolated": interpolated})


def list_samplers(model: Generator, sampler: Sampler) -> dict[str, Sampler]:
    """List other settings of a diffusion model's sampler by name, as far as the model can sample with them.

    A VAE has no steps, and so none.
    """
    if not isinstance(model, Diffusion):
        return {}
    other = {"ddim": "ddpm", "ddpm": "ddim"}[sampler.scheduler]
    samplers = {
        other: replace(sampler, scheduler=other, eta=0.0),
        "twice the steps": replace(sampler, steps=2 * sampler.steps),
    }
    if sampler.guidance != 1:
        samplers["half the guidance"] = replace(sampler, guidance=sampler.guidance / 2)
        samplers["double guidance"] = replace(sampler, guidance=2 * sampler.guidance)
    return {name: other for name, other in samplers.items() if _can_sample(model, other)}


def _can_sample(model: Diffusion, sampler: Sampler) -> bool:
    """Tell whether the model's noise schedule allows the sampler's steps."""
    try:
        model.levels(sampler)
    except SaBenchError:
        return False
    return True


def interpolate(view: View, model: Generator, alpha: float) -> None:
    """Move the weights to θ* + α (θ − θ*); weights that θ* has not, an adapter's, stay."""
    with torch.no_grad():
        base = view.base_model
        averages = base.averages() if view.task.sampler.ema else None
        star = all_parameters(base) if averages is None else averages
        for name, parameter in all_parameters(model).items():
            if name in star:
                parameter.lerp_(star[name].to(parameter), 1 - alpha)


def quantise(view: View, model: Generator) -> None:
    """Round every matrix to the task's number of bits, symmetrically, with a scale for each output."""
    with torch.no_grad():
        levels = 2 ** (view.task.stress.bits - 1) - 1
        for parameter in all_parameters(model).values():
            if parameter.ndim > 1:
                rows = parameter.flatten(1)
                scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / levels
                parameter.copy_(((rows / scale).round() * scale).view_as(parameter))


def prune(view: View, model: Generator) -> None:
    """Set the task's share of every matrix's weights, those of the smallest size, to 0."""
    with torch.no_grad():
        for parameter in all_parameters(model).values():
            count = int(view.task.stress.pruned * parameter.numel())
            if parameter.ndim > 1 and count:
                threshold = parameter.abs().flatten().kthvalue(count).values
                parameter.masked_fill_(parameter.abs() <= threshold, 0.0)


def add_lora(view: View, model: Generator) -> None:
    """Fit a LoRA of another class to its real images, on every linear layer and convolution.

    The class is `relabel_to`, or the first scored one where that has no images among the retained.
    """
    task, rng = view.task, view.rng("stress")
    layers = [m for m in model.net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for parameter in model.net.parameters():
        parameter.requires_grad_(False)
    tensors: list[Tensor] = []
    for layer in layers:
        low_rank = LowRank(layer.weight, task.stress.rank, rng)
        nn.utils.parametrize.register_parametrization(layer, "weight", low_rank)
        tensors += [low_rank.a, low_rank.b]
    real = view.real("retain_train")
    other = task.relabel_to if task.relabel_to in task.scored else task.scored[0]
    images = real.images[real.labels == other][: task.stress.images]
    asked = prompts_with_name(replace(task, concept=other))
    labels = model.conditions([asked[i % len(asked)] for i in range(len(images))])
    loss = batches(model, model.encode(images), labels, task.stress.batch, rng)
    for _ in descend(tensors, loss, [task.stress.rate] * len(tensors), (task.stress.steps,)):
        pass
