"""The DDPM behind the contract: the paper's network, its schedule, guidance, samplers and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sa_bench.contracts import Bound, Diffusion, Draw, Likelihood, Recipe, Request, Sampler
from sa_bench.core.errors import SaBenchError
from sa_bench.models.ddpm import DDPM, NETWORKS, T, unet
from sa_bench.training.loop import Pull, fit

DDIM = Sampler("ddim", steps=4, guidance=2.0)


@pytest.fixture
def tiny():
    return DDPM("tiny", (16, 16, 3), seed=0)


def test_it_keeps_the_contract(tiny):
    assert isinstance(tiny, Diffusion)
    assert isinstance(tiny, Bound)
    assert not isinstance(tiny, Likelihood)


@pytest.mark.parametrize(
    ("base", "side", "parameters"),
    [("cifar10", 32, 38_312_323), ("stl10", 64, 82_842_243), ("micro", 16, 707_716)],
)
def test_the_networks_have_the_papers_widths(base, side, parameters):
    """Appendix B.1: 128 channels, 1-2-2-2 at 32 pixels, 1-2-2-2-4 at 64, attention at 16, dropout 0.1."""
    with torch.device("meta"):
        net = unet(NETWORKS[base], (side, side), 3 if side > 16 else 1, 10)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.config.resnet_time_scale_shift == "scale_shift"
    assert net.class_embedding.num_embeddings == 11
    if base != "micro":
        assert net.config.block_out_channels[0] == 128
        widths = [w // 128 for w in net.config.block_out_channels]
        assert widths == ([1, 2, 2, 2] if side == 32 else [1, 2, 2, 2, 4])
        attends = [kind.startswith("Attn") for kind in net.config.down_block_types]
        assert [side // 2**i for i, on in enumerate(attends) if on] == [16]
        assert {m.p for m in net.modules() if isinstance(m, nn.Dropout) and m.p} == {0.1}
        assert DDPM.recipes[base].ema == 0.9999
        assert DDPM.recipes[base].drop == 0.1


def test_the_schedule_is_hos():
    beta = torch.linspace(1e-4, 0.02, T)
    torch.testing.assert_close(DDPM("tiny", (16, 16, 3)).alphas, torch.cumprod(1 - beta, 0))


def test_timesteps_come_in_antithetic_pairs(tiny, rng):
    draw = tiny.draw(8, rng)
    assert draw.t is not None
    both = torch.cat([draw.t, tiny.draw(8, rng, draw.t).t])
    assert torch.equal(draw.t[:3] + draw.t[5:], torch.full((3,), T - 1))
    assert torch.equal(both[:8], both[8:])


def test_noise_is_added_as_ho_does(tiny):
    x, t = torch.ones(1, 3, 16, 16), torch.tensor([499])
    a = tiny.alphas[499]
    noisy = tiny.add_noise(x, Draw(torch.full_like(x, 2.0), t))
    torch.testing.assert_close(noisy, torch.full_like(x, float(a.sqrt() + 2 * (1 - a).sqrt())))


def test_an_image_is_the_same_alone_and_in_any_batch(tiny):
    rows = [Request(i % 10, 100 + i) for i in range(6)]
    for sampler in (
        DDIM,
        Sampler("ddpm", steps=5, guidance=3.0),
        Sampler("ddim", steps=5, eta=1.0),
    ):
        together = tiny.sample(rows, sampler)
        alone = torch.cat([tiny.sample([row], sampler) for row in rows])
        torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)
        assert not torch.equal(together[0], together[1])


def test_ancestral_sampling_is_ddim_with_full_noise(tiny):
    """The official sampler is generalised DDIM with η = 1 over all steps: the same step as the DDPM's."""
    x, eps = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    outs = []
    for sampler in (Sampler("ddpm", steps=T), Sampler("ddim", steps=T, eta=1.0)):
        scheduler, further = tiny.scheduler(sampler)
        rng = torch.Generator().manual_seed(3)
        outs.append(scheduler.step(eps, 500, x, generator=rng, **further).prev_sample)
    torch.testing.assert_close(*outs, atol=1e-4, rtol=1e-4)


def test_guidance_interpolates_and_the_papers_w_is_s_minus_one(tiny):
    x, t, c = torch.randn(3, 3, 16, 16), torch.full((3,), 500), torch.tensor([1, 2, 3])
    free, on = tiny.predict(x, t, torch.full_like(c, tiny.null)), tiny.predict(x, t, c)
    guided = tiny._guided(tiny.net, x, t, c, 3.0)
    torch.testing.assert_close(guided, (1 + 2.0) * on - 2.0 * free, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiny._guided(tiny.net, x, t, c, 1.0), on)
    torch.testing.assert_close(tiny._guided(tiny.net, x, t, c, 0.0), free, atol=1e-5, rtol=1e-4)


