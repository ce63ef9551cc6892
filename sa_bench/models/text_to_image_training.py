"""Train the micro text-to-image model on captions.

First its autoencoder is trained, then text encoder and U-Net together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sa_bench.contracts import Progress, Recipe
from sa_bench.core.parts import parts_of
from sa_bench.data import captions
from sa_bench.models.recipes import SIZES
from sa_bench.models.text_to_image import TextToImage
from sa_bench.training.loop import fit
from sa_bench.training.record import TrainingRecord
from sa_bench.training.sources import drop_conditions

ENCODED = 256  # canvases per forward pass


@dataclass
class Captioned:
    """Uniform batches of latents, drawn from the autoencoder's posterior, with their captions."""

    mean: Tensor  # (N, C, h, w), scaled
    deviation: Tensor  # (N, C, h, w), scaled
    c: Tensor  # (N, length) token numbers
    null: Tensor  # (1, length)
    drop: float  # probability that a caption becomes empty

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `n` latents and their conditions."""
        rows = torch.randint(len(self.mean), (n,), generator=rng)
        noise = torch.randn(n, *self.mean.shape[1:], generator=rng).to(self.mean.device)
        x, c = self.mean[rows] + self.deviation[rows] * noise, self.c[rows]
        return x, drop_conditions(c, self.null, self.drop, rng)


def train(
    model: TextToImage,
    images: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    bf16: bool = False,
) -> list[TrainingRecord]:
    """Train `model` from its initialisation; it can be resumed from the checkpoints in `folder`."""
    sizes = SIZES[model.base]
    numpy_rng = np.random.default_rng(seed)
    canvases, caption_texts, _ = captions.draw_captioned(images, labels, sizes.canvases, numpy_rng)
    coloured = captions.tinted(canvases, numpy_rng)
    first = autoencoder(model, coloured, sizes.autoencoder_steps, seed, folder, progress)
    source, rng = (
        encoded(model, canvases, caption_texts, recipe.drop),
        torch.Generator().manual_seed(seed),
    )

    def loss() -> Tensor:
        x, c = source.batch(recipe.batch, rng)
        return recipe.reduce(model.loss(x, c, model.draw(len(x), rng)))

    model.net.train()
    second = fit(
        model.parameters("joint"),
        loss,
        recipe,
        rng=rng,
        progress=progress,
        bf16=bf16,
        checkpoint=parts_of(folder) / "checkpoint.safetensors",
        stage=f"base {model.base}/{seed}",
    )
    model.net.eval()
    model.text.requires_grad_(False)
    return [first, second]


def autoencoder(
    model: TextToImage,
    canvases: np.ndarray,
    steps: int,
    seed: int,
    folder: Path,
    progress: Progress | None,
) -> TrainingRecord:
    """Train the autoencoder, then set the scaling factor to 1/std.

    The loss is squared and absolute error, and a little KL. Every colour is shown equally often:
    with as few coloured canvases as the captions have, the autoencoder would confuse red and blue.
    """
    vae, rng = model.vae, torch.Generator().manual_seed(seed + 1)

    def loss() -> Tensor:
        rows = torch.randint(len(canvases), (32,), generator=rng).numpy()
        x = _to_pixels(canvases[rows], model)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=rng).to(x.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl() / posterior.mean[0].numel()
        return F.mse_loss(decoded, x) + 0.3 * F.l1_loss(decoded, x) + 3e-4 * kl.mean()

    vae.requires_grad_(True).train()
    record = fit(
        dict(vae.named_parameters()),
        loss,
        Recipe(steps, 2e-3, 32, "cosine", min(50, steps // 2)),
        rng=rng,
        progress=progress,
        checkpoint=parts_of(folder) / "checkpoint-autoencoder.safetensors",
        stage=f"autoencoder {seed}",
    )
    vae.requires_grad_(False).eval()
    mean, deviation = _encode_posterior(model, canvases[:2048])
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed)).to(mean.device)
    vae.register_to_config(scaling_factor=round(1 / float((mean + deviation * noise).std()), 6))
    return record


def encoded(
    model: TextToImage, canvases: np.ndarray, texts: Sequence[str], drop: float
) -> Captioned:
    """Encode canvases (N, H, W, 3) and captions into a source of training batches."""
    mean, deviation = _encode_posterior(model, canvases)
    row_by_text = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    token_rows = model.conditions(list(row_by_text))
    c = token_rows[torch.tensor([row_by_text[text] for text in texts])]
    return Captioned(
        mean * model.scaling, deviation * model.scaling, c, model.conditions([""]), drop
    )


@torch.no_grad()
def _encode_posterior(model: TextToImage, canvases: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the autoencoder's posterior, (N, C, h, w) each."""
    posteriors: list[Any] = [
        model.vae.encode(_to_pixels(canvases[i : i + ENCODED], model)).latent_dist
        for i in range(0, len(canvases), ENCODED)
    ]
    return torch.cat([posterior.mean for posterior in posteriors]), torch.cat(
        [posterior.std for posterior in posteriors]
    )


def _to_pixels(canvases: np.ndarray, model: TextToImage) -> Tensor:
    """Convert canvases uint8 (N, H, W, 3) to pixels (N, 3, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(canvases)).permute(0, 3, 1, 2).to(model.device)
    return x.float() / 127.5 - 1
