"""Build the networks of the micro text-to-image model: diffusers' and transformers' classes, small.

They are an AutoencoderKL of 32 × 32 RGB canvases (latents 4 × 8 × 8), a CLIPTextModel over a
vocabulary of whole words, and a UNet2DConditionModel that attends to the text at both resolutions.
A StableDiffusionPipeline can open them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sa_bench.data import captions
from sa_bench.models.recipes import Sizes

LENGTH = 16  # tokens per prompt, with its first and last
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
# Noise settings of Stable Diffusion 1.x, for diffusers' schedulers.
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}


def tokenizer(words: Sequence[str] | None = None, length: int = LENGTH) -> CLIPTokenizer:
    """Make a CLIP tokenizer in which every word of `words` is one token.

    The default of `words` is the captions' vocabulary. Byte symbols come first, so that any other
    text is spelt letter by letter; the last token ends a prompt. Prompts have `length` tokens, with
    their first and last.
    """
    words = captions.vocabulary() if words is None else words
    symbols = _list_byte_symbols()
    vocab = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = _merge_pieces([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(pieces) > 1:  # merged after all earlier words, which stay one token
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocab += [pieces[0]] if pieces[0] not in vocab else []
    vocab += [BEGIN, END]
    built = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)},
        # declared as texts, but pairs are what it takes
        merges=merges,  # pyrefly: ignore[bad-argument-type]
        model_max_length=length,
        unk_token=END,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
    )
    if len(built) != len(vocab):
        raise RuntimeError(f"the tokenizer has {len(built)} tokens, not {len(vocab)}")
    return built


def _merge_pieces(pieces: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Apply byte-pair encoding to `pieces`: the earliest possible merge, until none is left."""
    while True:
        pairs = list(pairwise(pieces))
        first = next((merge for merge in merges if merge in pairs), None)
        if first is None:
            return pieces
        i = pairs.index(first)
        pieces = [*pieces[:i], first[0] + first[1], *pieces[i + 2 :]]


def _list_byte_symbols() -> list[str]:
    """List CLIP's printable characters for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def autoencoder(sizes: Sizes, side: int = captions.SIDE) -> AutoencoderKL:
    """Build the autoencoder: 3 × 32 × 32 pixels to latents 4 × 8 × 8.

    In general the image has `side` pixels per side, halved between every two widths.
    """
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
    """Build the text encoder, with two layers.

    Token embeddings start as N(0, 1): with CLIP's own 0.02 a small model learns its words late.
    """
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
    """Build the U-Net with two resolutions, 8 and 4, which both attend to the text.

    In general it is for images of `side` pixels per side.
    """
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
    """Silence the libraries' progress bars and messages within the block."""
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
"""Sizes with as many halvings as Stable Diffusion's autoencoder has."""


def smoke(folder: Path, seed: int = 0) -> Path:
    """Write a tiny untrained StableDiffusionPipeline as a diffusers folder.

    It serves to try out what needs Stable Diffusion: about a million parameters; images of 64 × 64
    pixels, latents 4 × 8 × 8, prompts of 77 tokens, in which the captions' words are whole and all
    others spelt; the noise of Stable Diffusion 1.x. Its images show nothing.

    Args:
        folder: where it is written; its content is overwritten.
        seed: of the weights, which depend on nothing else.

    Returns:
        `folder`.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    clip_tokenizer = tokenizer(length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks: tuple[Any, ...] = (
            autoencoder(SMOKE, 64),
            text_encoder(SMOKE, clip_tokenizer),
            clip_tokenizer,
            unet(SMOKE, 64),
        )
    scheduler = DDIMScheduler(clip_sample=False, **SCHEDULE)
    parts: tuple[Any, ...] = (*networks, scheduler, None, None)
    built = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    with quietly():
        built.save_pretrained(folder)
    return folder
