"""Condition inversion: c_f's own condition is fitted again, and everything else stays as it is.

Of a model whose weights are θ* and that is defended at sampling there are two attacks. The *unadaptive* one fits the
network's own prediction, as if nobody defended it; the *adaptive* one fits the guided prediction that the defence makes of
it, the defence's text and the task's guidance fixed (as Pham et al. 2024 do for SLD and negative prompts). Both count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sa_bench.contracts import Condition, Generator, Slot, Task, View


def list_attacks(model: Generator) -> dict[str, bool]:
    """List the attacks on a model by name, with whether each is adaptive: only a defence makes it two."""
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
    """Fit c_f's slot to `x` (N, ...): its value after each of `budgets` steps of Adam on −ELBO, all else frozen.

    Args:
        view: the model and the task, whose `recovery_batch` and `recovery_accumulated` say how many images a step sees.
        x: images of c_f in model space.
        start: where the slot begins.
        lr: Adam's rate.
        budgets: steps after which it is read.
        adaptive: minimise the error of the guided prediction that the model's defence makes instead.
    """
    model, c, n = view.model, view.task.concept, view.task.recovery_batch or len(x)
    slot, rng, asked = model.condition(c), view.rng("recovery"), prompts_with_name(view.task)
    further = (view.task.sampler,) if adaptive else ()
    with slot.substitute(start):
        labels = model.conditions([asked[i % len(asked)] for i in range(n)])
    value = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([value], lr=lr)
    path, accumulated = [], view.task.recovery_accumulated
    for step in range(max(budgets) + 1):
        if step in budgets:
            path.append(value.detach().clone())
        if step == max(budgets):
            break  # a further step would serve nobody
        gradient = torch.zeros_like(start)
        for _ in range(accumulated):
            with slot.substitute(value):
                shown = x if n == len(x) else x[torch.randint(len(x), (n,), generator=rng)]
                loss = model.loss(shown, labels, model.draw(n, rng), *further).mean()
            (part,) = torch.autograd.grad(loss, [value])
            gradient += part / accumulated
        value.grad = gradient
        optimiser.step()
    return path


def start_vectors(slot: Slot, k: int) -> Tensor:
    """`k` vectors of the slot's own, again from the first where it has fewer; a class's is its one."""
    value = slot.read()
    value = value.view(-1, getattr(slot, "width", len(value)))
    return value[torch.arange(k) % len(value)].flatten()


def prompts_with_name(task: Task) -> list[Condition]:
    """How c_f is asked for while its condition is fitted: in the first templates that bear its name, else by it alone."""
    name = task.classes[task.concept]
    if task.prompts is None:
        return task.prompts_for(task.concept)
    for role in ("replay", "leakage", "test"):
        if texts := [text for text in task.prompts_for(task.concept, role) if name in str(text)]:
            return texts
    return [name]


def list_starts(view: View) -> dict[str, Tensor]:
    """Where the fit begins, by name: c_f's own condition, the mean of the others', zero; each in every number of vectors."""
    task, model = view.task, view.model
    slot = model.condition(task.concept)
    others = [start_vectors(model.condition(c), 1) for c in task.retain] or [start_vectors(slot, 1)]
    mean, starts = torch.stack(others).mean(0), {}
    for k in task.recovery_vectors:
        known = {
            "own": start_vectors(slot, k),
            "mean": mean.repeat(k),
            "zero": torch.zeros_like(mean).repeat(k),
        }
        starts |= {
            name if k == 1 else f"{name} x {k}": known[name] for name in task.recovery_starts
        }
    return starts