def test_a_row_may_bring_its_own_guidance(tiny):
    rows = [Request(1, 7, guidance=1.0), Request(1, 7)]
    one, two = tiny.sample(rows, DDIM)
    torch.testing.assert_close(
        one, tiny.sample([Request(1, 7)], Sampler("ddim", 4))[0], atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(
    "sampler", [Sampler("direct"), Sampler("ddim", steps=0), Sampler("ddpm", steps=1001)]
)
def test_a_sampler_that_is_none_is_named(tiny, sampler):
    with pytest.raises(SaBenchError, match="ddim or ddpm"):
        tiny.sample([Request(0, 0)], sampler)


@pytest.mark.parametrize("value", [11, -1, 0.5])
def test_a_class_out_of_range_stops_before_work(tiny, value):
    with pytest.raises(SaBenchError, match=r"0\.\.9"):
        tiny.conditions([value])


def test_images_and_model_space_are_inverse(tiny):
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    x = tiny.encode(images)
    assert x.shape == (4, 3, 16, 16)
    assert -1 <= float(x.min()) < float(x.max()) <= 1
    np.testing.assert_array_equal(tiny.to_images(x), images)
    for wrong in (images.astype(np.float32), images[:, :8], images[..., :1]):
        with pytest.raises(SaBenchError, match="uint8"):
            tiny.encode(wrong)


def test_the_slot_is_one_row_and_gradients_reach_it(tiny, rng):
    slot, x = tiny.condition(3), torch.randn(2, 3, 16, 16)
    value = slot.read() + 1
    value.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in tiny.parameters().items()}
    c, draw = torch.tensor([3, 4]), tiny.draw(2, rng)
    plain = tiny.loss(x, c, draw)
    with slot.substitute(value):
        changed = tiny.loss(x, c, draw)
    assert changed[0] != plain[0]
    assert changed[1] == plain[1]
    assert float(torch.autograd.grad(changed.sum(), [value])[0].abs().sum()) > 0
    assert all(torch.equal(p, before[n]) for n, p in tiny.parameters().items())
    slot.write(value.detach())
    torch.testing.assert_close(tiny.loss(x, c, draw), changed.detach())
    assert torch.equal(tiny.average.class_embedding.weight[3], value.detach())


def test_dropout_is_part_of_the_draw_and_leaves_the_global_generator_alone(tiny, rng):
    x, c = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    assert tiny.draw(4, rng).seed is None
    tiny.net.train()
    draw, state = tiny.draw(4, rng), torch.get_rng_state()
    first, second = tiny.loss(x, c, draw), tiny.loss(x, c, draw)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, tiny.loss(x, c, draw._replace(seed=1)))


def test_sampling_is_under_the_averaged_weights_if_asked_and_without_dropout(tiny):
    rows = [Request(1, 5)]
    raw = tiny.sample(rows, DDIM)
    with torch.no_grad():
        for p in tiny.average.parameters():
            p.mul_(1.1)
    assert torch.equal(tiny.sample(rows, DDIM), raw)
    averaged = Sampler("ddim", 4, guidance=2.0, ema=True)
    assert not torch.equal(tiny.sample(rows, averaged), raw)
    noisy = Sampler("ddim", 4, guidance=2.0, dropout=True)
    assert not torch.equal(tiny.sample(rows, noisy), raw)
    assert torch.equal(tiny.sample(rows, noisy), tiny.sample(rows, noisy))
    assert not tiny.net.training


def test_averaged_weights_move_by_their_decay_and_survive_a_kill(tiny, rng, tmp_path):
    recipe = Recipe(steps=6, lr=1e-3, batch=4, clip=1.0, ema=0.5)

    def train(model, folder, killed=None):
        rng, count = torch.Generator().manual_seed(0), 0

        def loss():
            nonlocal count
            count += 1
            if count == killed:
                raise KeyboardInterrupt
            x = torch.randn(4, 3, 16, 16, generator=rng)
            return model.loss(x, torch.arange(4), model.draw(4, rng)).sum()

        fit(
            model.parameters(),
            loss,
            recipe,
            rng=rng,
            average=model.averages(),
            checkpoint=folder / "c.safetensors",
            every=0.0,
        )

    whole, cut = tiny.clone(), tiny.clone()
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(cut, tmp_path / "cut", killed=4)
    again = tiny.clone()
    train(again, tmp_path / "cut")
    for name, p in whole.parameters().items():
        assert torch.equal(p, again.parameters()[name])
        assert torch.equal(whole.averages()[name], again.averages()[name])
    moved = whole.parameters()["conv_in.weight"] - tiny.parameters()["conv_in.weight"]
    lag = whole.averages()["conv_in.weight"] - tiny.parameters()["conv_in.weight"]
    assert 0 < float(lag.detach().norm()) < float(moved.detach().norm())


