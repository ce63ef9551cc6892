"""CLIP ViT-B/32: how well an image fits its prompt, 100 times the cosine of the two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data.assets.catalogue import CATALOGUE, need, short_hash
from sa_bench.data.assets.locate import missing_package, package_version
from sa_bench.scoring.detectors.pixels import Pixels, iterate_rgb

if TYPE_CHECKING:
    from sa_bench.scoring.detectors import Progress, Record


NAME, VERSION, AFTER = "clip", 1, None
ASSETS = ("clip-vit-base-patch32",)
NEEDS_PROMPTS = True
ASSET = CATALOGUE[ASSETS[0]]
LICENCE, UNLOCKS = ASSET.licence, ASSET.unlocks
HUB, FOLDER, URL, FILES = ASSET.hub, ASSET.file, ASSET.url, ASSET.files
BATCH = 16


def facts() -> dict[str, Any]:
    """Describe library, version, weights and scale."""
    return {
        "library": f"transformers {package_version('transformers')}",
        "network": FOLDER,
        "scale": "100 cos",
        "weights": short_hash(ASSETS[0], "model.safetensors"),
    }


def missing() -> str | None:
    """Say what to install or which folder to put where; None if nothing is missing."""
    if reason := missing_package("transformers", "transformers", "t2i"):
        return reason
    try:
        need(ASSETS[0])
    except MissingAsset as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _load_network(folder: Path, content: str, device: str) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.utils import logging

    had_progress_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise SaBenchError(
            f"{folder} cannot be read as CLIP; python -m sa_bench fetch {ASSET.name}"
        ) from error
    finally:
        if had_progress_bar:
            logging.enable_progress_bar()
    return net.eval().to(device), tokenizer, image_processor


def detect(
    images: Pixels,
    beside: Sequence[str] | None = None,
    prior_records: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """Record how well each image fits its prompt.

    The record is `{"score", "cut"}`: 100 times the cosine, and True if the prompt was too long and
    was truncated.

    Raises:
        SaBenchError: there is not one prompt an image, or the folder holds no CLIP.
        MissingAsset: the folder is absent.
    """
    import torch

    if beside is None or len(beside) != len(images):
        raise SaBenchError(
            f"CLIP needs one prompt an image: {len(images)} images, {len(beside or [])} prompts."
        )
    net, tokenizer, image_processor = _load_network(need(ASSETS[0]), facts()["weights"], device)
    longest, records, batch = net.config.text_config.max_position_embeddings, [], []
    for row, image in enumerate(iterate_rgb(images)):
        batch.append(image)
        if len(batch) < BATCH and row + 1 < len(images):
            continue
        prompts = list(beside[len(records) : row + 1])
        tokens = tokenizer(
            prompts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        pixels = image_processor(batch, input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ]
        with torch.no_grad():
            output = net(**tokens.to(device), pixel_values=pixels.to(device))
        scores = 100 * (output.image_embeds * output.text_embeds).sum(-1)
        lengths = [len(ids) for ids in tokenizer(prompts, verbose=False)["input_ids"]]
        records += [
            {"score": float(s), "cut": n > longest} for s, n in zip(scores, lengths, strict=True)
        ]
        batch = []
        if progress is not None:
            progress("clip", len(records), len(images))
    return records
