"""The diagonal Fisher: exact against a one-sample loop, and on models whose F is known."""

import pytest
import torch

from sa_bench.contracts import Draw, FisherOptions
from sa_bench.models.vae import VAE
from sa_bench.training import fisher
from sa_bench.training.fisher import draw_timesteps, fisher_over_time


def loop(model, batches):
    """The definition: one sample, one gradient, squared, averaged."""
    total = {n: torch.zeros_like(p) for n, p in model.net.named_parameters()}
    count = 0
    for x, c, draw in batches:
        for i in range(len(x)):
            one = Draw(draw.noise[i : i + 1], None if draw.t is None else draw.t[i : i + 1])
            params = list(model.net.parameters())
            grads = torch.autograd.grad(model.loss(x[i : i + 1], c[i : i + 1], one).sum(), params)
            for (name, _), g in zip(model.net.named_parameters(), grads, strict=True):
                total[name] += g**2
            count += 1
    return {n: v / count for n, v in total.items()}


def relative(a, b):
    return max(float((a[n] - b[n]).norm() / (b[n].norm() + 1e-300)) for n in b)


@pytest.fixture
def small():
    return VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=1)


def batch_of(model, rng, dtype, n=40):
    x = torch.rand(n, 36, generator=rng).to(dtype)
    c = torch.randint(3, (n,), generator=rng)
    return [(x, c, Draw(torch.randn(n, 2, generator=rng).to(dtype)))]


@pytest.mark.parametrize("estimate", [fisher.fisher_by_hooks, fisher.fisher_by_functions])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_exact_on_the_vae(small, rng, estimate, dtype, tolerance):
    small.net.to(dtype)
    batches = batch_of(small, rng, dtype)
    assert relative(estimate(small, batches), loop(small, batches)) <= tolerance


def test_exact_on_a_diffusion_model(toy_diffusion, rng):
    toy_diffusion.net.double()
    toy_diffusion.alpha = toy_diffusion.alpha.double()
    x, c = torch.randn(30, 2, generator=rng).double(), torch.randint(3, (30,), generator=rng)
    draw = toy_diffusion.draw(30, rng)
    batches = [(x, c, Draw(draw.noise.double(), draw.t))]
    assert not fisher.is_all_linear(toy_diffusion.net)
    assert (
        relative(fisher.diagonal_fisher(toy_diffusion, batches), loop(toy_diffusion, batches))
        <= 1e-10
    )


def test_gradients_1_minus1_2_minus2_give_two_and_a_half(gaussian):
    """Squares before the mean: (1 + 1 + 4 + 4) / 4, not the square of the mean, 0."""
    with torch.no_grad():
        gaussian.net.weight.zero_()
    x = torch.tensor([[1.0, 0], [-1, 0], [2, 0], [-2, 0]])
    F = fisher.diagonal_fisher(
        gaussian, [(x, torch.zeros(4, dtype=torch.long), Draw(torch.zeros(4, 1)))]
    )
    assert F["weight"][0].tolist() == pytest.approx([2.5, 0.0])


def test_the_gaussians_fisher_is_the_class_frequency(gaussian, rng):
    c = torch.randint(3, (6000,), generator=rng)
    x = gaussian.simulate(c, rng, None)
    F = fisher.diagonal_fisher(gaussian, [(x, c, gaussian.draw(6000, rng))])["weight"]
    torch.testing.assert_close(F, torch.full((3, 2), 1 / 3), atol=0.03, rtol=0)


def test_split_into_batches_changes_nothing(small, rng):
    small.net.double()
    ((x, c, draw),) = batch_of(small, rng, torch.float64)
    parts = [(x[i : i + 7], c[i : i + 7], Draw(draw.noise[i : i + 7])) for i in range(0, 40, 7)]
    assert (
        relative(
            fisher.fisher_by_hooks(small, parts), fisher.fisher_by_hooks(small, [(x, c, draw)])
        )
        < 1e-12
    )


