"""Implement the Generator `ddpm`: class-conditional DDPMs.

Their U-Nets are diffusers' UNet2DModel with FiLM conditioning, by recipe.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from sa_bench.contracts import Condition, Draw, Sampler
from sa_bench.core import settings
from sa_bench.core.errors import SaBenchError, last_line
from sa_bench.core.store import write_atomic
from sa_bench.models import recipes
from sa_bench.models.checkpoints.layouts import read_state
from sa_bench.models.denoising import CHUNK, Denoising, grey_levels, times


@dataclass(frozen=True)
class Network:
    """The U-Net of a recipe."""

    widths: tuple[int, ...]  # channels at each resolution, halved from one to the next
    layers: int  # residual blocks per resolution
    attention: int  # resolution with self-attention, besides the middle; 0 for none
    dropout: float
    groups: int  # of group normalisation
    head: int  # channels per attention head
    patch: int = 1  # pixels per side folded into channels before the first convolution


NETWORKS = {
    "micro": Network((32, 64), layers=1, attention=0, dropout=0.0, groups=8, head=32, patch=2),
    "quick": Network((32, 64), layers=1, attention=0, dropout=0.0, groups=8, head=32, patch=2),
    # Paper, Appendix B.1: 128 channels, multipliers 1-2-2-2 at 32 pixels and 1-2-2-2-4 at 64.
    "cifar10": Network(
        (128, 256, 256, 256), layers=2, attention=16, dropout=0.1, groups=32, head=256
    ),
    "stl10": Network(
        (128, 256, 256, 256, 512), layers=2, attention=16, dropout=0.1, groups=32, head=256
    ),
    "tiny": Network((8, 16), layers=1, attention=0, dropout=0.1, groups=4, head=8, patch=4),
}


def unet(network: Network, size: tuple[int, int], channels: int, classes: int) -> UNet2DModel:
    """Build diffusers' U-Net with `classes` + 1 class embeddings, in its default initialisation."""
    side = size[0] // network.patch
    sides = [side // 2**i for i in range(len(network.widths))]
    attention = [resolution == network.attention for resolution in sides]
    depth = channels * network.patch**2
    return UNet2DModel(
        sample_size=(size[0] // network.patch, size[1] // network.patch),
        in_channels=depth,
        out_channels=depth,
        block_out_channels=network.widths,
        down_block_types=tuple(
            "AttnDownBlock2D" if has_attention else "DownBlock2D" for has_attention in attention
        ),
        up_block_types=tuple(
            "AttnUpBlock2D" if has_attention else "UpBlock2D"
            for has_attention in reversed(attention)
        ),
        layers_per_block=network.layers,
        dropout=network.dropout,
        norm_num_groups=network.groups,
        attention_head_dim=network.head,
        num_class_embeds=classes + 1,
        resnet_time_scale_shift="scale_shift",
    )


T = 1000  # diffusion steps


def _embedding(net: UNet2DModel) -> nn.Embedding:
    """Return the embedding of the classes, which every network here has."""
    return cast("nn.Embedding", net.class_embedding)


class EmbeddingRow:
    """Slot of one class: its row of the class embedding."""

    def __init__(self, model: DDPM, c: int) -> None:
        """Take the slot of class `c`."""
        self.model, self.c = model, c

    def _list_rows(self) -> list[Tensor]:
        """List the class's row in the raw weights and, if there are any, in the averaged ones."""
        nets = (
            [self.model.net] if self.model.average is None else [self.model.net, self.model.average]
        )
        return [_embedding(net).weight[self.c] for net in nets]

    def read(self) -> Tensor:
        """Return a copy of the row, (4 · first width,)."""
        return self._list_rows()[0].detach().clone()

    def averaged(self) -> Tensor:
        """Return a copy of the averaged weights' row, else of the row, (4 · first width,)."""
        return self._list_rows()[-1].detach().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite the row, in the averaged weights too."""
        for row in self._list_rows():
            row.copy_(value)

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """Use `value` for this class within the block, in the averaged weights too."""
        self.model.substituted = (self.c, value)
        try:
            yield
        finally:
            self.model.substituted = None


class DDPM(Denoising):
    """The diffusion model of the Generator contract. Model space is (N, C, H, W) in [-1, 1]."""

    family = "ddpm"
    recipes = recipes.DDPM
    range = (-1.0, 1.0)
    timesteps = T

    def __init__(
        self,
        base: str = "micro",
        shape: tuple[int, int, int] = (16, 16, 1),
        classes: int = 10,
        seed: int = 0,
    ) -> None:
        """Initialise a model; the initialisation depends on `seed` alone.

        Args:
            base: recipe, and with it the network.
            shape: (H, W, C) of the images.
            classes: number of classes; one more embedding is the null class.
            seed: of the initialisation.
        """
        self.betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
        self.base, self.size, self.channels, self.classes = base, shape[:2], shape[2], classes
        self.layout, self.null = NETWORKS[base], classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net: UNet2DModel = unet(self.layout, self.size, self.channels, classes).eval()
        if settings.gradient_checkpointing():
            self.net.enable_gradient_checkpointing()
        self.average: UNet2DModel | None = None
        if self.recipes[base].ema is not None:
            self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.alphas: Tensor = DDPMScheduler(num_train_timesteps=T, **self.betas).alphas_cumprod
        self.substituted: tuple[int, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of model space."""
        return (self.channels, *self.size)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.net.parameters()).device

    def fresh(self, seed: int) -> DDPM:
        """Initialise a model of the same shape, on the same device."""
        return DDPM(self.base, (*self.size, self.channels), self.classes, seed).to(str(self.device))

    def to(self, device: str) -> Self:
        """Move to `device`; on a GPU in channels-last order, and compiled with SA_BENCH_COMPILE."""
        for net in (self.net, self.average):
            if net is not None:
                nn.Module.to(net, device)
                if device != "cpu":
                    nn.Module.to(net, memory_format=torch.channels_last)
                if settings.compile_networks():
                    net.compile()
        self.alphas = self.alphas.to(device)
        return self

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Draw timesteps (n,), noise ε (n, C, H, W) and the seed of dropout.

        Timesteps are antithetic pairs t and T − 1 − t unless `t` is given.
        """
        if t is None:
            t = self.antithetic(n, rng)
        noise = torch.randn(n, *self.shape, generator=rng)
        seed = self.dropout_seed(rng)
        return Draw(
            noise.to(self.device, non_blocking=True), t.to(self.device, non_blocking=True), seed
        )

    def dropout_seed(self, rng: torch.Generator) -> int | None:
        """Draw a seed if the network has dropout and is being trained; else return None."""
        uses_dropout = self.net.training and self.layout.dropout > 0
        return int(torch.randint(2**62, (1,), generator=rng)) if uses_dropout else None

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """Convert `values` to class indices, (N,) int64; `classes` itself is the null class.

        Raises:
            SaBenchError: a value is not a class index.
        """
        c = torch.as_tensor(values)
        # Indices on a GPU were made here, and reading them would stall the GPU.
        is_checked = not c.numel() or c.device.type != "cpu"
        if not is_checked and (
            c.is_floating_point() or int(c.min()) < 0 or int(c.max()) > self.classes
        ):
            raise SaBenchError(
                f"Class labels must be whole numbers 0..{self.classes - 1}, got {values}."
            )
        return c.long().to(self.device)

    def nulls(self, c: Tensor) -> Tensor:
        """Return the null class for each row of `c`."""
        return torch.full_like(c, self.null)

    def network(self, sampler: Sampler) -> UNet2DModel:
        """Return the averaged weights if the sampler asks for them and they exist, else the raw."""
        return self.average if sampler.ema and self.average is not None else self.net

    def predict(self, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Predict ε̂(x_t, t, c), (N, C, H, W), with the raw weights."""
        return self.output(self.net, x_t, t, c)

    def output(self, net: UNet2DModel, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Compute ε̂ with the network `net`."""
        handle = None
        if self.substituted is not None:
            k, value = self.substituted
            put_vector = lambda _, args, out: torch.where((args[0] == k)[:, None], value, out)  # noqa: E731
            handle = _embedding(net).register_forward_hook(put_vector)
        # A compiled network does not run a hook that was added later.
        forward: Any = net if handle is None else net.forward
        try:
            out = forward(F.pixel_unshuffle(x_t, self.layout.patch), t, class_labels=c).sample
        finally:
            if handle is not None:
                handle.remove()
        return F.pixel_shuffle(out, self.layout.patch)

    @property
    def uninformed(self) -> float:
        """Loss of predicting 0: E‖ε‖², the number of values of an image."""
        return float(math.prod(self.shape))

    def loss(self, x: Tensor, c: Tensor, draw: Draw) -> Tensor:
        """Compute ‖ε − ε̂(x_t, t, c)‖² summed over the image, (N,).

        It is the simplified −ELBO (Ho et al. 2020, Eq. 14).
        """
        with self.with_dropout(draw.seed):
            error = self.predict(self.add_noise(x, draw), times(draw), c).float() - draw.noise
        return (error**2).flatten(1).sum(1)

    @torch.no_grad()
    def variational_bound(self, x: Tensor, c: Tensor, steps: int, rng: torch.Generator) -> Tensor:
        """Estimate the negative VLB of every image without bias, (N,) nats.

        It takes at most `steps` KL terms: one timestep is drawn from each of `steps` parts of 1..T
        − 1 that widen geometrically, so the first terms, which weigh most, are all taken. The
        decoder's and the prior's terms are exact but for ε.

        Source: Ho et al. 2020, Eq. 5 with the posterior's variance and the discretised decoder of
        Eq. 13; data in 256 levels.
        """
        a = self.alphas.double()
        previous = torch.cat([torch.ones(1, dtype=a.dtype, device=a.device), a[:-1]])
        alpha, beta = a / previous, 1 - a / previous
        variance = beta * (1 - previous) / (1 - a)
        weight = beta**2 / (2 * variance * alpha * (1 - a))
        total = self._compute_decoder_nats(x, c, rng, a, beta, alpha, variance)
        last = a[-1]  # KL of q(x_T|x) and N(0, I)
        squares = last * x.double() ** 2
        total = total + 0.5 * (squares - last - torch.log(1 - last)).flatten(1).sum(1)
        edges = torch.tensor(np.unique(np.geomspace(1, T, steps + 1).round().astype(np.int64)))
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            t = torch.randint(low, high, (len(x),), generator=rng)
            error = self._compute_loss_in_chunks(x, c, self.draw(len(x), rng, t))
            total = total + (high - low) * weight[t.to(x.device)] * error.double()
        return total

    def _compute_loss_in_chunks(self, x: Tensor, c: Tensor, draw: Draw) -> Tensor:
        """Compute the loss in chunks of as many images as one forward pass takes."""
        chunks = zip(
            *(tensor.split(self.together) for tensor in (x, c, draw.noise, times(draw))),
            strict=True,
        )
        return torch.cat([self.loss(xs, cs, Draw(noise, t)) for xs, cs, noise, t in chunks])

    def _compute_decoder_nats(
        self,
        x: Tensor,
        c: Tensor,
        rng: torch.Generator,
        a: Tensor,
        beta: Tensor,
        alpha: Tensor,
        variance: Tensor,
    ) -> Tensor:
        """Compute −log p(x | x_t) of 256 grey levels at t = 0, (N,) nats."""
        draw = self.draw(len(x), rng, torch.zeros(len(x), dtype=torch.int64))
        nats = []
        for xs, cs, noise in zip(
            x.split(CHUNK), c.split(CHUNK), draw.noise.split(CHUNK), strict=True
        ):
            chunk_draw = Draw(noise, torch.zeros(len(xs), dtype=torch.int64, device=x.device))
            x_t = self.add_noise(xs, chunk_draw)
            predicted_noise = self.predict(x_t, times(chunk_draw), cs).double()
            mean = (x_t.double() - beta[0] / (1 - a[0]).sqrt() * predicted_noise) / alpha[0].sqrt()
            # The posterior's variance at t = 0 is 0; as in Ho et al., the next one replaces it.
            std = variance[1].sqrt()
            half, centre = 1 / 255, xs.double()
            cdf = lambda z: 0.5 * (1 + torch.erf(z / math.sqrt(2)))  # noqa: E731
            high = torch.where(centre > 0.999, 1.0, cdf((centre + half - mean) / std))
            low = torch.where(centre < -0.999, 0.0, cdf((centre - half - mean) / std))
            nats.append(-(high - low).clamp(min=1e-12).log().flatten(1).sum(1))
        return torch.cat(nats)

    def to_images(self, x: Tensor) -> np.ndarray:
        """Convert to uint8 (N, H, W, C); an image with a value that is not finite becomes black."""
        return grey_levels(x)

    def encode(self, images: np.ndarray) -> Tensor:
        """Convert uint8 (N, H, W, C) to (N, C, H, W) in [-1, 1].

        Raises:
            SaBenchError: another type or shape.
        """
        expected_shape = (*self.size, self.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected_shape:
            raise SaBenchError(
                f"This DDPM takes uint8 images of shape (N, {', '.join(map(str, expected_shape))}), got "
                f"{images.dtype} {images.shape}."
            )
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device)
        return x.float() / 127.5 - 1

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return all parameters by name; the DDPM has only the scope `full`."""
        if scope != "full":
            raise SaBenchError(f"The DDPM has no scope {scope!r}. Available: full.")
        return dict(self.net.named_parameters())

    def averages(self) -> dict[str, Tensor] | None:
        """Return the averaged weights by the names of `parameters`; None if there are none."""
        return None if self.average is None else dict(self.average.named_parameters())

    def condition(self, c: Condition) -> EmbeddingRow:
        """Return the slot of class `c`."""
        return EmbeddingRow(self, int(self.conditions([c])[0]))

    def clone(self) -> Self:
        """Make an independent copy."""
        return copy.deepcopy(self)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`: the raw weights and, under `ema.`, the averaged ones."""
        state = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.net.state_dict().items()
        }
        if self.average is not None:
            state |= {
                f"ema.{name}": tensor.detach().cpu().contiguous()
                for name, tensor in self.average.state_dict().items()
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
            averaged = {
                key.removeprefix("ema."): state.pop(key)
                for key in list(state)
                if key.startswith("ema.")
            }
            self.net.load_state_dict(state)
            if self.average is not None:
                self.average.load_state_dict(averaged)
            elif averaged:
                raise ValueError("it has averaged weights, which this model does not have")
        except Exception as error:
            raise SaBenchError(f"{path} is not a DDPM of this shape: {last_line(error)}") from error
        return self
