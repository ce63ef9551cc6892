"""Condition inversion: c_f's own condition is fitted again, and everything else stays as it is.

A model whose weights are θ* and that is defended at sampling meets two attacks. The *unadaptive*
attack fits the network's own prediction to the noise, as if there were no defence. The *adaptive*
attack fits the guided prediction that the defence makes of it, with the defence's text and the
task's guidance fixed, to the guided prediction of θ* for c_f's own words, as Pham et al. 2024 do for
SLD and negative prompts (concept_inversion.py: `model_target`). Fitted to the noise, as it was here
at first, the guided prediction asks for words that undershoot by the guidance. Both attacks count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sa_bench.contracts import Condition, Draw, Generator, Slot, Task, View


def list_attacks(model: Generator) -> dict[str, bool]:
    """List the attacks on a model by name, with whether each is adaptive.

    Only a defended model has two.
    """
    if getattr(model, "defence", None) is None:
        return {"unadaptive": False}
    return {"unadaptive": False, "adaptive": True}


def invert(
    view: View,
    x: Tensor,
    start: Tensor,
    lr: float,
    budgets: tuple[int, ...],
    adaptive: bool = False,
) -> list[Tensor]:
    """Fit c_f's slot to `x` by Adam on −ELBO, with everything else frozen.

    Args:
        view: the model and the task, whose `recovery_batch` and `recovery_accumulated` say how many
            images a step sees.
        x: images of c_f in model space (N, ...).
        start: initial value of the slot.
        lr: Adam's learning rate.
        budgets: numbers of steps after which the slot is read.
        adaptive: True brings the guided prediction that the model's defence makes to that of the same
            weights without it.

    Returns:
        The value of the slot after each of `budgets` steps.
    """
    model: Any = view.model
    c, n = view.task.concept, view.task.recovery_batch or len(x)
    slot, rng, conditions = model.condition(c), view.rng("recovery"), prompts_with_name(view.task)
    own = (
        model.conditions([conditions[i % len(conditions)] for i in range(n)]) if adaptive else None
    )
    with slot.substitute(start):
        labels = model.conditions([conditions[i % len(conditions)] for i in range(n)])
    value = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([value], lr=lr)
    path, accumulated = [], view.task.recovery_accumulated
    for step in range(max(budgets) + 1):
        if step in budgets:
            path.append(value.detach().clone())
        if step == max(budgets):
            break  # the result of a further step would not be read
        gradient = torch.zeros_like(start)
        for _ in range(accumulated):
            images = x if n == len(x) else x[torch.randint(len(x), (n,), generator=rng)]
            draw = model.draw(n, rng)
            target = None if own is None else predict_undefended(view, images, own, draw)
            with slot.substitute(value):
                if target is None:
                    loss = model.loss(images, labels, draw).mean()
                else:
                    x_t, t = model.add_noise(images, draw), draw.require_t()
                    error = model.predict(x_t, t, labels, view.task.sampler).float() - target
                    loss = (error**2).mean()
            (partial_gradient,) = torch.autograd.grad(loss, [value])
            gradient += partial_gradient / accumulated
        value.grad = gradient
        optimiser.step()
    return path


@torch.no_grad()
def predict_undefended(view: View, images: Tensor, c: Tensor, draw: Draw) -> Tensor:
    """Predict what the model's weights would under the task's guidance if no defence took part, shaped like `images`."""
    model: Any = view.model
    defence, model.defence = model.defence, None
    try:
        x_t, t = model.add_noise(images, draw), draw.require_t()
        return model.predict(x_t, t, c, view.task.sampler).float()
    finally:
        model.defence = defence


def start_vectors(slot: Slot, k: int) -> Tensor:
    """Take `k` vectors of the slot's own, starting over where it has fewer; a class has one."""
    value = slot.read()
    value = value.view(-1, getattr(slot, "width", len(value)))
    return value[torch.arange(k) % len(value)].flatten()


def prompts_with_name(task: Task) -> list[Condition]:
    """List the prompts that ask for c_f while its condition is fitted.

    They are the first templates that contain its name; otherwise its name alone.
    """
    name = task.classes[task.concept]
    if task.prompts is None:
        return task.prompts_for(task.concept)
    for role in ("replay", "leakage", "test"):
        if texts := [text for text in task.prompts_for(task.concept, role) if name in str(text)]:
            return texts
    return [name]


def list_starts(view: View, attacked: Generator | None = None) -> dict[str, Tensor]:
    """List the initial values of the fit by name, each in every number of vectors.

    They are c_f's own condition, the mean of the others', and zero, in the model `attacked` or,
    without it, the view's.
    """
    task, model = view.task, attacked or view.model
    slot = model.condition(task.concept)
    others = [start_vectors(model.condition(c), 1) for c in task.retain] or [start_vectors(slot, 1)]
    mean, starts = torch.stack(others).mean(0), {}
    for k in task.recovery_vectors:
        start_of_name = {
            "own": start_vectors(slot, k),
            "mean": mean.repeat(k),
            "zero": torch.zeros_like(mean).repeat(k),
        }
        starts |= {
            name if k == 1 else f"{name} x {k}": start_of_name[name]
            for name in task.recovery_starts
        }
    return starts
