"""Draw training batches: real data, replay of θ*, surrogates q(x|c_f).

Each source draws all its randomness from the generator it gets, so a resumed run sees the same
batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Condition, Diffusion, Draw, Generator, Sampler, Source, Times


@dataclass
class Images:
    """Uniform batches, with replacement, from labelled images held in memory as uint8."""

    model: Generator  # for `encode` and `conditions`
    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,)
    flip: bool = False  # mirror half of the images
    drop: float = 0.0  # probability that a label becomes the model's null condition

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` images and their labels."""
        rows = torch.randint(len(self.images), (n,), generator=rng).numpy()
        x, c = self.model.encode(self.images[rows]), self.model.conditions(self.labels[rows])
        if self.flip:
            x = mirror_at_random(x, rng)
        if self.drop:
            null = self.model.conditions([cast("Diffusion", self.model).null])
            c = drop_conditions(c, null, self.drop, rng)
        return x, c


def mirror_at_random(x: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each of `x` (N, C, H, W) left to right with probability ½."""
    chosen = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


@dataclass
class FreshReplay:
    """Samples of the frozen θ*, new ones each time, conditions uniform over `retain`.

    Source: official vae/train_forget.py (decoder means of a frozen clone).
    """

    theta_star: Generator
    retain: Sequence[int]
    sampler: Sampler

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` samples and the conditions they were drawn from."""
        picks = torch.randint(len(self.retain), (n,), generator=rng)
        c = self.theta_star.conditions(torch.tensor(self.retain)[picks])
        return self.theta_star.simulate(c, rng, self.sampler), c


@dataclass
class FixedReplay:
    """Uniform batches, with replacement, from a set of samples of θ* that was drawn once."""

    x: Tensor  # (N, ...) model space
    c: Any  # their conditions
    flip: bool = False  # mirror half of the images, as in the base model's training
    used: int = 0  # number of samples, from the first, that batches are drawn from; 0 for all

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.x)

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` samples and the conditions they were drawn from."""
        rows = torch.randint(self.used or len(self.x), (n,), generator=rng)
        x = self.x[rows]
        return mirror_at_random(x, rng) if self.flip else x, self.c[rows]

    def part(self, start: int, n: int) -> tuple[Tensor, Any]:
        """Return the samples `start` to `start + n` of all, unchanged, and their conditions."""
        return self.x[start : start + n], self.c[start : start + n]


def losses(
    model: Generator,
    sources: Sequence[Source],
    n: int,
    rng: torch.Generator,
    times: Times = "pairs",
) -> list[Tensor]:
    """Compute the −ELBO of `n` new samples of each source.

    First all batches are drawn, then all noise, so that methods with the same sources share their
    randomness. The model sees all batches as one: a tenth faster than one after another.

    Args:
        model: the model whose losses are computed.
        sources: of the batches.
        n: samples per source.
        rng: the only source of randomness.
        times: how the timesteps are drawn, as in `draw_losses`.

    Returns:
        The losses of each source, (n,) nats.
    """
    x, c = zip(*(source.batch(n, rng) for source in sources), strict=True)
    draws = draw_losses(model, len(sources), n, rng, times)
    t = None if draws[0].t is None else torch.cat([draw.t for draw in draws if draw.t is not None])
    joint_draw = Draw(torch.cat([draw.noise for draw in draws]), t, draws[0].seed)
    return list(model.loss(torch.cat(x), torch.cat(c), joint_draw).split(n))


def draw_losses(
    model: Generator, batches: int, n: int, rng: torch.Generator, times: Times = "pairs"
) -> list[Draw]:
    """Draw the randomness of the losses of several batches of `n` samples each.

    Args:
        model: the model whose losses are to be computed.
        batches: number of batches.
        n: samples per batch.
        rng: the only source of randomness.
        times: how a diffusion model's timesteps are drawn. `pairs`: t and T − 1 − t, anew for each
            batch; `shared`: such pairs, the same for every batch (official ddpm/runners,
            train_forget); `independent`: each uniform by itself (official sd/ldm, `p_losses` of
            `torch.randint`). A model without timesteps has `pairs` alone.
    """
    if times == "independent":
        T = cast("Diffusion", model).timesteps
        return [model.draw(n, rng, torch.randint(T, (n,), generator=rng)) for _ in range(batches)]
    first = model.draw(n, rng)
    shared_times = first.t if times == "shared" else None
    return [first, *(model.draw(n, rng, shared_times) for _ in range(batches - 1))]


def reduce_losses(losses: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """Reduce the losses of a batch (N,) to one number.

    The official vae/ takes their sum, the official ddpm/ and sd/ take their mean.
    """
    return losses.mean() if how == "mean" else losses.sum()


def sample_conditions(
    model: Generator, texts: Sequence[Condition], n: int, rng: torch.Generator
) -> Any:
    """Return conditions that ask for one thing `n` times, each by a random one of its prompts."""
    if len(texts) == 1:
        return model.conditions([texts[0]] * n)
    return model.conditions([texts[int(i)] for i in torch.randint(len(texts), (n,), generator=rng)])


def drop_conditions(c: Tensor, null: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Replace each of the conditions `c` (N, ...) by `null` (1, ...) with probability `share`.

    With `share` 0 nothing is drawn.
    """
    if not share:
        return c
    chosen = (torch.rand(len(c), generator=rng) < share).to(c.device)
    return torch.where(chosen.view(-1, *[1] * (c.ndim - 1)), null.to(c), c)


@dataclass
class Relabelled:
    """Samples of another source with c_f's conditions: q(x|c_f) made of what is not c_f."""

    source: Source
    theta_star: Generator  # for `conditions`
    texts: Sequence[Condition]  # conditions that ask for c_f

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` samples labelled c_f."""
        x, _ = self.source.batch(n, rng)
        return x, sample_conditions(self.theta_star, self.texts, n, rng)


@dataclass
class NormalNoise:
    """The surrogate q(x|c_f) = N(0, I) in the latents of a text-to-image model: pure texture."""

    model: Generator
    texts: Sequence[Condition]  # conditions that ask for c_f

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` latents labelled c_f."""
        x = torch.randn(n, *self.model.shape, generator=rng)
        return x.to(next(self.model.net.parameters()).device), sample_conditions(
            self.model, self.texts, n, rng
        )


@dataclass
class UniformNoise:
    """The surrogate q(x|c_f) = uniform noise over the model's range, new each time.

    Source: paper, Section 4; official vae/train_forget.py (U[0, 1]) and ddpm/runners (U[-1, 1]).
    """

    model: Generator
    concept: int
    shape: tuple[int, ...]  # model space, without N
    range: tuple[float, float] = (0.0, 1.0)

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` noise images labelled c_f."""
        device = next(self.model.net.parameters()).device
        low, high = self.range
        x = (torch.rand(n, *self.shape, generator=rng) * (high - low) + low).to(device)
        return x, self.model.conditions([self.concept] * n)


@dataclass
class OtherClassSamples:
    """The surrogate q(x|c_f) = p(x|θ*, c'): samples of another class, labelled c_f."""

    theta_star: Generator
    concept: int
    other: int
    sampler: Sampler

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` samples of the other class, labelled c_f."""
        x = self.theta_star.simulate(
            self.theta_star.conditions([self.other] * n), rng, self.sampler
        )
        return x, self.theta_star.conditions([self.concept] * n)
