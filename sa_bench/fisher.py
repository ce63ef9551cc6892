"""The diagonal Fisher information of the ELBO at θ*: F = E[(∇ −ELBO of one sample)²].

Source: paper Eq. 4 and Section 3.2; official vae/calculate_fim.py (batch 1, mean over samples of the
squared gradient). The expectation runs over samples of the model itself, not over data.

A network of Linear layers, each used once a sample, needs no per-sample gradients at all: with a layer's
inputs a (N, in) and output gradients δ (N, out), Σ_n (δ_n a_nᵀ)² = (δ²)ᵀ(a²). Anything else goes through
torch.func in chunks. Both are exact; tests hold them against a one-sample loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sa_bench.contracts import Draw, FisherOptions, Generator, Sampler, Source, Task
from sa_bench.errors import SaBenchError

VERSION = 1  # raised when F changes what it computes
Batch = tuple[Tensor, Any, Draw]
BATCH = 1000


def diagonal(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """F by parameter name, each like its parameter, ≥ 0: the mean over all samples of `batches`.

    Exact up to rounding. Chooses layer hooks where they apply and torch.func elsewhere.
    """
    return (by_hooks if all_linear(model.net) else by_functions)(model, batches)


def all_linear(net: nn.Module) -> bool:
    """Whether every parameter belongs to an nn.Linear, so that `by_hooks` is exact."""
    owned = {id(p) for m in net.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    return all(id(p) in owned for p in net.parameters())


def by_hooks(model: Generator, batches: Iterable[Batch]) -> dict[str, Tensor]:
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


def by_functions(model: Generator, batches: Iterable[Batch], chunk: int = 32) -> dict[str, Tensor]:
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


def model_samples(
    model: Generator,
    task: Task,
    options: FisherOptions,
    replay: Source,
    sampler: Sampler,
    rng: torch.Generator,
) -> Iterable[Batch]:
    """The samples that F is the mean over, in batches.

    Raises:
        SaBenchError: `targets="bernoulli"` on a model whose space is not [0, 1].
    """
    classes = torch.tensor(range(len(task.classes)) if options.set == "all" else task.retain)
    for start in range(0, options.n, BATCH):
        n = min(BATCH, options.n - start)
        if options.set == "replay":
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