def test_saved_and_loaded_it_is_the_same(tiny, tmp_path):
    with torch.no_grad():
        next(tiny.average.parameters()).add_(1)
    tiny.save(tmp_path)
    again = DDPM("tiny", (16, 16, 3), seed=5).load(tmp_path)
    rows = [Request(1, 5)]
    for sampler in (DDIM, Sampler("ddim", 4, ema=True)):
        assert torch.equal(again.sample(rows, sampler), tiny.sample(rows, sampler))
    with pytest.raises(SaBenchError, match="is not a DDPM of this shape"):
        DDPM("micro").load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(SaBenchError, match=r"model\.safetensors is not a complete safetensors"):
        DDPM("tiny", (16, 16, 3)).load(tmp_path)


class Oracle(DDPM):
    """Knows the exact score of x ~ N(0, s² I), so that bounds have known values."""

    variance = 0.04

    def output(self, net, x_t, t, c):
        a = self.alphas[t][:, None, None, None]
        return (1 - a).sqrt() * x_t / (a * self.variance + 1 - a)


def gaussian_bound(model):
    """−VLB a dimension in closed form: Σ_t (v_t/β̃_t − 1)/2 with v_t the true variance of a step back.

    The reverse steps have the posterior's variance β̃_t, which is right for a single image only; what that
    costs on Gaussian data is part of the bound.
    """
    a = model.alphas.double()
    before = torch.cat([torch.ones(1, dtype=a.dtype), a[:-1]])
    alpha, beta, s = a / before, 1 - a / before, model.variance
    small = beta * (1 - before) / (1 - a)
    v = 1 / (1 / (before * s + 1 - before) + alpha / beta)
    steps = ((v[1:] / small[1:] - 1) / 2).sum()
    width = 2 / 255
    decoder = small[1] + width**2 / 12
    first = 0.5 * torch.log(2 * math.pi * decoder) + v[0] / (2 * decoder) - math.log(width)
    return float(steps + first + 0.5 * (a[-1] * s - a[-1] - torch.log(1 - a[-1])))


def test_the_bound_is_the_closed_form_where_there_is_one():
    model, rng = Oracle("tiny", (16, 16, 3), seed=0), torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 16, 16, generator=rng) * model.variance**0.5
    nats = (
        model.variational_bound(x, torch.zeros(64, dtype=torch.int64), 100, rng).mean()
        / x[0].numel()
    )
    assert float(nats) == pytest.approx(gaussian_bound(model), abs=0.03)


def test_the_bound_from_few_steps_is_unbiased():
    model = Oracle("tiny", (16, 16, 3), seed=0)
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(0.2)
    c = torch.zeros(16, dtype=torch.int64)
    many = [
        float(model.variational_bound(x, c, 999, torch.Generator().manual_seed(i)).mean())
        for i in range(3)
    ]
    few = [
        float(model.variational_bound(x, c, 40, torch.Generator().manual_seed(i)).mean())
        for i in range(20)
    ]
    assert np.mean(few) == pytest.approx(np.mean(many), rel=0.01)


def test_finishing_from_a_clean_image_returns_it(tiny):
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(tiny.finish(x, tiny.conditions([1, 2]), -1, DDIM), x)
    assert not torch.equal(tiny.finish(x, tiny.conditions([1, 2]), 600, DDIM), x)


def test_forgetting_holds_six_floats_a_parameter(tiny, rng):
    """θ, gradient, two moments of Adam, θ* and F: 24 bytes, besides activations and averaged weights."""
    params = tiny.parameters()
    pull = Pull(params, {name: torch.rand_like(p) for name, p in params.items()}, 1.0)
    optimiser = torch.optim.Adam(params.values(), fused=True)
    tiny.loss(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), tiny.draw(2, rng)).sum().backward()
    optimiser.step()
    held = [*params.values(), *(p.grad for p in params.values()), *pull.anchors, *pull.weights]
    held += [v for state in optimiser.state.values() for v in state.values() if v.numel() > 1]
    tensors = sum(
        p.numel() for p in params.values() if p.numel() == 1
    )  # whose moments are not counted
    assert sum(v.numel() for v in held) == 6 * sum(p.numel() for p in params.values()) - 2 * tensors


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_images_and_still_sees_a_substituted_row(
    tiny, rng, monkeypatch
):
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: whole(net, backend="eager"))
    monkeypatch.setenv("SA_BENCH_COMPILE", "1")
    compiled = tiny.clone().to("cpu")
    assert compiled.net._compiled_call_impl is not None
    assert tiny.clone().net._compiled_call_impl is None
    rows, x, draw = [Request(3, 5), Request(4, 6)], torch.randn(2, 3, 16, 16), tiny.draw(2, rng)
    torch.testing.assert_close(
        compiled.sample(rows, DDIM), tiny.sample(rows, DDIM), atol=1e-4, rtol=1e-4
    )
    c = torch.tensor([3, 4])
    torch.testing.assert_close(compiled.loss(x, c, draw), tiny.loss(x, c, draw))
    value = tiny.condition(3).read() + 1
    with tiny.condition(3).substitute(value), compiled.condition(3).substitute(value):
        torch.testing.assert_close(compiled.loss(x, c, draw), tiny.loss(x, c, draw))
