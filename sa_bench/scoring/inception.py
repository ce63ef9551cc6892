"""Features of the network that defines FID: torch-fidelity's port of Inception of 2015-12-05.

The weights are not shipped and never downloaded by a run: who wants the standard metrics puts the
file where the suite looks for it. torch-fidelity's own loader would unpickle anything, so the file
is first read by a loader that accepts tensors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.file_state import cached_digest
from sa_bench.core.untrusted_arrays import load_torch
from sa_bench.data.assets import catalogue

NAME = "inception-v3-compat"
LAYER = "2048"
ASSET = catalogue.CATALOGUE[NAME]
FILE, URL, SHA256, SIZE = ASSET.file, ASSET.url, ASSET.sha256, ASSET.size
NAMED = "6726825d"  # digits in the file's name, which fingerprints hold


def find_weights() -> tuple[Path, str]:
    """Find the weight file and its sha256.

    Raises:
        MissingAsset: the file is absent or damaged; says what to do.
    """
    path = catalogue.need(NAME)
    return path, cached_digest(path)


def find_missing() -> str | None:
    """Say in one line why there are no Inception features here; None if there are."""
    try:
        find_weights()
    except MissingAsset as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _load_network(path: Path, content: str, device: str):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        load_torch(path)
    except Exception as error:
        raise SaBenchError(
            f"{path} holds more than tensors and is not loaded ({error})."
        ) from error
    network = FeatureExtractorInceptionV3(NAME, [LAYER], feature_extractor_weights_path=str(path))
    return network.to(device)


def extract_features(
    images: np.ndarray,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
    batch: int = 64,
) -> np.ndarray:
    """Extract features (N, 2048) float32 from uint8 images (N, H, W, 1 or 3).

    Grey images are repeated to RGB; the network resizes to 299 x 299.

    Raises:
        MissingAsset: the weights are absent.
        SaBenchError: the images are of another form, or the weight file holds more than tensors.
    """
    import torch

    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        kind = getattr(images, "dtype", type(images).__name__)
        raise SaBenchError(f"Inception takes uint8 images (N, H, W, C) in 0..255, got {kind}.")
    network, feature_batches = _load_network(*find_weights(), device), []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
            pixels = pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).to(device)
            feature_batches.append(network(pixels)[0].float().cpu().numpy())
            if progress is not None:
                progress("features", start + len(pixels), len(images))
    return np.concatenate(feature_batches)
