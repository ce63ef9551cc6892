"""A diffusion model whose every quantity is known."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch
from torch import nn

from sa_bench.contracts import Draw
from sa_bench.models.toy import Gaussian, Row


class Noiser(nn.Module):
    """ε̂ from (x_t, t, class embedding): two small layers."""

    def __init__(self, classes):
        super().__init__()
        self.embed = nn.Embedding(classes + 1, 4)
        self.one, self.two = nn.Linear(2 + 1 + 4, 16), nn.Linear(16, 2)
        self.override = None

    def forward(self, x, t, c):
        e = self.embed(c)
        if self.override is not None:
            k, value = self.override
            e = torch.where((c == k)[:, None], value, e)
        return self.two(torch.tanh(self.one(torch.cat([x, t[:, None] / 10, e], 1))))


class ToyDiffusion(Gaussian):
    """A diffusion model of 2-d points with T = 10 steps; condition `classes` is null."""

    family = "toy_diffusion"

    def __init__(self, classes=3):
        torch.manual_seed(0)
        self.net = Noiser(classes)
        self.null, self.timesteps = classes, 10
        self.alpha = torch.linspace(0.98, 0.1, 10)  # cumulative

    def draw(self, n, rng, t=None):
        noise = torch.randn(n, 2, generator=rng)
        return Draw(noise, torch.randint(10, (n,), generator=rng) if t is None else t)

    def add_noise(self, x, draw):
        a = self.alpha[draw.t][:, None]
        return a.sqrt() * x + (1 - a).sqrt() * draw.noise

    def predict(self, x_t, t, c):
        return self.net(x_t, t, c)

    def loss(self, x, c, draw):
        return ((self.predict(self.add_noise(x, draw), draw.t, c) - draw.noise) ** 2).sum(1)

    def _step(self, x, t, eps):
        a, b = self.alpha[t], self.alpha[t - 1] if t else torch.tensor(1.0)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        return b.sqrt() * x0 + (1 - b).sqrt() * eps

    def dropout_seed(self, rng):
        return None

    def with_dropout(self, seed):
        return nullcontext()

    def levels(self, sampler):
        return list(range(9, -1, -1))

    @torch.no_grad()
    def sample_until(self, c, k, rng, sampler):
        x = torch.randn(len(c), 2, generator=rng)
        for t in range(9, 9 - k, -1):
            times = torch.full((len(c),), t)
            eps, free = (
                self.predict(x, times, c),
                self.predict(x, times, torch.full_like(c, self.null)),
            )
            x = self._step(x, t, free + sampler.guidance * (eps - free))
        return x

    def simulate(self, c, rng, sampler):
        return self.sample_until(c, 10, rng, sampler)

    def condition(self, c):
        slot = Row(self, c)
        slot.model = SimpleNamespace(net=self.net.embed)
        slot.substitute = lambda value: _override(self.net, c, value)
        return slot


@contextmanager
def _override(net, c, value):
    net.override = (c, value)
    try:
        yield
    finally:
        net.override = None
