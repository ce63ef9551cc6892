"""The parts of the micro text-to-image model: diffusers' and transformers' own classes, small.

An AutoencoderKL of 32 x 32 RGB canvases (latents 4 x 8 x 8), a CLIPTextModel over a vocabulary of whole words, and a
UNet2DConditionModel that attends to the text at both resolutions. A StableDiffusionPipeline opens them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sa_bench.contracts import Recipe
from sa_bench.data import captions

LENGTH = 16  # tokens of a prompt, first and last included
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
# What Stable Diffusion 1.x says of its noise, and diffusers' schedulers need to be told.
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
RECIPES = {
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
    """Of a recipe."""

    encoder: tuple[int, ...]  # widths of the autoencoder
    unet: tuple[int, ...]
    text: int  # width of the text encoder
    autoencoder_steps: int
    canvases: int  # with captions, made once


SIZES = {
    "micro": Sizes((8, 16, 32), (32, 64), 64, 2_000, 40_000),
    "quick": Sizes((8, 16, 32), (32, 64), 64, 200, 4_000),
    "tiny": Sizes((8, 8, 8), (8, 16), 16, 5, 64),
}


def tokenizer(words: Sequence[str] | None = None, length: int = LENGTH) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of `words` (default: the captions' vocabulary) is one token.

    Byte symbols first, so that any other text is spelt letter by letter; the last token ends a prompt. Prompts have
    `length` tokens, first and last included.
    """
    words = captions.vocabulary() if words is None else words
    symbols = _bytes()
    vocab = [*symbols, *(f"{s}</w>" for s in symbols)]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = _merged([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(parts) > 1:  # joined last of all, so that words before stay whole
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocab += [parts[0]] if parts[0] not in vocab else []
    vocab += [BEGIN, END]
    made = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)},
        merges=merges,  # type: ignore[arg-type]
        model_max_length=length,
        unk_token=END,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
    )
    if len(made) != len(vocab):
        raise RuntimeError(f"the tokenizer has {len(made)} tokens, not {len(vocab)}")
    return made


def _merged(parts: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """What byte-pair encoding makes of `parts`: the earliest merge first, everywhere, until none applies."""
    while True:
        pairs = list(pairwise(parts))
        first = next((merge for merge in merges if merge in pairs), None)
        if first is None:
            return parts
        i = pairs.index(first)
        parts = [*parts[:i], first[0] + first[1], *parts[i + 2 :]]


def _bytes() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(others))]


def autoencoder(sizes: Sizes, side: int = captions.SIDE) -> AutoencoderKL:
    """3 x 32 x 32 to latents 4 x 8 x 8; in general `side` pixels, halved between every two widths."""
    n = len(sizes.encoder)
    blocks: dict[str, Any] = {
        "block_out_channels": sizes.encoder,
        "down_block_types": ("DownEncoderBlock2D",) * n,
        "up_block_types": ("UpDecoderBlock2D",) * n,
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=side,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        **blocks,
    )


def text_encoder(sizes: Sizes, tokens: CLIPTokenizer) -> CLIPTextModel:
    """Two layers. Tokens start as N(0, 1): with CLIP's own 0.02 a small model learns its words late."""
    special: dict[str, Any] = {
        f"{k}_token_id": getattr(tokens, f"{k}_token_id") for k in ("bos", "eos", "pad")
    }
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=sizes.text,
        intermediate_size=2 * sizes.text,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokens.model_max_length,
        projection_dim=sizes.text,
        **special,
    )
    model: Any = CLIPTextModel(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 1)
    return model


def unet(sizes: Sizes, side: int = captions.SIDE) -> UNet2DConditionModel:
    """Two resolutions, 8 and 4, both attending to the text; in general for images of `side` pixels."""
    n = len(sizes.unet)
    return UNet2DConditionModel(
        sample_size=side // 2 ** (len(sizes.encoder) - 1),
        in_channels=4,
        out_channels=4,
        block_out_channels=sizes.unet,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=sizes.text,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * n,
        up_block_types=("CrossAttnUpBlock2D",) * n,
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without the libraries' bars and remarks while active."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    levels = [(log, log.get_verbosity()) for log in (diffusers_log, transformers_log)]
    bars = transformers_log.is_progress_bar_enabled()
    try:
        for log, _ in levels:
            log.set_verbosity_error()
        transformers_log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
        if bars:
            transformers_log.enable_progress_bar()


SMOKE = Sizes((8, 8, 16, 16), (32, 64), 32, 0, 0)
"""As many halvings as Stable Diffusion's autoencoder has."""


def smoke(folder: Path, seed: int = 0) -> Path:
    """Write a tiny untrained StableDiffusionPipeline as a diffusers folder, to try out what needs Stable Diffusion.

    About a million parameters; images of 64 x 64 pixels, latents 4 x 8 x 8, prompts of 77 tokens, in which the captions'
    words are whole and all others spelt; the noise of Stable Diffusion 1.x. It draws nothing that is anything.

    Args:
        folder: where; what is in it is overwritten.
        seed: of the weights, which depend on nothing else.

    Returns:
        `folder`.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    words = tokenizer(length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: tuple[Any, ...] = (
            autoencoder(SMOKE, 64),
            text_encoder(SMOKE, words),
            words,
            unet(SMOKE, 64),
        )
    scheduler = DDIMScheduler(clip_sample=False, **SCHEDULE)
    made = StableDiffusionPipeline(*parts, scheduler, None, None, requires_safety_checker=False)  # type: ignore[arg-type]
    with quietly():
        made.save_pretrained(folder)
    return folder
