"""The diagonal Fisher information of the ELBO at θ*: F = E[(∇ −ELBO of one sample)²].

Source: paper Eq. 4 and Section 3.2; official vae/calculate_fim.py (batch 1, mean over samples of the
squared gradient). The expectation runs over samples of the model itself, not over data.

A network of Linear layers, each used once a sample, needs no per-sample gradients at all: with a layer's
inputs a (N, in) and output gradients δ (N, out), Σ_n (δ_n a_nᵀ)² = (δ²)ᵀ(a²). Anything else goes through
torch.func in chunks. Both are exact; tests hold them against a one-sample loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sa_bench.contracts import Diffusion, Draw, FisherOptions, Generator, Sampler, Source, Task
from sa_bench.core.errors import SaBenchError
from sa_bench.core.parts import load_part, save_part

VERSION = 1  # raised when F changes what it computes
Batch = tuple[Tensor, Any, Draw]
BATCH = 1000
TOGETHER = ((10_000, 128), (16_000, 32))
"""(values of an image below which, timesteps in a forward pass)."""
TOGETHER_LARGE = (
    4  # as Stable Diffusion's latents; more fall out of a small card's memory or a CPU's cache
)
EVERY = 120.0  # seconds between two checkpoints: what a kill can cost


def diagonal_fisher(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """F by parameter name, each like its parameter, ≥ 0: the mean over all samples of `batches`.

    Exact up to rounding. Chooses layer hooks where they apply and torch.func elsewhere.
    """
    return (fisher_by_hooks if is_all_linear(model.net) else fisher_by_functions)(model, batches)


def is_all_linear(net: nn.Module) -> bool:
    """Whether every parameter belongs to an nn.Linear, so that `by_hooks` is exact."""
    owned = {
        id(p)
        for m in net.modules()
        if isinstance(m, nn.Linear)
        for p in m.parameters(recurse=False)
    }
    return all(id(p) in owned for p in net.parameters())


def fisher_by_hooks(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """F of a network of Linear layers, from inputs and output gradients: (δ²)ᵀ(a²)."""
    layers = {name: m for name, m in model.net.named_modules() if isinstance(m, nn.Linear)}
    total = {name: torch.zeros_like(p) for name, p in model.net.named_parameters()}
    seen: list[tuple[str, Tensor, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.append((name, args[0].detach(), output))

    handles = [m.register_forward_hook(watch(name)) for name, m in layers.items()]
    count = 0
    try:
        for x, c, draw in batches:
            seen.clear()
            loss = model.loss(x, c, draw)
            deltas = torch.autograd.grad(loss.sum(), [output for _, _, output in seen])
            if len({name for name, _, _ in seen}) != len(seen):
                raise SaBenchError(
                    "A Linear layer is used twice a sample; use `by_functions` for this model."
                )
            with torch.no_grad():
                for (name, a, _), delta in zip(seen, deltas, strict=True):
                    squared = delta**2
                    total[f"{name}.weight"] += squared.T @ a**2
                    if layers[name].bias is not None:
                        total[f"{name}.bias"] += squared.sum(0)
            count += len(x)
    finally:
        for handle in handles:
            handle.remove()
    return {name: value / count for name, value in total.items()}


class _Loss(nn.Module):
    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.net = model.net
        self.model = [model]  # in a list, so that it is no submodule

    def forward(self, x: Tensor, c: Tensor, noise: Tensor, t: Tensor | None) -> Tensor:
        draw = Draw(noise[None], None if t is None else t[None])
        return self.model[0].loss(x[None], c[None], draw)[0]


def fisher_by_functions(
    model: Generator, batches: Iterable[Batch], chunk: int = 32
) -> dict[str, Tensor]:
    """F of any network whose conditions are tensors, by vmap(grad) over `chunk` samples at a time."""
    wrapped = _Loss(model)
    params = {name: p.detach() for name, p in wrapped.named_parameters()}
    one = grad(lambda p, *args: functional_call(wrapped, p, args))
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count = 0
    for x, c, draw in batches:
        for i in range(0, len(x), chunk):
            rows = slice(i, i + chunk)
            t = None if draw.t is None else draw.t[rows]
            axes = (None, 0, 0, 0, None if t is None else 0)
            grads = vmap(one, in_dims=axes)(params, x[rows], c[rows], draw.noise[rows], t)
            for name, g in grads.items():
                total[name] += (g**2).sum(0)
        count += len(x)
    return {name.removeprefix("net."): value / count for name, value in total.items()}


def estimate(
    model: Generator,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    checkpoint: Path | None = None,
) -> tuple[dict[str, Tensor], float]:
    """F at the model's weights, and the share of entries that an estimator found negative (set to 0).

    `tick` is told how many samples are done; a diffusion model's F goes on from `checkpoint` after a kill.
    """
    if isinstance(model, Diffusion):
        kept = Kept(checkpoint)
        if (
            kept.count
        ):  # the batch that was being worked on is made again from the state it was made from
            rng.set_state(kept.batch)
        batches = sample_batches(
            model, task, options, replay, sampler, rng, kept.count // BATCH * BATCH
        )
        return fisher_over_time(model, batches, options, rng, tick, kept)
    batches = sample_batches(model, task, options, replay, sampler, rng)
    return diagonal_fisher(model, _counted(batches, tick)), 0.0


def _counted(batches: Iterable[Batch], tick: Callable[[int], None]) -> Iterable[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch[0])
        tick(done)


class Kept:
    """The unfinished F of a diffusion model, in a file that is written every `EVERY` seconds."""

    def __init__(self, path: Path | None) -> None:
        """What `path` holds, if it is there."""
        self.path, self.written = path, time.monotonic()
        found = (None if path is None else load_part(path)) or {}
        self.count = int(found.pop("count", torch.zeros(1)))
        self.batch, self.now = found.pop("batch", torch.empty(0)), found.pop("now", torch.empty(0))
        self.total = found

    def save(self, total: dict[str, Tensor], count: int, batch: Tensor, now: Tensor) -> None:
        """Write, if it is time: the sums, how many samples are in them, and the generator's states."""
        if self.path is None or time.monotonic() - self.written < EVERY:
            return
        states = {"count": torch.tensor([count]), "batch": batch, "now": now}
        save_part(self.path, total | states)
        self.written = time.monotonic()


