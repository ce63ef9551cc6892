"""The VAE: its architecture is the paper's, its slot is one class's, and it says no to a wrong input."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sa_bench.contracts import Draw, Likelihood, Request, Sampler
from sa_bench.core.errors import SaBenchError
from sa_bench.models.vae import VAE


@pytest.fixture
def small():
    return VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=1)


def test_the_network_is_the_papers():
    shapes = {
        name: tuple(p.shape) for name, p in VAE().parameters().items() if name.endswith("weight")
    }
    assert shapes == {
        "enc1.weight": (512, 794), "enc2.weight": (256, 512), "mu.weight": (8, 256), "logvar.weight": (8, 256),
        "dec1.weight": (256, 18), "dec2.weight": (512, 256), "dec3.weight": (784, 512),
    }  # fmt: skip


def test_the_loss_is_bce_plus_kl_written_out(small, rng):
    x, c = torch.rand(5, 36, generator=rng), torch.tensor([0, 1, 2, 0, 1])
    draw = small.draw(5, rng)
    mu, logvar = small.net.encode(x, c)
    p = torch.sigmoid(small.net.decode(mu + (0.5 * logvar).exp() * draw.noise, c))
    bce = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    torch.testing.assert_close(small.loss(x, c, draw), bce + kl)


def test_grey_is_where_uniform_noise_ends():
    """E −log Bernoulli(x; ½) = 784 ln 2 = 543.4 nats whatever x is: the end point of the surrogate."""
    model = VAE()
    with torch.no_grad():
        for p in model.net.parameters():
            p.zero_()
    loss = model.loss(torch.rand(4, 784), torch.zeros(4, dtype=torch.long), Draw(torch.zeros(4, 8)))
    torch.testing.assert_close(loss, torch.full((4,), 784 * math.log(2)))
    assert (
        model.to_images(model.sample([Request(0, 1)], Sampler())).flatten().tolist() == [128] * 784
    )


def test_a_slot_reads_writes_and_substitutes_one_class_only(small, rng):
    x, draw = torch.rand(9, 36, generator=rng), small.draw(9, rng)
    c = small.conditions([0, 1, 2] * 3)
    slot = small.condition(1)
    assert slot.read().shape == (16 + 8,)
    before, value = small.loss(x, c, draw), torch.randn(24, generator=rng)
    with slot.substitute(value):
        inside = small.loss(x, c, draw)
    torch.testing.assert_close(small.loss(x, c, draw), before)
    slot.write(value)
    torch.testing.assert_close(small.loss(x, c, draw), inside, rtol=1e-5, atol=1e-4)
    assert torch.equal(slot.read(), value)
    assert torch.equal(inside[c != 1], before[c != 1])
    assert (inside[c == 1] != before[c == 1]).all()


def test_gradients_of_a_substitute_reach_it_and_nothing_is_left_behind(small, rng):
    x, c = torch.rand(4, 36, generator=rng), small.conditions([1] * 4)
    value = small.condition(1).read().requires_grad_(True)
    weights = {n: p.detach().clone() for n, p in small.parameters().items()}
    with small.condition(1).substitute(value):
        loss = small.loss(x, c, small.draw(4, rng)).sum()
    (g,) = torch.autograd.grad(loss, [value])
    assert (g != 0).any()
    with pytest.raises(RuntimeError), small.condition(1).substitute(value):
        raise RuntimeError
    assert small.net.substituted is None
    assert all(torch.equal(p, weights[n]) for n, p in small.parameters().items())


def test_saved_and_loaded_it_is_the_same_model(small, tmp_path):
    small.save(tmp_path)
    again = VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=7).load(tmp_path)
    assert all(torch.equal(p, again.parameters()[n]) for n, p in small.parameters().items())


@pytest.mark.parametrize(
    "harm", ["missing tensor", "another shape", "text", "no file", "a name too many"]
)
def test_a_wrong_weight_file_is_named(small, tmp_path, harm):
    small.save(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    if harm == "missing tensor":
        del state["mu.bias"]
    elif harm == "another shape":
        state["mu.bias"] = torch.zeros(5)
    elif harm == "a name too many":
        state["extra"] = torch.zeros(5)
    save_file(state, path)
    if harm == "text":
        path.write_text("not safetensors")
    elif harm == "no file":
        path.unlink()
    why = {
        "text": r"model\.safetensors is not a complete safetensors file",
        "no file": r"There is no .*model\.safetensors",
    }.get(harm, r"model\.safetensors is not a VAE of this shape")
    with pytest.raises(SaBenchError, match=why):
        small.load(tmp_path)


def test_a_file_of_torch_save_is_refused_with_what_to_do(small, tmp_path):
    torch.save(small.net.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(SaBenchError, match=r"mine\.pt is a file of torch\.save.*save_file"):
        small.load(tmp_path / "mine.pt")


@pytest.mark.parametrize(
    "images",
    [
        np.full((2, 6, 6, 1), 255.0, np.float32),
        np.full((2, 6, 6, 1), -0.42),
        np.zeros((2, 6, 6, 3), np.uint8),
        np.zeros((2, 1, 6, 6), np.uint8),
        np.zeros((2, 36), np.uint8),
    ],
    ids=["0..255 floats", "normalised floats", "RGB", "NCHW", "flat"],
)
def test_images_that_would_silently_ruin_the_loss_are_refused(small, images):
    with pytest.raises(SaBenchError, match=r"uint8 images of shape \(N, 6, 6, 1\)"):
        small.encode(images)


def test_images_survive_a_round_trip(small, rng):
    images = torch.randint(256, (3, 6, 6, 1), generator=rng).to(torch.uint8).numpy()
    assert np.array_equal(small.to_images(small.encode(images)), images)


@pytest.mark.parametrize("labels", [[3], [-1], [0.5], torch.tensor([1.0])])
def test_a_label_outside_the_classes_is_refused(small, labels):
    with pytest.raises(SaBenchError, match=r"whole numbers 0\.\.2"):
        small.conditions(labels)


def test_an_initialisation_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = VAE(seed=4)
    torch.manual_seed(2)
    second, state = VAE(seed=4), torch.get_rng_state()
    assert all(torch.equal(p, second.parameters()[n]) for n, p in first.parameters().items())
    assert not torch.equal(first.net.mu.weight, VAE(seed=5).net.mu.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_clone_is_independent(small):
    other = small.clone()
    with torch.no_grad():
        other.net.mu.bias += 1
    assert not torch.equal(other.net.mu.bias, small.net.mu.bias)


@torch.no_grad()
def exact_log_likelihood(model, x, c):
    """log ∫ p(x|z, c) p(z) dz on a grid over the 2-d latent space."""
    side = torch.linspace(-6, 6, 241)
    z = torch.cartesian_prod(side, side)
    logits = model.net.decode(z, c.expand(len(z)))
    log_p = (
        x * torch.nn.functional.logsigmoid(logits)
        + (1 - x) * torch.nn.functional.logsigmoid(-logits)
    ).sum(1)
    log_prior = -0.5 * (z**2).sum(1) - math.log(2 * math.pi)
    return float((log_p + log_prior).double().logsumexp(0) + 2 * math.log(12 / 240))


@pytest.mark.parametrize(("refine", "tolerance"), [(0, 0.1), (100, 1.0)])
def test_importance_sampling_reaches_the_exact_log_likelihood_from_below(rng, refine, tolerance):
    model = VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=2)
    with (
        torch.no_grad()
    ):  # a decoder whose posterior is narrow, so that the number of draws matters
        model.net.dec1.weight *= 4
        model.net.dec3.weight *= 8
    x, c = torch.rand(6, 36, generator=rng).round(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert isinstance(model, Likelihood)
    exact = torch.tensor([exact_log_likelihood(model, x[i], c[i : i + 1]) for i in range(6)])
    often = model.log_likelihood(
        x.repeat(50, 1), c.repeat(50), 2, rng, refine
    )  # each in its own draws
    few = often.view(50, 6).mean(0)
    many = model.log_likelihood(x, c, 20_000, rng, refine)
    assert (many <= exact + 0.1).all()
    assert (
        float((exact - many).max()) < tolerance
    )  # a fitted Gaussian finds one mode where there are two
    assert float((exact - few).mean()) > 0.02  # a bound: in mean never above
    assert (few <= exact + 0.1).all()


def test_a_fitted_proposal_finds_what_a_broken_encoder_hides(rng):
    model = VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=2)
    with torch.no_grad():
        model.net.dec1.weight *= 4
        model.net.dec3.weight *= 8
        model.net.mu.bias += 5.0  # the encoder points far away
    x, c = torch.rand(6, 36, generator=rng).round(), torch.tensor([0, 1, 2, 0, 1, 2])
    exact = torch.tensor(
        [exact_log_likelihood(model, x[i], c[i : i + 1]) for i in range(6)]
    ).float()
    lost = exact - model.log_likelihood(x, c, 500, rng)
    found = exact - model.log_likelihood(x, c, 500, rng, 100)
    assert float(found.abs().max()) < 0.5
    assert float(lost.mean()) > 1.0


def test_retention_is_the_decoders_also_where_the_encoder_moved(rng):
    """The same decoder behind two encoders: the fitted bound agrees, the model's own encoder does not."""
    model = VAE(size=(6, 6), classes=3, latents=2, hidden=(16, 8), seed=2)
    with torch.no_grad():
        model.net.dec1.weight *= 4
        model.net.dec3.weight *= 8
    moved = model.clone()
    with torch.no_grad():
        moved.net.mu.bias += 1.5
    x, c = torch.rand(200, 36, generator=rng).round(), torch.arange(200) % 3

    def bounds(refine):
        return [
            float(m.log_likelihood(x, c, 50, torch.Generator().manual_seed(1), refine, 0).mean())
            for m in (model, moved)
        ]

    own, fitted = bounds(0), bounds(50)
    assert own[0] - own[1] > 0.3
    assert abs(fitted[0] - fitted[1]) < 0.1
    assert min(fitted) > max(own)
