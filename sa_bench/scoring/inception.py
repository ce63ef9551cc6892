"""Features of the Inception network that FID is defined by: torch-fidelity's port of the weights of 2015-12-05.

Its weights are not shipped and never fetched by a run: whoever wants the standard metrics puts the file
where it is looked for. torch-fidelity's own loader would unpickle anything, so the file is first read by
one that admits tensors alone.
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
NAMED = "6726825d"  # the digits in its name, which fingerprints hold


def find_weights() -> tuple[Path, str]:
    """Find the weight file: where it is and its sha256.

    Raises:
        MissingAsset: it is nowhere, or damaged; says what to do.
    """
    path = catalogue.need(NAME)
    return path, cached_digest(path)


def find_missing() -> str | None:
    """Why there are no Inception features here, in one line; None if there are."""
    try:
        find_weights()
    except MissingAsset as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _network(path: Path, content: str, device: str):
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
    """(N, 2048) float32 of uint8 images (N, H, W, 1 or 3), grey ones as RGB; resized to 299 x 299 inside.

    Raises:
        MissingAsset: no weights here.
        SaBenchError: other images, or a weight file that holds more than tensors.
    """
    import torch

    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        kind = getattr(images, "dtype", type(images).__name__)
        raise SaBenchError(f"Inception takes uint8 images (N, H, W, C) in 0..255, got {kind}.")
    network, parts = _network(*find_weights(), device), []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).permute(
                0, 3, 1, 2
            )
            part = part.expand(-1, 3, -1, -1).to(device)
            parts.append(network(part)[0].float().cpu().numpy())
            if progress is not None:
                progress("features", start + len(part), len(images))
    return np.concatenate(parts)