def fisher_over_time(
    model: Diffusion,
    batches: Iterable[Batch],
    options: FisherOptions,
    rng: torch.Generator,
    tick: Callable[[int], None] = lambda done: None,
    kept: Kept | None = None,
) -> tuple[dict[str, Tensor], float]:
    """F of a diffusion model, mean over images of (∇ Σ_t loss_t)², and the share of entries found negative.

    The sum over t comes before the square, as in the paper and in the official ddpm/runners (save_fim). An
    image's timesteps go through the network as a batch. With fewer than all timesteps the sum is scaled by
    T over their number: `plain` draws them without replacement, `stratified` one from each of as many equal
    parts of 0..T − 1. Their F also holds the variance of that choice; the `product` of two independent
    halves does not, so it may be negative, and is set to 0 there.
    """
    params, kept = dict(model.net.named_parameters()), kept or Kept(None)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    count, first = kept.count, kept.count % BATCH
    for name, value in kept.total.items():
        total[name].copy_(value)
    batches = iter(batches)
    while True:
        state = rng.get_state()
        if (batch := next(batches, None)) is None:
            break
        x, c, _ = batch
        if first:
            rng.set_state(kept.now)
        if options.range == "unit":
            x = (x + 1) / 2
        for i in range(first, len(x)):
            halves = [
                _summed_gradient(model, params, x[i : i + 1], c[i : i + 1], t, rng, options.drop)
                for t in draw_timesteps(model.timesteps, options, rng)
            ]
            for name, value in total.items():
                value.addcmul_(halves[0][name], halves[-1][name])
            count += 1
            tick(count)
            if i + 1 < len(x):
                kept.save(total, count, state, rng.get_state())
        first = 0
    negative = sum(int((value < 0).sum()) for value in total.values())
    share = negative / sum(value.numel() for value in total.values())
    return {name: (value / count).clamp(min=0) for name, value in total.items()}, share


def draw_timesteps(T: int, options: FisherOptions, rng: torch.Generator) -> list[Tensor]:
    """The timesteps of one image, (k,) int64: one set, or two independent ones for `product`."""
    k = options.timesteps or T
    if options.estimator == "product":
        return [_strata(T, max(1, k // 2), rng), _strata(T, max(1, k - k // 2), rng)]
    if k >= T:
        return [torch.arange(T)]
    return [
        torch.randperm(T, generator=rng)[:k] if options.estimator == "plain" else _strata(T, k, rng)
    ]


def _strata(T: int, k: int, rng: torch.Generator) -> Tensor:
    return ((torch.arange(k) + torch.rand(k, generator=rng)) * T / k).long().clamp(max=T - 1)


def _summed_gradient(
    model: Diffusion,
    params: dict[str, nn.Parameter],
    x: Tensor,
    c: Tensor,
    t: Tensor,
    rng: torch.Generator,
    drop: float = 0.0,
) -> dict[str, Tensor]:
    """∇ Σ_t loss_t of one image, scaled to all T timesteps; at each its condition is null with probability `drop`.

    The official ddpm/runners' `save_fim` takes the loss's default, .1 (ddpm/functions/losses.py), and drops by row: an
    image has its class at some timesteps and none at the others.
    """
    total: dict[str, Tensor] = {}
    together = next((n for below, n in TOGETHER if x.numel() < below), TOGETHER_LARGE)
    for part in t.split(together):
        draw = model.draw(len(part), rng, part)
        asked = c.expand(len(part), *c.shape[1:])
        if drop:
            dropped = (torch.rand(len(part), generator=rng) < drop).to(asked.device)
            null = model.conditions([model.null]).to(asked)
            asked = torch.where(dropped.view(-1, *[1] * (asked.ndim - 1)), null, asked)
        loss = model.loss(x.expand(len(part), *x.shape[1:]), asked, draw).sum()
        for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
            total[name] = total[name] + g if name in total else g
    return {name: g * (model.timesteps / len(t)) for name, g in total.items()}


def sample_batches(
    model: Generator,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
    start: int = 0,
) -> Iterable[Batch]:
    """The samples that F is the mean over, in batches, from number `start` on.

    Raises:
        SaBenchError: `targets="bernoulli"` on a model whose space is not [0, 1].
    """
    classes = torch.tensor(range(len(task.classes)) if options.set == "all" else task.retain)
    for done in range(start, options.n, BATCH):
        n = min(BATCH, options.n - done)
        if options.draws == "once":
            x, c = replay.part(done, n)  # type: ignore[attr-defined]
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