def test_targets_and_sets_differ(rng):
    """Decoder means and Bernoulli draws are two estimands; so are all classes and the retained."""
    from dataclasses import replace

    from sa_bench.core import registry

    task = registry.get_task("mnist_0")
    model = VAE(seed=0)

    def estimate(**options):
        chosen = replace(FisherOptions(n=300), **options)
        source = type(
            "S",
            (),
            {
                "batch": lambda self, n, rng: (
                    torch.rand(n, 784, generator=rng),
                    torch.ones(n).long(),
                )
            },
        )()
        generator = torch.Generator().manual_seed(0)
        return fisher.diagonal_fisher(
            model, fisher.sample_batches(model, task, chosen, source, task.sampler, generator)
        )  # fmt: skip

    means, draws = estimate(), estimate(targets="bernoulli")
    assert draws["dec3.weight"].sum() > 3 * means["dec3.weight"].sum()
    assert float(means["enc1.weight"][:, 784].sum()) > 0
    assert float(estimate(set="retain")["enc1.weight"][:, 784].abs().sum()) == 0
    only_ones = estimate(set="replay")["enc1.weight"][:, 784:].sum(0)
    assert int((only_ones > 0).sum()) == 1


def summed_squares(model, x, c, halves):
    """mean over images of (∇ Σ_t loss_t)², by hand, the noise as `over_time` draws it."""
    rng, params = torch.Generator().manual_seed(9), dict(model.net.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    for i in range(len(x)):
        found = []
        for t in halves:
            draw = model.draw(len(t), rng, t)
            loss = sum(
                model.loss(
                    x[i : i + 1], c[i : i + 1], Draw(draw.noise[k : k + 1], t[k : k + 1])
                ).sum()
                for k in range(len(t))
            )
            grads = torch.autograd.grad(loss, list(params.values()))
            found.append([g * model.timesteps / len(t) for g in grads])
        for name, a, b in zip(params, found[0], found[-1], strict=True):
            total[name] += a * b / len(x)
    return total


def test_over_time_squares_after_the_sum(toy_diffusion, rng):
    x, c = torch.randn(5, 2, generator=rng), torch.tensor([0, 1, 2, 0, 1])
    found, negative = fisher_over_time(
        toy_diffusion, [(x, c, None)], FisherOptions(n=5), torch.Generator().manual_seed(9)
    )
    wanted = summed_squares(toy_diffusion, x, c, [torch.arange(10)])
    assert negative == 0
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_fewer_timesteps_overestimate_and_the_product_of_halves_does_not(toy_diffusion):
    """E[(Σ_t g)²] is the target; a subsample adds its variance, independent halves do not."""
    x, c = torch.randn(1, 2).repeat(1000, 1), torch.zeros(1000, dtype=torch.int64)

    def trace(**options):
        rng = torch.Generator().manual_seed(1)
        F, _ = fisher_over_time(
            toy_diffusion, [(x, c, None)], FisherOptions(n=1000, **options), rng
        )
        return float(sum(v.sum() for v in F.values()))

    exact, plain, product = (
        trace(),
        trace(timesteps=2, estimator="plain"),
        trace(timesteps=2, estimator="product"),
    )
    assert plain > 1.2 * exact
    assert abs(product / exact - 1) < 0.5 * (plain / exact - 1)


@pytest.mark.parametrize("k", [1, 7, 10])
def test_stratified_timesteps_take_one_of_each_part(k, rng):
    (t,) = draw_timesteps(10, FisherOptions(timesteps=k, estimator="stratified"), rng)
    assert len(t) == k
    assert torch.equal((t * k / 10).floor().long().unique(), torch.arange(k)) or k == 7
    one, two = draw_timesteps(10, FisherOptions(timesteps=10, estimator="product"), rng)
    assert len(one) == len(two) == 5


def test_official_range_is_an_option(toy_diffusion, rng):
    x, c = torch.randn(3, 2, generator=rng), torch.tensor([0, 1, 2])
    F = [
        fisher_over_time(
            toy_diffusion,
            [(v, c, None)],
            FisherOptions(n=3, range=r),
            torch.Generator().manual_seed(0),
        )[0]
        for v, r in ((x, "unit"), ((x + 1) / 2, "model"), (x, "model"))
    ]
    assert torch.equal(F[0]["one.weight"], F[1]["one.weight"])
    assert not torch.equal(F[0]["one.weight"], F[2]["one.weight"])


def test_an_interrupted_fisher_goes_on_where_it_was(toy_diffusion, tmp_path, monkeypatch):
    """Bit for bit, whether the kill came in the first batch or in a later one."""
    from types import SimpleNamespace

    from sa_bench.contracts import Sampler

    monkeypatch.setattr(fisher, "BATCH", 4)
    monkeypatch.setattr(fisher, "EVERY", 0.0)
    task = SimpleNamespace(classes=("a", "b", "c"), retain=(1, 2))
    options = FisherOptions(n=11, timesteps=3)

    def run(tick=lambda done: None, checkpoint=None):
        rng = torch.Generator().manual_seed(3)
        return fisher.estimate_over_time(
            toy_diffusion, task, options, None, Sampler("ddim", 10), rng, tick, checkpoint
        )[0]

    whole = run()
    for at in (2, 7):
        kept = tmp_path / f"{at}.safetensors"

        def kill(done, at=at):
            if done == at + 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(kill, kept)
        seen = []
        resumed = run(seen.append, kept)
        assert seen[0] == at + 1
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_drawn_once_every_sample_of_the_set_is_in_f_once_and_batches_are_of_the_first_ones(
    small, rng
):
    """Official sd/: F is the sum over the 5,000 pairs, each once, by their number; training sees the first 1,000."""
    from sa_bench.contracts import Sampler
    from sa_bench.core import registry
    from sa_bench.training.sources import FixedReplay

    x, c = torch.rand(2500, 36, generator=rng), torch.arange(2500) % 3
    source = FixedReplay(x, c, used=7)
    task = registry.get_task("mnist_0")
    for start in (0, 1000, 2000):  # 1000: goes on after a kill
        options = FisherOptions(n=2500, set="replay", draws="once")
        parts = list(fisher.sample_batches(small, task, options, source, Sampler(), rng, start))
        assert torch.equal(torch.cat([part[0] for part in parts]), x[start:])
        assert torch.equal(torch.cat([part[1] for part in parts]), c[start:])
    again = fisher.sample_batches(
        small, task, FisherOptions(n=2500, set="replay"), source, Sampler(), rng
    )
    assert len({tuple(row.tolist()) for part in again for row in part[0]}) <= 2 * 7
    seen = {tuple(row.tolist()) for row in FixedReplay(x, c, used=7).batch(500, rng)[0]}
    assert seen == {tuple(row.tolist()) for row in x[:7]}


def test_class_dropout_takes_the_class_away_at_some_of_an_images_timesteps(toy_diffusion, rng):
    """Official ddpm/runners: the loss's default drops each row's class with probability .1, F included."""
    x, c = torch.randn(5, 2, generator=rng), torch.tensor([0, 1, 2, 0, 1])
    model, params = toy_diffusion, dict(toy_diffusion.net.named_parameters())
    wanted, by_hand = (
        {n: torch.zeros_like(p) for n, p in params.items()},
        torch.Generator().manual_seed(9),
    )
    for i in range(5):
        t = torch.arange(10)
        draw = model.draw(10, by_hand, t)
        asked = torch.where(torch.rand(10, generator=by_hand) < 0.5, model.null, c[i])
        assert 0 < int((asked == model.null).sum()) < 10
        grads = torch.autograd.grad(
            model.loss(x[i : i + 1].expand(10, 2), asked, draw).sum(), list(params.values())
        )
        for name, g in zip(params, grads, strict=True):
            wanted[name] += g**2 / 5

    def found(drop):
        options = FisherOptions(n=5, drop=drop)
        return fisher_over_time(model, [(x, c, None)], options, torch.Generator().manual_seed(9))[0]

    for name, value in found(0.5).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)
    null = "embed.weight"
    assert float(found(0.0)[null][model.null].abs().sum()) == 0
    assert float(found(0.5)[null][model.null].abs().sum()) > 0
