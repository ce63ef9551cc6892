"""LPIPS: perceptual distance between two images of the same prompt and seed (AlexNet, 64 pixels).

The linear heads are in the library's wheel; AlexNet's own weights are torchvision's file.
Source: Zhang et al. 2018, version 0.1; 64 pixels and [-1, 1] as in the evaluations of ESD and UCE.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data.assets.catalogue import CATALOGUE, need, short_hash
from sa_bench.data.assets.locate import (
    find_damaged_package,
    load_tensors,
    missing_package,
    package_version,
)
from sa_bench.scoring.detectors.pixels import Pixels, iterate_rgb, to_rgb

if TYPE_CHECKING:
    import torch

    from sa_bench.scoring.detectors import Progress, Record


NAME, VERSION, AFTER = "lpips", 1, None
ASSETS = ("alexnet",)
NEEDS_PROMPTS = False
ASSET = CATALOGUE[ASSETS[0]]
LICENCE, UNLOCKS = ASSET.licence, ASSET.unlocks
FILE, URL, SHA256 = ASSET.file, ASSET.url, ASSET.sha256
SIDE = 64  # pixels of the shorter side


def facts() -> dict[str, Any]:
    """Describe library, version, weights and size."""
    return {
        "library": f"lpips {package_version('lpips')}",
        "network": "alex 0.1",
        "weights": short_hash(ASSETS[0]),
        "pixels": SIDE,
    }


def missing() -> str | None:
    """Say what to install or which file to put where; None if nothing is missing."""
    if reason := missing_package("lpips", "lpips", "t2i") or find_damaged_package("lpips", ".pth"):
        return reason
    try:
        need(ASSETS[0])
    except MissingAsset as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _load_network(path: Path, content: str, device: str) -> torch.nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips uses a deprecated argument of torchvision
        net: Any = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    state = load_tensors(path)
    slices = {k: v for block in net.net.children() for k, v in block.named_children()}
    for index, layer in slices.items():
        for kind, parameter in layer.named_parameters():
            value = state.get(f"features.{index}.{kind}")
            if value is None or value.shape != parameter.shape:
                raise SaBenchError(
                    f"{path} does not hold AlexNet's weights. python -m sa_bench fetch {ASSET.name}"
                )
            parameter.data.copy_(value)
    return net.eval().requires_grad_(False).to(device)


def prepare(image: np.ndarray) -> torch.Tensor:
    """Scale an RGB image (H, W, 3) to (1, 3, h, w) in [-1, 1], its shorter side 64 pixels."""
    from PIL import Image
    from torchvision.transforms.functional import resize, to_tensor

    picture: Any = Image.fromarray(
        image
    )  # `resize` takes and returns it, but declares tensors alone
    small: Any = resize(picture, [SIDE])
    return to_tensor(small)[None] * 2 - 1


def detect(
    images: Pixels,
    beside: Pixels | None = None,
    prior_records: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """Record the distance of each image to the one beside it: `{"distance"}`.

    Raises:
        SaBenchError: there is not one other image of the same size for each image.
        MissingAsset: the weights are absent.
    """
    import torch

    if beside is None or len(beside) != len(images):
        raise SaBenchError("LPIPS compares two equally long sets of images, pair by pair.")
    net, records = _load_network(need(ASSETS[0]), short_hash(ASSETS[0]), device), []
    for row, image in enumerate(iterate_rgb(images)):
        other = to_rgb(beside[row], row)
        if image.shape != other.shape:
            raise SaBenchError(
                f"Image {row} is {image.shape[:2]}, the one beside it {other.shape[:2]} pixels."
            )
        with torch.no_grad():
            records.append(
                {"distance": float(net(prepare(image).to(device), prepare(other).to(device)))}
            )
        if progress is not None:
            progress("lpips", len(records), len(images))
    return records
