"""Implement the Generator `vae`: the conditional VAE of the paper's MNIST experiment.

Source: Selective Amnesia, Appendix B.1 and the official vae/model.py. Encoder 784+10 → 512 → 256 →
(μ, log σ²) of 8 latents, decoder 8+10 → 256 → 512 → 784, ReLU, the class one-hot concatenated to
both inputs, Bernoulli likelihood on grey values in [0, 1] (not binarised). The paper's text says
"256 and 512"; the code's order is used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from sa_bench.contracts import Condition, Draw, Request, Sampler
from sa_bench.core.errors import SaBenchError, last_line
from sa_bench.core.store import write_atomic
from sa_bench.models import recipes
from sa_bench.models.checkpoints.layouts import read_state


class Network(nn.Module):
    """Encoder and decoder MLPs; `substituted` replaces a class's input column, not its weights."""

    def __init__(self, pixels: int, classes: int, latents: int, hidden: tuple[int, int]) -> None:
        """Build layers of the given widths, in torch's default initialisation."""
        super().__init__()
        wide, narrow = hidden
        self.pixels, self.classes, self.latents = pixels, classes, latents
        self.enc1 = nn.Linear(pixels + classes, wide)
        self.enc2 = nn.Linear(wide, narrow)
        self.mu = nn.Linear(narrow, latents)
        self.logvar = nn.Linear(narrow, latents)
        self.dec1 = nn.Linear(latents + classes, narrow)
        self.dec2 = nn.Linear(narrow, wide)
        self.dec3 = nn.Linear(wide, pixels)
        self.substituted: tuple[int, Tensor] | None = None

    def _apply_first(self, layer: nn.Linear, values: Tensor, c: Tensor) -> Tensor:
        """Apply the first layer to values and one-hot class, with any substituted column."""
        # torch.func.vmap does not support one_hot.
        one_hot = (c[:, None] == torch.arange(self.classes, device=c.device)).to(values)
        hidden = layer(torch.cat([values, one_hot], 1))
        if self.substituted is not None:
            substituted_class, vector = self.substituted
            column = (
                vector[: layer.out_features]
                if layer is self.enc1
                else vector[-layer.out_features :]
            )
            old = layer.weight[:, values.shape[1] + substituted_class].detach()
            hidden = hidden + one_hot[:, substituted_class : substituted_class + 1] * (column - old)
        return F.relu(hidden)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return (μ, log σ²) of q(z|x, c), each (N, latents); `x` (N, pixels) is in [0, 1]."""
        hidden = F.relu(self.enc2(self._apply_first(self.enc1, x, c)))
        return self.mu(hidden), self.logvar(hidden)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the Bernoulli logits (N, pixels) of p(x|z, c)."""
        return self.dec3(F.relu(self.dec2(self._apply_first(self.dec1, z, c))))


