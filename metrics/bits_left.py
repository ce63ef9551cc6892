"""Bits left: how many bits does it cost to send real images of c_f with what the model still knows?

    L = Σ_k −log₂ p(block k | θ fitted to blocks 1 … k−1)          (a prequential code, Dawid 1984)

Sender and receiver share the model, fit it to what was sent, and go on; blocks have 1, 1, 2, 4, 8, … images. A model
that knows c_f needs few bits from the first block on; one that never knew pays for learning it (Voita & Titov 2020,
Whitney et al. 2020). No judge enters; the steps after each block are a dose. `relabel`, which unlearns nothing, shows what
such a fit does not find again, `retrain` what a model pays that never knew.

The VAE's −ELBO is a cross-entropy of grey values, with the model's own encoder: there differences of lengths mean
something, their height does not, and what the encoder forgot is part of them.

Two codes: `bits_left` fits c_f's own condition alone, `bits_left_weights` all weights.
"""

from math import log, log2
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Bound, Generator, Measured, View, metric
from sa_bench.scoring.attacks import all_parameters, batches, copy_for_attack, descend
from sa_bench.scoring.inversion import list_starts, prompts_with_name
from sa_bench.statistics import mean

SOURCE = "prequential code length (Dawid 1984), as a probe: Voita & Titov 2020; −ELBO or, for a DDPM, its variational bound"
FIELDS = (
    "concept",
    "coding",
    "bound_steps",
    "recovery_starts",
    "recovery_vectors",
    "prompts",
    "sampler",
)


@metric(
    version=1,
    title="Bits to send an image of c_f, its condition fitted",
    better="higher",
    unit="bits/image",
    requires=("model", "code", "real"),
    source=SOURCE,
    fields=FIELDS,
    extras={
        "first": ("the first block", "bits/image"),
        "last": ("the last block", "bits/image"),
        "start": None,
    },
    axis="bits to send an image of c_f",
)
def bits_left(view: View) -> Measured:
    """Measure the mean code length of a real image of c_f in bits, while its slot alone is fitted.

    Of the codes from each of recovery's starts the shortest counts, and the bits that name it.
    """
    return send_by_shortest(view, weights_too=False)


@metric(
    version=1,
    title="Bits to send an image of c_f, all weights fitted",
    better="higher",
    unit="bits/image",
    requires=("model", "code", "real"),
    source=SOURCE,
    fields=FIELDS,
    extras={
        "first": ("the first block", "bits/image"),
        "last": ("the last block", "bits/image"),
        "start": None,
    },
    axis="bits to send an image of c_f, weights fitted",
)
def bits_left_weights(view: View) -> Measured:
    """Measure the mean code length of a real image of c_f in bits, while its slot and all weights are fitted."""
    return send_by_shortest(view, weights_too=True)


def send_by_shortest(view: View, weights_too: bool) -> Measured:
    """Code the task's images of c_f from each start, and measure the shortest code.

    Returns:
        The mean code length of an image in bits with Student's interval; `first` and `last` are those of the first and
            the last block.
    """
    starts = list_starts(view, copy_for_attack(view))
    codes = {name: send(view, start, weights_too) for name, start in starts.items()}
    best = min(codes, key=lambda name: sum(block.sum() for block in codes[name]))
    bits = np.concatenate(codes[best]) + log2(len(starts)) / sum(map(len, codes[best]))
    first, last = (float(codes[best][i].mean()) for i in (0, -1))
    return mean(
        bits,
        {"row": np.arange(len(bits))},
        extra={"first": first, "last": last, "start": best},
    )


def send(view: View, start: Tensor, weights_too: bool) -> list[np.ndarray]:
    """Code the task's images of c_f in blocks, fitting the slot, from `start`, to all that was sent.

    Args:
        view: the model and the task.
        start: value of the slot for the first block.
        weights_too: True fits all weights as well.

    Returns:
        The code length of each image in bits, by block.
    """
    task, budget, model = view.task, view.task.coding, copy_for_attack(view)
    asked, slot = prompts_with_name(task), model.condition(task.concept)
    x = model.encode(view.real("forget_train").images[: budget.images])
    rng, lengths, value = view.rng("bits left"), [], start.clone().requires_grad_(True)
    tensors, rates = [value], [budget.rate]
    if weights_too:
        weights = [p.requires_grad_(True) for p in all_parameters(model).values()]
        tensors, rates = [value, *weights], [budget.rate, *[budget.weights_rate] * len(weights)]
    with slot.substitute(value):
        labels = model.conditions([asked[i % len(asked)] for i in range(len(x))])
        for first, end in list_blocks(len(x)):
            with torch.no_grad():
                nats = measure_nats(view, model, x[first:end], labels[first:end])
            lengths.append(nats.double().cpu().numpy() / log(2))
            loss = batches(model, x[:end], labels[:end], end, rng)
            for _ in descend(tensors, loss, rates, (0 if end == len(x) else budget.steps,)):
                pass
    return lengths


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
