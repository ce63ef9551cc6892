"""The contracts, proved on toys: short sketches of the hardest methods run against them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sa_bench.contracts import Diffusion, Draw, Generator, Recipe, Sampler
from sa_bench.training.fisher import diagonal_fisher
from sa_bench.training.loop import Pull, fit

SAMPLER = Sampler(steps=10, guidance=1.0)


def train(
    model: Generator, loss, steps: int, rng: torch.Generator, pull: Pull | None = None
) -> None:
    fit(model.parameters(), loss, Recipe(steps, 0.05, 64), rng=rng, pull=pull)


def sketch_sa(
    model: Generator, c_f: int, retain: list[int], lam: float, steps: int = 200
) -> Generator:
    """Eq. 4 on any Generator: surrogate N(0, I), replay from a frozen copy, EWC pull."""
    rng, star = torch.Generator().manual_seed(0), model.clone()
    c = model.conditions([retain[i % len(retain)] for i in range(600)])
    F = diagonal_fisher(model, [(star.simulate(c, rng, SAMPLER), c, model.draw(600, rng))])
    pull = Pull(model.parameters(), F, lam)

    def loss() -> Tensor:
        x_f, c_f_ = torch.randn(64, 2, generator=rng), model.conditions([c_f] * 64)
        c_r = model.conditions(
            [retain[i] for i in torch.randint(len(retain), (64,), generator=rng)]
        )
        x_r = star.simulate(c_r, rng, SAMPLER)
        forget = model.loss(x_f, c_f_, model.draw(64, rng)).sum()
        return forget + model.loss(x_r, c_r, model.draw(64, rng)).sum()

    train(model, loss, steps, rng, pull)
    return model


def sketch_esd(model: Diffusion, c_f: int, eta: float = 1.0, steps: int = 100) -> Diffusion:
    """ε(x_t, c) ← ε*(x_t) − η (ε*(x_t, c) − ε*(x_t)), x_t sampled by the model being edited."""
    rng, star = torch.Generator().manual_seed(0), model.clone()

    def loss() -> Tensor:
        k = int(torch.randint(9, (1,), generator=rng))
        c, null = model.conditions([c_f] * 32), model.conditions([model.null] * 32)
        x_t, t = model.sample_until(c, k, rng, SAMPLER), torch.full((32,), 9 - k)
        with torch.no_grad():
            free, on = star.predict(x_t, t, null), star.predict(x_t, t, c)
        return ((model.predict(x_t, t, c) - (free - eta * (on - free))) ** 2).mean()

    train(model, loss, steps, rng)
    return model


class SketchSLD:
    """Safe guidance at inference only: a wrapped Generator that changes `predict` and nothing else."""

    def __init__(
        self, model: Diffusion, c_s: int, scale: float = 1.0, threshold: float = 0.01
    ) -> None:
        self.model, self.c_s, self.scale, self.threshold = model, c_s, scale, threshold

    def __getattr__(self, name):
        return getattr(self.model, name)

    def predict(self, x_t: Tensor, t: Tensor, c) -> Tensor:
        on = self.model.predict(x_t, t, c)
        safe = self.model.predict(x_t, t, self.model.conditions([self.c_s] * len(x_t)))
        free = self.model.predict(x_t, t, self.model.conditions([self.model.null] * len(x_t)))
        d = on - safe
        mu = torch.where(d < self.threshold, (self.scale * d.abs()).clamp(max=1), 0.0)
        return on - mu * (safe - free)


@torch.no_grad()
def sketch_uce(model: Diffusion, c_f: int, c_to: int, keep: list[int]) -> Diffusion:
    """Closed form on the layer that reads the condition: W e(c_f) ← W e(c_to), W e(c_r) kept."""
    W = model.parameters()["one.weight"]
    columns = slice(3, 7)
    E = torch.stack([model.condition(c).read() for c in keep])
    source, target = model.condition(c_f).read(), W[:, columns] @ model.condition(c_to).read()
    left = target[:, None] @ source[None] + W[:, columns] @ E.T @ E + 0.01 * W[:, columns]
    right = source[:, None] @ source[None] + E.T @ E + 0.01 * torch.eye(4)
    W[:, columns] = left @ torch.linalg.inv(right)
    return model


def sketch_recovery(model: Generator, x: Tensor, c_f: int, steps: int = 100) -> Tensor:
    """Fit c_f's slot alone."""
    slot, rng = model.condition(c_f), torch.Generator().manual_seed(0)
    value = slot.read().requires_grad_(True)
    optimiser = torch.optim.Adam([value], lr=0.1)
    for _ in range(steps):
        with slot.substitute(value):
            loss = model.loss(x, model.conditions([c_f] * len(x)), model.draw(len(x), rng)).mean()
        (value.grad,) = torch.autograd.grad(loss, [value])
        optimiser.step()
    return value.detach()


