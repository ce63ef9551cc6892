"""Recipes by which base models are trained, by family and name; a plan reads them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sa_bench.contracts import Recipe

VAE: Mapping[str, Recipe] = {
    # 2e-3 with a cosine reaches in 15,000 steps what the paper's constant 1e-4 does in 100,000.
    "cosine": Recipe(steps=15_000, lr=2e-3, batch=256, schedule="cosine", warmup=200),
    "paper": Recipe(steps=100_000, lr=1e-4, batch=256),
    "quick": Recipe(steps=2_000, lr=3e-3, batch=128, schedule="cosine", warmup=100),
}

DDPM: Mapping[str, Recipe] = {
    "micro": Recipe(
        steps=3_000, lr=2e-3, batch=64, schedule="cosine", warmup=100, clip=1.0, drop=0.1
    ),
    "quick": Recipe(steps=400, lr=2e-3, batch=64, schedule="cosine", warmup=50, clip=1.0, drop=0.1),
    # Official ddpm/configs: 800,000 iterations on CIFAR10, 250,000 on STL10; 2e-4 and 128 for both.
    "cifar10": Recipe(steps=800_000, lr=2e-4, batch=128, clip=1.0, ema=0.9999, drop=0.1, flip=True),
    "stl10": Recipe(steps=250_000, lr=2e-4, batch=128, clip=1.0, ema=0.9999, drop=0.1, flip=True),
    "tiny": Recipe(steps=20, lr=1e-3, batch=16, clip=1.0, ema=0.9, drop=0.1, flip=True),
}

TEXT_TO_IMAGE: Mapping[str, Recipe] = {
    "micro": Recipe(
        steps=3_000, lr=1e-3, batch=64, schedule="cosine", warmup=100, clip=1.0, drop=0.1, mean=True
    ),
    "quick": Recipe(
        steps=300, lr=1e-3, batch=32, schedule="cosine", warmup=30, clip=1.0, drop=0.1, mean=True
    ),
    "tiny": Recipe(
        steps=10, lr=1e-3, batch=8, schedule="cosine", warmup=2, clip=1.0, drop=0.1, mean=True
    ),
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks of a micro text-to-image model and of its training set."""

    encoder: tuple[int, ...]  # widths of the autoencoder
    unet: tuple[int, ...]
    text: int  # width of the text encoder
    autoencoder_steps: int
    canvases: int  # canvases with captions, drawn once


SIZES: Mapping[str, Sizes] = {
    "micro": Sizes((8, 16, 32), (32, 64), 64, 2_000, 40_000),
    "quick": Sizes((8, 16, 32), (32, 64), 64, 200, 4_000),
    "tiny": Sizes((8, 8, 8), (8, 16), 16, 5, 64),
}
"""Of the recipes of `TEXT_TO_IMAGE`, by name."""

PARAMETERS: Mapping[tuple[str, str, str], int] = {
    ("vae", "mnist", "cosine"): 1_081_120,
    ("vae", "mnist", "paper"): 1_081_120,
    ("vae", "mnist", "quick"): 1_081_120,
    ("ddpm", "mnist16", "micro"): 707_716,
    ("ddpm", "cifar10", "cifar10"): 38_312_323,
    ("ddpm", "stl10", "stl10"): 82_842_243,
    ("text_to_image", "mnist_canvas", "micro"): 1_077_572,
}
"""Parameters of the network that is trained, by family, data set and recipe, where it is known without
building it; a test builds them all."""
