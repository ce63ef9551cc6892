"""Bits left: how many bits does it cost to send real images of c_f with what the model still knows?

    L = Σ_k −log₂ p(block k | θ fitted to blocks 1 … k−1)          (a prequential code, Dawid 1984)

Sender and receiver share the model, fit it to what was sent, and go on; blocks have 1, 1, 2, 4, 8, … images. A model
that knows c_f needs few bits from the first block on; one that never knew pays for learning it (Voita & Titov 2020,
Whitney et al. 2020). No judge and no dose enter. What is still known is `retrain`'s length minus the model's.

Two codes: `bits_left` fits c_f's own condition alone, `bits_left_weights` all weights.
"""

from collections.abc import Sequence
from math import log
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Bound, Generator, Measured, View, metric
from sa_bench.scoring.attacks import all_parameters, batches, copy_for_attack, descend
from sa_bench.scoring.inversion import prompts_with_name
from sa_bench.statistics import mean

SOURCE = "prequential code length (Dawid 1984), as a probe: Voita & Titov 2020; −ELBO or, for a DDPM, its variational bound"
FIELDS = ("concept", "coding", "bound_steps", "prompts")


@metric(
    version=1,
    title="Bits to send an image of c_f, its condition fitted",
    better="higher",
    unit="bits/image",
    requires=("model", "code", "real"),
    source=SOURCE,
    fields=FIELDS,
    extras={"first": ("the first block", "bits/image"), "last": ("the last block", "bits/image")},
    axis="bits to send an image of c_f",
)
def bits_left(view: View) -> Measured:
    """Measure the mean code length of a real image of c_f in bits, while its slot alone is fitted."""
    model = copy_for_attack(view)
    slot = model.condition(view.task.concept)
    value = slot.read().requires_grad_(True)
    with slot.substitute(value):
        return send(view, model, [value], view.task.coding.rate)


@metric(
    version=1,
    title="Bits to send an image of c_f, all weights fitted",
    better="higher",
    unit="bits/image",
    requires=("model", "code", "real"),
    source=SOURCE,
    fields=FIELDS,
    extras={"first": ("the first block", "bits/image"), "last": ("the last block", "bits/image")},
    axis="bits to send an image of c_f, weights fitted",
)
def bits_left_weights(view: View) -> Measured:
    """Measure the mean code length of a real image of c_f in bits, while all weights are fitted."""
    model = copy_for_attack(view)
    parameters = [p.requires_grad_(True) for p in all_parameters(model).values()]
    return send(view, model, parameters, view.task.coding.weights_rate)


def send(view: View, model: Generator, tensors: Sequence[Tensor], rate: float) -> Measured:
    """Code the task's images of c_f in blocks, and fit `tensors` to all that was sent after each.

    Returns:
        The mean code length of an image in bits with Student's interval; `first` and `last` are those of the first and
            the last block.
    """
    task, budget = view.task, view.task.coding
    images = view.real("forget_train").images[: budget.images]
    asked, x = prompts_with_name(task), model.encode(images)
    labels = model.conditions([asked[i % len(asked)] for i in range(len(x))])
    rng, lengths = view.rng("bits left"), []
    for start, end in list_blocks(len(x)):
        with torch.no_grad():
            nats = measure_nats(view, model, x[start:end], labels[start:end])
        lengths.append(nats.double().cpu().numpy() / log(2))
        loss = batches(model, x[:end], labels[:end], end, rng)
        for _ in descend(tensors, loss, rate, (0 if end == len(x) else budget.steps,)):
            pass
    bits = np.concatenate(lengths)
    extra = {"first": float(lengths[0].mean()), "last": float(lengths[-1].mean())}
    return mean(bits, {"row": np.arange(len(bits))}, extra=extra)


def list_blocks(n: int) -> list[tuple[int, int]]:
    """List the blocks (start, end) of `n` images: the first image, then as many again each time."""
    ends = [1]
    while ends[-1] < n:
        ends.append(min(n, 2 * ends[-1]))
    return list(zip([0, *ends], ends, strict=False))


def measure_nats(view: View, model: Generator, x: Tensor, c: Any) -> Tensor:
    """Bound −log p(x|c) of every image from above, (N,) nats, with the same noise for every model."""
    rng = view.rng("code length")
    if isinstance(model, Bound):
        return model.variational_bound(x, c, view.task.bound_steps, rng)
    draws = [
        cast(Any, model).loss(x, c, model.draw(len(x), rng)) for _ in range(view.task.bound_steps)
    ]
    return torch.stack(draws).mean(0)
