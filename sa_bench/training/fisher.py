"""Estimate the diagonal Fisher information of the ELBO at θ*: F = E[(∇ −ELBO of one sample)²].

Source: paper Eq. 4 and Section 3.2; official vae/calculate_fim.py (batch 1, mean over samples of
the squared gradient). The expectation is over samples of the model itself, not over data.

A network of Linear layers, each used once per sample, needs no per-sample gradients: with a layer's
inputs a (N, in) and output gradients δ (N, out), Σ_n (δ_n a_nᵀ)² = (δ²)ᵀ(a²). Other networks go
through torch.func in chunks. Both are exact; tests compare them with a one-sample loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sa_bench.contracts import (
    Diffusion,
    Draw,
    FisherOptions,
    FixedSource,
    Generator,
    Sampler,
    Source,
    Task,
)
from sa_bench.core.errors import SaBenchError
from sa_bench.core.parts import load_part, save_part
from sa_bench.training.sources import drop_conditions

Batch = tuple[Tensor, Any, Draw]
BATCH = 1000
TOGETHER = ((10_000, 128), (16_000, 32))
"""(values per image below this number, timesteps per forward pass)."""
TOGETHER_LARGE = 4
"""Timesteps per pass for larger images, such as Stable Diffusion's latents; more exceed a small
GPU's memory or a CPU's cache."""
EVERY = 120.0  # seconds between two checkpoints: the most that a kill costs


def diagonal_fisher(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Compute F by parameter name, each shaped like its parameter, ≥ 0: the mean over all samples.

    The result is exact up to rounding. Layer hooks are used where they apply, torch.func elsewhere.
    """
    return (fisher_by_hooks if is_all_linear(model.net) else fisher_by_functions)(model, batches)


def is_all_linear(net: nn.Module) -> bool:
    """Return whether every parameter belongs to an nn.Linear: then `fisher_by_hooks` is exact."""
    linear_parameters = {
        id(parameter)
        for module in net.modules()
        if isinstance(module, nn.Linear)
        for parameter in module.parameters(recurse=False)
    }
    return all(id(parameter) in linear_parameters for parameter in net.parameters())


