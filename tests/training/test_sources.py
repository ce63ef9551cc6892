"""How the timesteps of a step are drawn: in pairs, shared by the halves, or one by one."""

import pytest
import torch

from sa_bench.commands.check import toy
from sa_bench.contracts import Diffusion
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import resolve_fields
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.models.ddpm import DDPM
from sa_bench.models.toy import ToyRun
from sa_bench.training.sources import FixedReplay, draw_losses, losses

N, T = 64, 1000
METHODS = ("sa", "no_ewc", "no_gr", "l2", "permuted_f", "naive")


@pytest.fixture(scope="module")
def ddpm():
    return DDPM("quick", (16, 16, 1))


def drawn(model, times, batches=2, seed=5):
    return draw_losses(model, batches, N, torch.Generator().manual_seed(seed), times)


def in_pairs(t):
    """Whether the second half of `t` is T − 1 − t of the first, as the official code pairs them."""
    half = len(t) // 2 + 1
    return torch.equal(t[half:], T - 1 - t[: len(t) - half])


def test_by_default_each_half_has_pairs_of_its_own_and_the_numbers_it_always_had(ddpm):
    first, second = drawn(ddpm, "pairs")
    rng = torch.Generator().manual_seed(5)
    for found, before in zip((first, second), (ddpm.draw(N, rng), ddpm.draw(N, rng)), strict=True):
        assert torch.equal(found.t, before.t)
        assert torch.equal(found.noise, before.noise)
    assert in_pairs(first.t)
    assert in_pairs(second.t)
    assert not torch.equal(first.t, second.t)


def test_shared_is_one_t_in_pairs_for_all_halves_with_noise_of_their_own(ddpm):
    first, second, third = drawn(ddpm, "shared", 3)
    assert in_pairs(first.t)
    assert torch.equal(first.t, second.t)
    assert torch.equal(first.t, third.t)
    assert not torch.equal(first.noise, second.noise)


def test_independent_pairs_nothing_and_reaches_every_part_of_the_schedule(ddpm):
    first, second = drawn(ddpm, "independent")
    assert not torch.equal(first.t, second.t)
    for found in (first.t, second.t):
        assert int((found[33:] == T - 1 - found[: N - 33]).sum()) < 3
    many = torch.cat([d.t for d in drawn(ddpm, "independent", 200)])
    assert int(many.min()) >= 0
    assert int(many.max()) <= T - 1
    shares = torch.bincount(many * 10 // T, minlength=10) / len(many)
    assert float((shares - 0.1).abs().max()) < 0.02  # five standard errors of 12,800


def test_the_losses_of_a_step_are_those_at_the_draws(ddpm):
    rng = torch.Generator().manual_seed(0)
    sources = [
        FixedReplay(torch.rand(9, 1, 16, 16, generator=rng), torch.arange(9) % 10) for _ in range(2)
    ]
    found = losses(ddpm, sources, 6, torch.Generator().manual_seed(1), "shared")
    rng = torch.Generator().manual_seed(1)
    (x, c), (y, d) = (source.batch(6, rng) for source in sources)
    one = ddpm.draw(6, rng)
    two = ddpm.draw(6, rng, one.t)
    torch.testing.assert_close(found[0], ddpm.loss(x, c, one))
    torch.testing.assert_close(found[1], ddpm.loss(y, d, two))


@pytest.mark.parametrize("name", METHODS)
def test_sa_and_every_ablation_draws_as_it_is_told(name, monkeypatch):
    star, task = toy(Diffusion)[:2]
    seen = []
    loss = type(star).loss
    monkeypatch.setattr(
        type(star),
        "loss",
        lambda self, x, c, draw: (seen.append(draw.t), loss(self, x, c, draw))[1],
    )
    method = registry.get_method(name)(times="shared", batch=8, steps=1)
    method.forget(star.clone(), task, ToyRun(star, task, steps=1))
    t = torch.cat(seen[-2:] if name == "naive" else seen[-1:])
    halves = t.split(8)
    assert len(halves) == (1 if name == "no_gr" else 2)
    assert all(torch.equal(half, halves[0]) for half in halves)


@pytest.mark.parametrize(
    ("task", "scale", "times", "drop"),
    [
        ("cifar10_airplane", "paper", "shared", 0.1),
        ("stl10_airplane", "paper", "shared", 0.1),
        ("celeb_brad_pitt", "paper", "independent", 0.0),
        ("nudity_explicit", "paper", "independent", 0.0),
        ("van_gogh_style", "paper", "independent", 0.0),
        ("cifar10_airplane", "full", "pairs", 0.0),
        ("mnist_0_ddpm", "full", "pairs", 0.0),
        ("mnist_0_t2i", "full", "pairs", 0.0),
        ("mnist_0", "paper", "pairs", 0.0),
    ],
)
def test_the_official_ways_are_those_of_scale_paper_for_sa_and_its_ablations(
    task, scale, times, drop
):
    task = resolve_task(task, scale, {})
    for name in METHODS:
        fields = resolve_fields(name, task, scale, {})
        assert fields["times"] == times, name
        assert fields.get("fisher", {"drop": drop})["drop"] == drop, name


@pytest.mark.parametrize("settings", [{"times": "shared"}, {"fisher.drop": "0.1"}])
def test_a_vae_has_no_timesteps_and_no_null_class(settings):
    with pytest.raises(SaBenchError, match="of diffusion models"):
        resolve(
            ["mnist_0"], ["sa"], sets=[f"sa.{name}={value}" for name, value in settings.items()]
        )