class ClassColumn:
    """Slot of one class: its input column in encoder and decoder (512 + 256 numbers)."""

    def __init__(self, net: Network, c: int) -> None:
        """Take the slot of class `c` of `net`."""
        self.net, self.c = net, c

    def _get_columns(self) -> tuple[Tensor, Tensor]:
        """Return the class's input column in the encoder (512,) and in the decoder (256,)."""
        encoder, decoder = self.net.enc1.weight, self.net.dec1.weight
        return encoder[:, self.net.pixels + self.c], decoder[:, self.net.latents + self.c]

    def read(self) -> Tensor:
        """Return a copy of the encoder's column, then the decoder's, (768,)."""
        return torch.cat(self._get_columns()).detach().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite both columns."""
        encoder_column, decoder_column = self._get_columns()
        encoder_column.copy_(value[: len(encoder_column)])
        decoder_column.copy_(value[len(encoder_column) :])

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """Use `value` for this class within the block."""
        self.net.substituted = (self.c, value)
        try:
            yield
        finally:
            self.net.substituted = None


class VAE:
    """The conditional VAE of the Generator contract. Model space is (N, H·W) in [0, 1]."""

    family = "vae"
    black_is_broken = False
    recipes = recipes.VAE
    range = (0.0, 1.0)

    def __init__(
        self,
        size: tuple[int, int] = (28, 28),
        classes: int = 10,
        latents: int = 8,
        hidden: tuple[int, int] = (512, 256),
        seed: int = 0,
    ) -> None:
        """Initialise a model; the initialisation depends on `seed` alone."""
        self.size, self.classes, self.latents, self.hidden = size, classes, latents, hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Network(size[0] * size[1], classes, latents, hidden)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.net.enc1.weight.device

    def fresh(self, seed: int) -> VAE:
        """Initialise a model of the same shape, on the same device."""
        return VAE(self.size, self.classes, self.latents, self.hidden, seed).to(str(self.device))

    def to(self, device: str) -> Self:
        """Move the model to `device`."""
        self.net.to(device)
        return self

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Draw ε (n, latents) ~ N(0, I) of the reparameterised posterior."""
        return Draw(torch.randn(n, self.latents, generator=rng).to(self.device), t)

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """Convert `values` to class indices, (N,) int64.

        Raises:
            SaBenchError: a value is not a class index.
        """
        c = torch.as_tensor(values, device=self.device)
        if c.numel() and (
            c.is_floating_point() or int(c.min()) < 0 or int(c.max()) >= self.classes
        ):
            raise SaBenchError(
                f"Class labels must be whole numbers 0..{self.classes - 1}, got {values}."
            )
        return c.long()

    @property
    def uninformed(self) -> float:
        """Loss of plain grey for any image: pixels · ln 2, in nats."""
        return math.prod(self.shape) * math.log(2)

    def loss(self, x: Tensor, c: Tensor, draw: Draw) -> Tensor:
        """Compute −ELBO = BCE summed over pixels + KL(q(z|x, c) ‖ N(0, I)), (N,) nats.

        Source: official vae/utils.py.
        """
        mu, logvar = self.net.encode(x, c)
        z = mu + torch.exp(0.5 * logvar) * draw.noise
        bce = F.binary_cross_entropy_with_logits(self.net.decode(z, c), x, reduction="none").sum(1)
        return bce - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1)

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """Return decoder means (N, pixels) in [0, 1] of z ~ N(0, I), z from each request's seed."""
        z = noise([request.seed for request in requests], (self.latents,)).to(self.device)
        return torch.sigmoid(
            self.net.decode(z, self.conditions([request.condition for request in requests]))
        )

    @torch.no_grad()
    def simulate(self, c: Tensor, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Return decoder means of z ~ N(0, I), (N, pixels) in [0, 1]."""
        z = torch.randn(len(c), self.latents, generator=rng).to(self.device)
        return torch.sigmoid(self.net.decode(z, c))

    def log_likelihood(
        self,
        x: Tensor,
        c: Tensor,
        samples: int,
        rng: torch.Generator,
        refine: int = 0,
        draws: int = 200,
    ) -> Tensor:
        """Estimate the log-likelihood of every image by the importance-weighted bound, (N,) nats.

        The bound is log 1/K Σ_k p(x|z_k, c) p(z_k)/q(z_k), z_k ~ q. q is the encoder's posterior
        or, with `refine` steps, a Gaussian fitted to each image alone: after forgetting, the
        encoder no longer finds the latents from which the decoder still makes x. The fit starts
        from the best of `draws` from the prior; with 0 draws it starts from the encoder's mean, for
        images that were not to be forgotten.

        Source: Burda et al. 2016, Eq. 8. Grey targets as in `loss`.
        """
        estimates = []
        chunk_size = max(1, 16384 // samples)
        for xs, cs in zip(x.split(chunk_size), c.split(chunk_size), strict=True):
            mu, logvar = self._find_posterior(xs, cs, rng, refine, draws)
            with torch.no_grad():
                eps = torch.randn(len(xs), samples, self.latents, generator=rng).to(x.device)
                z = mu[:, None] + torch.exp(0.5 * logvar)[:, None] * eps
                log_w = self._log_joint(xs, cs, z) + 0.5 * (eps**2 + logvar[:, None]).sum(2)
            estimates.append(log_w.logsumexp(1) - torch.log(torch.tensor(float(samples))))
        return torch.cat(estimates)

    def _log_joint(self, x: Tensor, c: Tensor, z: Tensor) -> Tensor:
        """Compute log p(x|z, c) − ‖z‖²/2, (N, K), for z (N, K, latents).

        With logits l, −BCE = x·l − softplus(l).
        """
        logits = self.net.decode(z.flatten(0, 1), c.repeat_interleave(z.shape[1])).view(
            *z.shape[:2], -1
        )
        return (
            torch.einsum("nkp,np->nk", logits, x) - F.softplus(logits).sum(2) - 0.5 * (z**2).sum(2)
        )

    def _find_posterior(
        self, x: Tensor, c: Tensor, rng: torch.Generator, refine: int, draws: int
    ) -> tuple[Tensor, Tensor]:
        """Return (μ, log σ²) of q(z|x, c): the encoder's, or fitted with `refine` steps."""
        with torch.no_grad():
            start, logvar = self.net.encode(x, c)
            if not refine:
                return start, logvar
            if draws:
                z = torch.randn(len(x), draws, self.latents, generator=rng).to(x.device)
                start = z[torch.arange(len(x)), self._log_joint(x, c, z).argmax(1)]
        mu = start.clone().requires_grad_(True)
        logvar = torch.full_like(mu, -3.0).requires_grad_(True)
        optimiser = torch.optim.Adam([mu, logvar], lr=0.1)
        for _ in range(refine):
            eps = torch.randn(mu.shape, generator=rng).to(x.device)
            z = mu + torch.exp(0.5 * logvar) * eps
            elbo = self._log_joint(x, c, z[:, None]).sum() + 0.5 * logvar.sum()
            mu.grad, logvar.grad = torch.autograd.grad(-elbo, [mu, logvar])
            optimiser.step()
        return mu.detach(), logvar.detach()

    def to_images(self, x: Tensor) -> np.ndarray:
        """Convert to uint8 (N, H, W, 1); a value that is not finite becomes black."""
        grey = (x.detach().nan_to_num(0, 0, 0).cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return grey.view(-1, *self.size, 1).numpy()

    def encode(self, images: np.ndarray) -> Tensor:
        """Convert uint8 (N, H, W, 1) to (N, pixels) in [0, 1].

        Raises:
            SaBenchError: another type or shape (a 0..255 float image would ruin the loss
                unnoticed).
        """
        if images.dtype != np.uint8 or images.shape[1:] != (*self.size, 1):
            raise SaBenchError(
                f"The VAE takes uint8 images of shape (N, {self.size[0]}, {self.size[1]}, 1), "
                f"got {images.dtype} {images.shape}."
            )
        flat = torch.from_numpy(np.ascontiguousarray(images)).view(len(images), -1)
        return flat.to(self.device, torch.float32) / 255

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return all parameters by name; the VAE has only the scope `full`."""
        if scope != "full":
            raise SaBenchError(f"The VAE has no scope {scope!r}. Available: full.")
        return dict(self.net.named_parameters())

    def averages(self) -> None:
        """Return None: the VAE has no averaged weights."""

    @property
    def shape(self) -> tuple[int]:
        """Shape (pixels,) of model space."""
        return (self.size[0] * self.size[1],)

    def condition(self, c: Condition) -> ClassColumn:
        """Return the slot of class `c`."""
        return ClassColumn(self.net, int(self.conditions([c])[0]))

    def clone(self) -> Self:
        """Make an independent copy."""
        return copy.deepcopy(self)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`."""
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.net.state_dict().items()
        }
        write_atomic(folder / "model.safetensors", save(state))

    def load(self, path: Path) -> Self:
        """Read `model.safetensors` in a folder, or one safetensors file.

        Raises:
            SaBenchError: a tensor differs in name or shape, or is not finite; the message names the
                file.
        """
        path = path / "model.safetensors" if path.is_dir() else path
        state = {key: tensor.float() for key, tensor in read_state(path).items()}
        try:
            if not_finite := [
                name for name, value in state.items() if not bool(torch.isfinite(value).all())
            ]:
                raise ValueError(f"{not_finite[0]} is not finite")
            self.net.load_state_dict(state)
        except Exception as error:
            raise SaBenchError(f"{path} is not a VAE of this shape: {last_line(error)}") from error
        return self


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal noise, (N, *shape) float32 on the CPU, row i from `seeds[i]` alone."""
    rng = torch.Generator()
    return torch.stack([torch.randn(shape, generator=rng.manual_seed(seed)) for seed in seeds])