def fisher_by_hooks(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Compute F of a network of Linear layers from inputs and output gradients: (δ²)ᵀ(a²)."""
    layers = {name: m for name, m in model.net.named_modules() if isinstance(m, nn.Linear)}
    total = {name: torch.zeros_like(p) for name, p in model.net.named_parameters()}
    layer_calls: list[tuple[str, Tensor, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args, output: layer_calls.append((name, args[0].detach(), output))

    handles = [m.register_forward_hook(watch(name)) for name, m in layers.items()]
    count = 0
    try:
        for x, c, draw in batches:
            layer_calls.clear()
            loss = model.loss(x, c, draw)
            deltas = torch.autograd.grad(loss.sum(), [output for _, _, output in layer_calls])
            if len({name for name, _, _ in layer_calls}) != len(layer_calls):
                raise SaBenchError(
                    "A Linear layer is used twice per sample; use `fisher_by_functions` for this model."
                )
            with torch.no_grad():
                for (name, layer_input, _), delta in zip(layer_calls, deltas, strict=True):
                    squared = delta**2
                    total[f"{name}.weight"] += squared.T @ layer_input**2
                    if layers[name].bias is not None:
                        total[f"{name}.bias"] += squared.sum(0)
            count += len(x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: value / count for name, value in total.items()}


class _Loss(nn.Module):
    """The model's loss of one sample, as a module that torch.func can differentiate."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.net = model.net
        self.model = [model]  # in a list, so that it does not become a submodule

    def forward(self, x: Tensor, c: Tensor, noise: Tensor, t: Tensor | None) -> Tensor:
        draw = Draw(noise[None], None if t is None else t[None])
        return self.model[0].loss(x[None], c[None], draw)[0]


def fisher_by_functions(
    model: Generator, batches: Iterable[Batch], chunk: int = 32
) -> dict[str, Tensor]:
    """Compute F of any network with tensor conditions by vmap(grad) over `chunk` samples each."""
    wrapped = _Loss(model)
    params = {name: p.detach() for name, p in wrapped.named_parameters()}
    sample_gradient = grad(lambda p, *args: functional_call(wrapped, p, args))
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for x, c, draw in batches:
        for i in range(0, len(x), chunk):
            rows = slice(i, i + chunk)
            t = None if draw.t is None else draw.t[rows]
            axes = (None, 0, 0, 0, None if t is None else 0)
            grads = vmap(sample_gradient, in_dims=axes)(
                params, x[rows], c[rows], draw.noise[rows], t
            )
            for name, g in grads.items():
                total[name] += (g**2).sum(0)
        count += len(x)
    return {name.removeprefix("net."): value / count for name, value in total.items()}


def estimate_over_samples(
    model: Generator,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    checkpoint: Path | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Estimate F at the weights of a model without timesteps.

    Args:
        model: at whose weights F is estimated.
        task: whose classes are sampled.
        options: settings of the estimate.
        replay: source of the samples for `options.set == "replay"`.
        sampler: settings with which samples are drawn.
        rng: the only source of randomness.
        tick: called with the number of samples done.
        checkpoint: not used: this F takes seconds.

    Returns:
        F by parameter name, and the proportion of entries that were estimated negative: 0.
    """
    batches = sample_batches(model, task, options, replay, sampler, rng)
    return diagonal_fisher(model, _report_progress(batches, tick)), 0.0


def estimate_over_time(
    model: Diffusion,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    checkpoint: Path | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Estimate F at the weights of a diffusion model.

    Args:
        model: at whose weights F is estimated.
        task: whose classes are sampled.
        options: settings of the estimate.
        replay: source of the samples for `options.set == "replay"`.
        sampler: settings with which samples are drawn.
        rng: the only source of randomness.
        tick: called with the number of samples done.
        checkpoint: file from which F goes on after a kill; None for none.

    Returns:
        F by parameter name, and the proportion of entries that were estimated negative and set to
            0.
    """
    unfinished = Kept(checkpoint)
    if unfinished.count:  # draw the interrupted batch again from the same generator state
        rng.set_state(unfinished.batch)
    batches = sample_batches(
        model, task, options, replay, sampler, rng, unfinished.count // BATCH * BATCH
    )
    return fisher_over_time(model, batches, options, rng, tick, unfinished)


def sum_part(
    model: Diffusion,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    part: range,
    tick: Callable[[int], None] = lambda done: None,
    checkpoint: Path | None = None,
    divisor: int = 1,
) -> dict[str, Tensor]:
    """Sum one part of F: the squared gradients of the samples numbered `part`.

    Args:
        model: a diffusion model.
        task: whose classes are sampled.
        options: settings of the estimate.
        replay: source of the samples for `options.set == "replay"`.
        sampler: settings with which samples are drawn.
        rng: the only source of randomness, of this part alone.
        part: numbers of its samples.
        tick: called with the number of samples done.
        checkpoint: file from which the part goes on after a kill; None for none.
        divisor: pieces in which the timesteps of a pass are taken, where memory is short.

    Returns:
        The sums by parameter name; `mean_of_sums` makes F of those of all parts.
    """
    unfinished = Kept(checkpoint)
    if unfinished.count:
        rng.set_state(unfinished.batch)
    batches = sample_batches(
        model,
        task,
        replace(options, n=len(part)),
        replay,
        sampler,
        rng,
        unfinished.count // BATCH * BATCH,
        part.start,
    )
    return sum_over_time(model, batches, options, rng, tick, unfinished, divisor)[0]


def add_sums(sums: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add up the sums of parts in their order, one after another: they are as large as the model."""
    total: dict[str, Tensor] = {}
    for part in sums:
        for name, value in part.items():
            total[name] = total[name].add_(value) if name in total else value
    return total


def _report_progress(batches: Iterable[Batch], tick: Callable[[int], None]) -> Iterable[Batch]:
    """Yield the batches, and report after each how many samples are done."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch[0])
        tick(done)


class Kept:
    """The unfinished F of a diffusion model, in a file that is written every `EVERY` seconds."""

    def __init__(self, path: Path | None) -> None:
        """Read what the file `path` holds, if it exists."""
        self.path, self.written = path, time.monotonic()
        saved = (None if path is None else load_part(path)) or {}
        self.count = int(saved.pop("count", torch.zeros(1)))
        self.batch, self.now = saved.pop("batch", torch.empty(0)), saved.pop("now", torch.empty(0))
        self.total = saved

    def save(self, total: dict[str, Tensor], count: int, batch: Tensor, now: Tensor) -> None:
        """Write the file if it is time.

        Args:
            total: sums of squared gradients by parameter name.
            count: number of samples in them.
            batch: the generator's state before the current batch.
            now: the generator's present state.
        """
        if self.path is None or time.monotonic() - self.written < EVERY:
            return
        states = {"count": torch.tensor([count]), "batch": batch, "now": now}
        save_part(self.path, total | states)
        self.written = time.monotonic()


def fisher_over_time(
    model: Diffusion,
    batches: Iterable[tuple[Tensor, Any, Draw | None]],
    options: FisherOptions,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    unfinished: Kept | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Compute F of a diffusion model from all its images at once; see `sum_over_time`.

    Returns:
        F by parameter name, and the proportion of entries that were estimated negative.
    """
    return mean_of_sums(*sum_over_time(model, batches, options, rng, tick, unfinished))


def mean_of_sums(total: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], float]:
    """Divide sums over `count` images, and set to 0 what was estimated negative.

    Returns:
        F by parameter name, and the proportion of entries that were estimated negative.
    """
    negative = sum(int((value < 0).sum()) for value in total.values())
    share = negative / sum(value.numel() for value in total.values())
    return {name: (value / count).clamp(min=0) for name, value in total.items()}, share


def sum_over_time(
    model: Diffusion,
    batches: Iterable[tuple[Tensor, Any, Draw | None]],
    options: FisherOptions,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    unfinished: Kept | None = None,
    divisor: int = 1,
) -> tuple[dict[str, Tensor], int]:
    """Sum (∇ Σ_t loss_t)² over images.

    The sum over t comes before the square, as in the paper and in the official ddpm/runners
    (save_fim). An image's timesteps go through the network as a batch. With fewer than all
    timesteps the sum is scaled by T over their number: `plain` draws them without replacement,
    `stratified` one from each of as many equal parts of 0..T − 1. Both also contain the variance of
    that choice; the `product` of two independent halves does not, so it may be negative, and is set
    to 0 there.

    Returns:
        The sums by parameter name, and the number of images.
    """
    params, unfinished = dict(model.net.named_parameters()), unfinished or Kept(None)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count, first = unfinished.count, unfinished.count % BATCH
    for name, value in unfinished.total.items():
        total[name].copy_(value)
    batches = iter(batches)
    while True:
        state = rng.get_state()
        if (batch := next(batches, None)) is None:
            break
        x, c, _ = batch
        if first:
            rng.set_state(unfinished.now)
        if options.range == "unit":
            x = (x + 1) / 2
        for i in range(first, len(x)):
            halves = [
                _sum_gradients(
                    model, params, x[i : i + 1], c[i : i + 1], t, rng, options.drop, divisor
                )
                for t in draw_timesteps(model.timesteps, options, rng)
            ]
            for name, value in total.items():
                value.addcmul_(halves[0][name], halves[-1][name])
            count += 1
            tick(count)
            if i + 1 < len(x):
                unfinished.save(total, count, state, rng.get_state())
        first = 0
    return total, count


def draw_timesteps(T: int, options: FisherOptions, rng: torch.Generator) -> list[Tensor]:
    """Draw an image's timesteps, (k,) int64: one set, or two independent ones for `product`."""
    k = options.timesteps or T
    if options.estimator == "product":
        return [
            _draw_stratified(T, max(1, k // 2), rng),
            _draw_stratified(T, max(1, k - k // 2), rng),
        ]
    if k >= T:
        return [torch.arange(T)]
    return [
        torch.randperm(T, generator=rng)[:k]
        if options.estimator == "plain"
        else _draw_stratified(T, k, rng)
    ]


def _draw_stratified(T: int, k: int, rng: torch.Generator) -> Tensor:
    """Draw one timestep from each of `k` equal parts of 0..T − 1."""
    return ((torch.arange(k) + torch.rand(k, generator=rng)) * T / k).long().clamp(max=T - 1)


def _sum_gradients(
    model: Diffusion,
    params: dict[str, nn.Parameter],
    x: Tensor,
    c: Tensor,
    t: Tensor,
    rng: torch.Generator,
    drop: float = 0.0,
    divisor: int = 1,
) -> dict[str, Tensor]:
    """Compute ∇ Σ_t loss_t of one image, scaled to all T timesteps.

    The timesteps of a pass are taken in `divisor` pieces, where memory is short.

    At each timestep the condition is null with probability `drop`. The official ddpm/runners'
    `save_fim` takes the loss's default, .1 (ddpm/functions/losses.py), and drops by row: an image
    has its class at some timesteps and none at the others.
    """
    total: dict[str, Tensor] = {}
    chunk_size = next((n for values, n in TOGETHER if x.numel() < values), TOGETHER_LARGE)
    for chunk in t.split(chunk_size):
        draw = model.draw(len(chunk), rng, chunk)
        conditions = c.expand(len(chunk), *c.shape[1:])
        conditions = drop_conditions(conditions, model.conditions([model.null]), drop, rng)
        for rows in _split_rows(len(chunk), divisor):
            few = Draw(draw.noise[rows], None if draw.t is None else draw.t[rows], draw.seed)
            images = x.expand(len(few.noise), *x.shape[1:])
            loss = model.loss(images, conditions[rows], few).sum()
            gradients = torch.autograd.grad(loss, list(params.values()))
            for name, gradient in zip(params, gradients, strict=True):
                total[name] = total[name] + gradient if name in total else gradient
    return {name: gradient * (model.timesteps / len(t)) for name, gradient in total.items()}


def _split_rows(n: int, divisor: int) -> list[slice]:
    """Split `n` rows into `divisor` slices, or one a row."""
    size = max(1, -(-n // divisor))
    return [slice(start, start + size) for start in range(0, n, size)]


def sample_batches(
    model: Generator,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    start: int = 0,
    first: int = 0,
) -> Iterable[Batch]:
    """Yield the samples over which F is the mean, in batches, from number `start` on.

    `first` is the number in a fixed set of the sample that counts as number 0 here.

    Raises:
        SaBenchError: `targets="bernoulli"` for a model whose range is not [0, 1].
    """
    if options.set == "concept":
        classes = torch.tensor([task.concept])
    else:
        classes = torch.tensor(range(len(task.classes)) if options.set == "all" else task.retain)
    for done in range(start, options.n, BATCH):
        n = min(BATCH, options.n - done)
        if options.draws == "once":
            x, c = cast("FixedSource", replay).part(first + done, n)
        elif options.set == "replay":
            x, c = replay.batch(n, rng)
        else:
            c = model.conditions(classes[torch.randint(len(classes), (n,), generator=rng)])
            x = model.simulate(c, rng, sampler)
        if options.targets == "bernoulli":
            if float(x.min()) < 0 or float(x.max()) > 1:
                raise SaBenchError(
                    "fisher.targets=bernoulli needs a model of values in [0, 1]; use fisher.targets=means."
                )
            x = torch.bernoulli(x.cpu(), generator=rng).to(x.device)
        yield x, c, model.draw(n, rng)
