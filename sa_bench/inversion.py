"""Condition inversion: c_f's own condition is fitted again, and everything else stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from sa_bench.contracts import Condition, Slot, Task, View


def invert(view: View, x: Tensor, start: Tensor, lr: float, budgets: tuple[int, ...]) -> list[Tensor]:
    """c_f's slot after each of `budgets` steps of Adam on −ELBO of `x` (N, ...), all else frozen."""
    model, c, n = view.model, view.task.concept, view.task.recovery_batch or len(x)
    slot, rng, asked = model.condition(c), view.rng("recovery"), asking(view.task)
    with slot.substitute(start):
        labels = model.conditions([asked[i % len(asked)] for i in range(n)])
    value = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([value], lr=lr)
    path = []
    for step in range(max(budgets) + 1):
        if step in budgets:
            path.append(value.detach().clone())
        with slot.substitute(value):
            shown = x if n == len(x) else x[torch.randint(len(x), (n,), generator=rng)]
            loss = model.loss(shown, labels, model.draw(n, rng)).mean()
        (value.grad,) = torch.autograd.grad(loss, [value])
        optimiser.step()
    return path


def vectors(slot: Slot, k: int) -> Tensor:
    """`k` vectors of the slot's own, again from the first where it has fewer; a class's is its one."""
    value = slot.read()
    value = value.view(-1, getattr(slot, "width", len(value)))
    return value[torch.arange(k) % len(value)].flatten()


def asking(task: Task) -> list[Condition]:
    """How c_f is asked for while its condition is fitted: in the first templates that bear its name, else by it alone."""
    name = task.classes[task.concept]
    if task.prompts is None:
        return task.asked(task.concept)
    for role in ("replay", "leakage", "test"):
        if texts := [text for text in task.asked(task.concept, role) if name in str(text)]:
            return texts
    return [name]


def starts_of(view: View) -> dict[str, Tensor]:
    """Where the fit begins, by name: c_f's own condition, the mean of the others', zero; each in every number of vectors."""
    task, model = view.task, view.model
    slot = model.condition(task.concept)
    others = [vectors(model.condition(c), 1) for c in task.retain] or [vectors(slot, 1)]
    mean, starts = torch.stack(others).mean(0), {}
    for k in task.recovery_vectors:
        known = {"own": vectors(slot, k), "mean": mean.repeat(k), "zero": torch.zeros_like(mean).repeat(k)}
        starts |= {name if k == 1 else f"{name} x {k}": known[name] for name in task.recovery_starts}
    return starts
