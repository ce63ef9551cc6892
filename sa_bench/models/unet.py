"""The U-Nets of the class-conditional DDPMs, by recipe: diffusers' UNet2DModel with FiLM conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_2d import UNet2DModel

from sa_bench.training import Recipe

RECIPES = {
    "micro": Recipe(steps=3_000, lr=2e-3, batch=64, schedule="cosine", warmup=100, clip=1.0, drop=0.1),
    "quick": Recipe(steps=400, lr=2e-3, batch=64, schedule="cosine", warmup=50, clip=1.0, drop=0.1),
    # Official ddpm/configs: 800,000 iterations on CIFAR10, 250,000 on STL10, the same 2e-4 and 128 for both.
    "cifar10": Recipe(steps=800_000, lr=2e-4, batch=128, clip=1.0, ema=0.9999, drop=0.1, flip=True),
    "stl10": Recipe(steps=250_000, lr=2e-4, batch=128, clip=1.0, ema=0.9999, drop=0.1, flip=True),
    "tiny": Recipe(steps=20, lr=1e-3, batch=16, clip=1.0, ema=0.9, drop=0.1, flip=True),
}


@dataclass(frozen=True)
class Network:
    """The U-Net of a recipe."""

    widths: tuple[int, ...]  # channels at each resolution, halved from one to the next
    layers: int  # residual blocks a resolution
    attention: int  # resolution with self-attention, besides the middle; 0: none
    dropout: float
    groups: int  # of group normalisation
    head: int  # channels an attention head
    patch: int = 1  # pixels a side folded into channels before the first convolution


NETWORKS = {
    "micro": Network((32, 64), layers=1, attention=0, dropout=0.0, groups=8, head=32, patch=2),
    "quick": Network((32, 64), layers=1, attention=0, dropout=0.0, groups=8, head=32, patch=2),
    # Paper, Appendix B.1: 128 channels, multipliers 1-2-2-2 at 32 pixels and 1-2-2-2-4 at 64.
    "cifar10": Network((128, 256, 256, 256), layers=2, attention=16, dropout=0.1, groups=32, head=256),
    "stl10": Network((128, 256, 256, 256, 512), layers=2, attention=16, dropout=0.1, groups=32, head=256),
    "tiny": Network((8, 16), layers=1, attention=0, dropout=0.1, groups=4, head=8, patch=4),
}


def unet(network: Network, size: tuple[int, int], channels: int, classes: int) -> UNet2DModel:
    """Diffusers' U-Net with `classes` + 1 class embeddings, in its default initialisation."""
    side = size[0] // network.patch
    sides = [side // 2**i for i in range(len(network.widths))]
    attends = [s == network.attention for s in sides]
    depth = channels * network.patch**2
    return UNet2DModel(
        sample_size=(size[0] // network.patch, size[1] // network.patch),
        in_channels=depth,
        out_channels=depth,
        block_out_channels=network.widths,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=network.layers,
        dropout=network.dropout,
        norm_num_groups=network.groups,
        attention_head_dim=network.head,
        num_class_embeds=classes + 1,
        resnet_time_scale_shift="scale_shift",
    )
