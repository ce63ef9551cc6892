"""One table of what a GPU does with the paper's networks: `make gpu-check` (at most 10 minutes).

`python tests/gpu/check.py --device cpu --tiny` runs the same code on a toy network, to see that it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import sd
import torch

from sa_bench.contracts import FisherOptions, Recipe, Sampler
from sa_bench.models.ddpm import DDPM
from sa_bench.training.fisher import fisher_over_time
from sa_bench.training.loop import Pull, fit
from sa_bench.training.precision import is_bf16_fast
from sa_bench.training.sources import FixedReplay, UniformNoise, losses

SHAPES = {"cifar10": (32, 32, 3), "stl10": (64, 64, 3), "tiny": (16, 16, 3)}
BATCH = {"cifar10": 128, "stl10": 64, "tiny": 4}


def clock(device: str, work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, peak GiB on the device) of `work`."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return time.perf_counter() - started, peak


def training(base: str, device: str, steps: int, bf16: bool, pulled: bool) -> tuple[float, float]:
    """Steps a second and peak GiB: base training or, `pulled`, forgetting (surrogate, replay and EWC)."""
    model, rng, n = (
        DDPM(base, SHAPES[base]).to(device),
        torch.Generator().manual_seed(0),
        BATCH[base],
    )
    x, c = (
        torch.rand(256, *model.shape).to(device) * 2 - 1,
        model.conditions([1 + i % 9 for i in range(256)]),
    )
    replay, q = FixedReplay(x, c, flip=True), UniformNoise(model, 0, model.shape, model.range)
    pull = (
        Pull(model.parameters(), {k: v.abs() for k, v in model.parameters().items()}, 1.0)
        if pulled
        else None
    )
    sources = (q, replay) if pulled else (replay,)

    def loss() -> torch.Tensor:
        return torch.stack([part.sum() for part in losses(model, sources, n, rng)]).sum()

    def run(count: int) -> None:
        recipe = Recipe(count, 1e-4, n, clip=1.0, ema=0.9999)
        fit(
            model.parameters(),
            loss,
            recipe,
            rng=rng,
            pull=pull,
            bf16=bf16,
            average=model.averages(),
        )

    model.net.train()
    run(3)  # kernels are chosen and caches filled
    seconds, peak = clock(device, lambda: run(steps))
    return steps / seconds, peak


def fisher_rate(base: str, device: str, images: int, timesteps: int) -> tuple[float, float]:
    """Timesteps a second of F, and how many times that of one timestep at a time."""
    model, rng = DDPM(base, SHAPES[base]).to(device), torch.Generator().manual_seed(0)
    x, c = torch.rand(images, *model.shape).to(device) * 2 - 1, model.conditions([1] * images)
    options = FisherOptions(n=images, timesteps=timesteps)
    fisher_over_time(model, [(x[:1], c[:1], None)], options, rng)  # type: ignore[list-item]
    together, _ = clock(device, lambda: fisher_over_time(model, [(x, c, None)], options, rng))  # type: ignore[list-item]
    few = max(2, timesteps // 20)

    def one_by_one() -> None:
        for t in range(few):
            params = list(model.net.parameters())
            draw = model.draw(1, rng, torch.tensor([t]))
            torch.autograd.grad(model.loss(x[:1], c[:1], draw).sum(), params)

    alone, _ = clock(device, one_by_one)
    rate = images * timesteps / together
    return rate, rate / (few / alone)


def sampling(base: str, device: str, images: int, steps: int, bf16: bool) -> float:
    """Images a second at 1,000 steps with guidance, from a run of `steps`."""
    model, rng = DDPM(base, SHAPES[base]).to(device), torch.Generator().manual_seed(0)
    c = model.conditions([i % 10 for i in range(images)])
    sampler = Sampler("ddim", steps, eta=1.0, guidance=3.0, ema=True)

    def work() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            model.simulate(c, rng, sampler)

    work()
    return images / clock(device, work)[0] * steps / 1000


def agreement(base: str, device: str) -> float:
    """Relative difference of the loss's gradient in bf16 from fp32, over all weights."""
    model, rng = DDPM(base, SHAPES[base]).to(device), torch.Generator().manual_seed(0)
    x, c = torch.rand(16, *model.shape).to(device) * 2 - 1, model.conditions([1] * 16)
    draw, found = model.draw(16, rng), []
    for bf16 in (False, True):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model.loss(x, c, draw).mean()
        found.append(
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, list(model.net.parameters()))]
            )
        )
    return float((found[1] - found[0]).norm() / found[0].norm())


def table(device: str, tiny: bool) -> Iterator[tuple[str, str]]:
    """What is measured, and the figure."""
    yield "device", torch.cuda.get_device_name() if device == "cuda" else "cpu"
    yield "torch", torch.__version__
    for base in ["tiny"] if tiny else ["cifar10", "stl10"]:
        bf16 = is_bf16_fast(device)
        precision, steps, n = "bf16" if bf16 else "fp32", 3 if tiny else 30, BATCH[base]
        rate, memory = training(base, device, steps, bf16, pulled=False)
        yield (
            f"{base}: base training, batch {n}, {precision}",
            f"{rate:.2f} steps/s, {memory:.1f} GiB",
        )
        if device == "cuda":
            rate, memory = training(base, device, steps, False, pulled=False)
            yield f"{base}: base training, batch {n}, fp32", f"{rate:.2f} steps/s, {memory:.1f} GiB"
        rate, memory = training(base, device, steps, bf16, pulled=True)
        yield f"{base}: forgetting, 2 x {n}, {precision}", f"{rate:.2f} steps/s, {memory:.1f} GiB"
        rate, gain = fisher_rate(base, device, 2, 20 if tiny else 1000)
        yield (
            f"{base}: Fisher, 1,000 timesteps an image",
            f"{rate / 1000:.3f} images/s, {gain:.1f} x one by one",
        )
        made = sampling(base, device, 4 if tiny else 256, 3 if tiny else 20, bf16)
        yield f"{base}: sampling, 1,000 steps with guidance", f"{made:.2f} images/s"
        yield f"{base}: gradient in bf16 against fp32", f"{100 * agreement(base, device):.2f} % off"
    yield from sd.table(device, tiny, clock, is_bf16_fast(device))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("make gpu-check needs a CUDA device; torch sees none.")
    for name, value in table(given.device, given.tiny):
        print(f"{name:<60}  {value}", flush=True)


if __name__ == "__main__":
    main()