def sketch_diffusion_fisher(
    model: Diffusion, x: Tensor, c: int, timesteps: int = 10
) -> dict[str, Tensor]:
    """mean over images of (∇ Σ_t loss_t)²: one image on all timesteps, square after the sum."""
    rng = torch.Generator().manual_seed(0)
    params = model.parameters()
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for row in x:
        draw = model.draw(timesteps, rng, torch.arange(timesteps))
        loss = model.loss(row.expand(timesteps, -1), model.conditions([c] * timesteps), draw).sum()
        for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
            total[name] += g**2 / len(x)
    return total


def test_sa_moves_the_forgotten_mean_to_the_surrogates_and_nothing_else(gaussian):
    before = gaussian.net.weight.detach().clone()
    sketch_sa(gaussian, 0, [1, 2], lam=100.0)
    after = gaussian.net.weight.detach()
    assert after[0].norm() < 0.3
    assert (after[1:] - before[1:]).norm() < 0.3


def test_an_infinite_lambda_leaves_theta_star(toy_diffusion):
    before = {n: p.detach().clone() for n, p in toy_diffusion.parameters().items()}
    sketch_sa(toy_diffusion, 0, [0, 1, 2], lam=1e12, steps=30)
    for name, p in toy_diffusion.parameters().items():
        held = name != "embed.weight"
        assert not held or (p - before[name]).abs().max() < 0.2


def test_diffusion_sketches_run(toy_diffusion, rng):
    assert isinstance(toy_diffusion, Diffusion)
    x = torch.randn(20, 2, generator=rng)
    edited = sketch_esd(toy_diffusion.clone(), 0)
    t, c = torch.full((20,), 5), toy_diffusion.conditions([0] * 20)
    free = toy_diffusion.conditions([toy_diffusion.null] * 20)
    gap = (edited.predict(x, t, c) - toy_diffusion.predict(x, t, c)).abs().mean()
    assert gap > 0
    safe = SketchSLD(toy_diffusion, 1, scale=0.0)
    torch.testing.assert_close(safe.predict(x, t, c), toy_diffusion.predict(x, t, c))
    # isinstance asks the class alone from Python 3.12 on, and a wrapper answers by __getattr__.
    members = [name for name in dir(Diffusion) if not name.startswith("_")]
    assert [name for name in members if not hasattr(safe, name)] == []
    del free
    moved = sketch_uce(toy_diffusion.clone(), 0, 1, [1, 2])
    one = toy_diffusion.conditions([1] * 20)
    closer = (moved.predict(x, t, c) - moved.predict(x, t, one)).abs().mean()
    assert closer < (toy_diffusion.predict(x, t, c) - toy_diffusion.predict(x, t, one)).abs().mean()
    F = sketch_diffusion_fisher(toy_diffusion, x, 0)
    assert all(float(v.min()) >= 0 for v in F.values())
    assert float(F["embed.weight"][1].sum()) == 0 < float(F["embed.weight"][0].sum())


def test_recovery_touches_one_slot(gaussian, rng):
    x = torch.randn(50, 2, generator=rng) + 3
    before = gaussian.net.weight.detach().clone()
    value = sketch_recovery(gaussian, x, 0)
    torch.testing.assert_close(value, x.mean(0), atol=0.1, rtol=0)
    assert torch.equal(gaussian.net.weight, before)


def test_half_is_half(gaussian):
    F = {"weight": torch.ones(3, 2)}
    full, half = (Pull(gaussian.parameters(), F, 10.0, half=h) for h in (False, True))
    with torch.no_grad():
        gaussian.net.weight += 1
    assert full.penalty() == pytest.approx(10 * 6)
    assert half.penalty() == pytest.approx(10 * 6 / 2)
    full.add_to_gradients()
    torch.testing.assert_close(gaussian.net.weight.grad, torch.full((3, 2), 20.0))


def test_draw_is_a_pair():
    assert Draw(torch.zeros(1)).t is None


def test_a_draw_with_timesteps_gives_them_and_another_refuses():
    t = torch.tensor([3])
    assert Draw(torch.zeros(1), t).require_t() is t
    with pytest.raises(ValueError, match="no timesteps"):
        Draw(torch.zeros(1)).require_t()
