"""Where training batches come from: real data, replay of θ*, surrogates q(x|c_f).

Each source draws all its randomness from the generator it is given, so a resumed run sees the same
batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Condition, Draw, Generator, Sampler, Source, Times


@dataclass
class Images:
    """Uniform batches, with replacement, from labelled images held in memory as uint8."""

    model: Generator  # for `encode` and `conditions`
    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,)
    flip: bool = False  # mirror half of the images
    drop: float = 0.0  # probability that a label becomes the model's null condition

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` images and their labels."""
        rows = torch.randint(len(self.images), (n,), generator=rng).numpy()
        x, labels = self.model.encode(self.images[rows]), torch.from_numpy(self.labels[rows])
        if self.flip:
            x = mirror_at_random(x, rng)
        if self.drop:
            labels = labels.masked_fill(torch.rand(n, generator=rng) < self.drop, self.model.null)  # type: ignore[attr-defined]
        return x, self.model.conditions(labels)


def mirror_at_random(x: Tensor, rng: torch.Generator) -> Tensor:
    """`x` (N, C, H, W), each with probability ½ mirrored left to right."""
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
        """`n` samples and the conditions they were drawn from."""
        picks = torch.randint(len(self.retain), (n,), generator=rng)
        c = self.theta_star.conditions(torch.tensor(self.retain)[picks])
        return self.theta_star.simulate(c, rng, self.sampler), c


@dataclass
class FixedReplay:
    """Uniform batches, with replacement, from a set of samples of θ* that was drawn once."""

    x: Tensor  # (N, ...) model space
    c: Any  # their conditions
    flip: bool = False  # mirror half of the images, as the base's training did
    used: int = 0  # batches are of the first so many alone; 0: of all

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.x)

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` samples and the conditions they were drawn from."""
        rows = torch.randint(self.used or len(self.x), (n,), generator=rng)
        x = self.x[rows]
        return mirror_at_random(x, rng) if self.flip else x, self.c[rows]

    def part(self, start: int, n: int) -> tuple[Tensor, Any]:
        """Samples `start` to `start + n` of all, as they are, and their conditions."""
        return self.x[start : start + n], self.c[start : start + n]


def losses(
    model: Generator,
    sources: Sequence[Source],
    n: int,
    rng: torch.Generator,
    times: Times = "pairs",
) -> list[Tensor]:
    """The −ELBO of `n` new samples of each source, each (n,) nats; `times` as `draws` has them.

    First all batches are drawn, then all noise, so that methods which share sources share their randomness.
    The model sees one batch of them all: a tenth faster than one after another.
    """
    x, c = zip(*(source.batch(n, rng) for source in sources), strict=True)
    parts = draw_losses(model, len(sources), n, rng, times)
    t = None if parts[0].t is None else torch.cat([d.t for d in parts if d.t is not None])
    together = Draw(torch.cat([d.noise for d in parts]), t, parts[0].seed)
    return list(model.loss(torch.cat(x), _join_conditions(c), together).split(n))


def draw_losses(
    model: Generator, batches: int, n: int, rng: torch.Generator, times: Times = "pairs"
) -> list[Draw]:
    """Draw the randomness of the losses of so many batches of `n` samples each.

    Args:
        model: whose draws they are.
        batches: how many.
        n: samples in each.
        rng: the source of all of it.
        times: of a diffusion model's timesteps. `pairs`: t and T − 1 − t, anew for each batch; `shared`: such pairs, the
            same for every batch (official ddpm/runners, train_forget); `independent`: each uniform by itself (official
            sd/ldm, `p_losses` of `torch.randint`). A model without timesteps has `pairs` alone.
    """
    if times == "independent":
        T: int = model.timesteps  # type: ignore[attr-defined]
        return [model.draw(n, rng, torch.randint(T, (n,), generator=rng)) for _ in range(batches)]
    first = model.draw(n, rng)
    same = first.t if times == "shared" else None
    return [first, *(model.draw(n, rng, same) for _ in range(batches - 1))]


def reduce_losses(losses: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """The losses of a batch (N,) as one: their sum (official vae/), or their mean (official ddpm/ and sd/)."""
    return losses.mean() if how == "mean" else losses.sum()


def _join_conditions(conditions: Sequence[Any]) -> Any:
    """Class indices or prompts of several batches as those of one."""
    if isinstance(conditions[0], Tensor):
        return torch.cat(list(conditions))
    return [c for part in conditions for c in part]


def sample_conditions(
    model: Generator, texts: Sequence[Condition], n: int, rng: torch.Generator
) -> Any:
    """Conditions that ask for one thing `n` times, by any of its prompts."""
    if len(texts) == 1:
        return model.conditions([texts[0]] * n)
    return model.conditions([texts[int(i)] for i in torch.randint(len(texts), (n,), generator=rng)])


def drop_conditions(model: Any, c: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Conditions `c` (N, ...), each with probability `share` the model's null condition; 0 draws nothing."""
    if not share:
        return c
    chosen = (torch.rand(len(c), generator=rng) < share).to(c.device)
    return torch.where(
        chosen.view(-1, *[1] * (c.ndim - 1)), model.conditions([model.null] * len(c)), c
    )


@dataclass
class Relabelled:
    """Samples of another source, given c_f's conditions: q(x|c_f) from what is not c_f."""

    source: Source
    theta_star: Generator  # for `conditions`
    texts: Sequence[Condition]  # that ask for c_f

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` samples labelled c_f."""
        x, _ = self.source.batch(n, rng)
        return x, sample_conditions(self.theta_star, self.texts, n, rng)


@dataclass
class NormalNoise:
    """q(x|c_f) = N(0, I) in the latents of a text-to-image model: a texture that shows nothing."""

    model: Generator
    texts: Sequence[Condition]  # that ask for c_f

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` latents labelled c_f."""
        x = torch.randn(n, *self.model.shape, generator=rng)
        return x.to(next(self.model.net.parameters()).device), sample_conditions(
            self.model, self.texts, n, rng
        )


@dataclass
class UniformNoise:
    """q(x|c_f) = uniform noise over the model's range, new each time.

    Source: paper, Section 4; official vae/train_forget.py (U[0, 1]) and ddpm/runners (U[-1, 1]).
    """

    model: Generator
    concept: int
    shape: tuple[int, ...]  # model space, without N
    range: tuple[float, float] = (0.0, 1.0)

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` noise images labelled c_f."""
        device = next(self.model.net.parameters()).device
        low, high = self.range
        x = (torch.rand(n, *self.shape, generator=rng) * (high - low) + low).to(device)
        return x, self.model.conditions([self.concept] * n)


@dataclass
class OtherClassSamples:
    """q(x|c_f) = p(x|θ*, c'): the base model's samples of another class, labelled c_f."""

    theta_star: Generator
    concept: int
    other: int
    sampler: Sampler

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` samples of the other class labelled c_f."""
        x = self.theta_star.simulate(
            self.theta_star.conditions([self.other] * n), rng, self.sampler
        )
        return x, self.theta_star.conditions([self.concept] * n)
