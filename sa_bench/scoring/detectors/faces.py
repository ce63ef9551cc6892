"""Faces by MTCNN, with the settings of the GIPHY detector's first stage.

The library contains its weights.

Zhang et al. 2016 in facenet-pytorch's port. GIPHY's own port is another one: near, not identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.file_state import cached_digest
from sa_bench.core.store import digest
from sa_bench.data.assets.locate import find_damaged_package, missing_package, package_version
from sa_bench.scoring.detectors.pixels import Pixels, iterate_rgb

if TYPE_CHECKING:
    from sa_bench.scoring.detectors import Progress, Record


NAME, VERSION, AFTER = "faces", 1, None
LICENCE = "facenet-pytorch, MIT, weights included (MTCNN)"
ASSETS: tuple[str, ...] = ()
NEEDS_PROMPTS = False
UNLOCKS = "no_face_rate; a part of celebrity_score and identity_similarity"
LEAST = 20  # pixels of the smallest face
THRESHOLDS, FACTOR = ((0.6, 0.7, 0.7), 0.709)
"""Score thresholds of the three networks, and ratio between successive image sizes."""


def facts() -> dict[str, Any]:
    """Describe library, version, weights and settings."""
    from importlib.util import find_spec

    spec, weights = find_spec("facenet_pytorch"), "absent"
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "data"
        weights = digest([cached_digest(folder / f"{net}.pt") for net in ("pnet", "rnet", "onet")])
    return {
        "library": f"facenet-pytorch {package_version('facenet-pytorch')}",
        "network": "MTCNN",
        "weights": weights,
        "least_pixels": LEAST,
        "thresholds": list(THRESHOLDS),
        "factor": FACTOR,
    }


def missing() -> str | None:
    """Say what to install, or which of the library's weights is damaged.

    Returns None if nothing is wrong.
    """
    return missing_package("facenet_pytorch", "facenet-pytorch", "faces") or find_damaged_package(
        "facenet-pytorch", ".pt"
    )


@lru_cache(maxsize=1)
def _load_network(device: str) -> Any:
    from facenet_pytorch import MTCNN

    return MTCNN(
        min_face_size=LEAST,
        thresholds=list(THRESHOLDS),
        factor=FACTOR,
        keep_all=True,
        device=device,
    ).eval()


def detect(
    images: Pixels,
    beside: Any = None,
    prior_records: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """Record the faces of each image, the largest first.

    The record is `{"faces": [{"box": [x1, y1, x2, y2], "probability"}]}`. Images are processed one
    at a time: sizes may differ, and no record depends on its neighbours. An image with a side
    shorter than the smallest face has no faces (MTCNN itself would fail on it).
    """
    network, records = _load_network(device), []
    for image in iterate_rgb(images):
        faces = []
        if min(image.shape[:2]) >= LEAST:
            boxes, scores = network.detect(image)  # no face: None and [None]
            faces = [] if boxes is None else list(zip(boxes.tolist(), scores.tolist(), strict=True))
        records.append({"faces": [{"box": box, "probability": p} for box, p in faces]})
        if progress is not None:
            progress("faces", len(records), len(images))
    return records
