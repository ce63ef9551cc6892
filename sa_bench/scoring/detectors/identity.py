"""Face embeddings: 512 numbers, close for images of one person (InceptionResnetV1, VGGFace2).

They know no names. Who is meant is learned from the base model's own images:
`sa_bench.scoring.face_verification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data.assets.catalogue import CATALOGUE, need, short_hash
from sa_bench.data.assets.locate import load_tensors, missing_package, package_version
from sa_bench.scoring.detectors import faces
from sa_bench.scoring.detectors.pixels import Pixels, crop, iterate_rgb

if TYPE_CHECKING:
    import torch

    from sa_bench.scoring.detectors import Progress, Record


NAME, VERSION, AFTER = "identity", 1, "faces"
ASSETS = ("facenet-vggface2",)
NEEDS_PROMPTS = False
ASSET = CATALOGUE[ASSETS[0]]
LICENCE, UNLOCKS = ASSET.licence, ASSET.unlocks
FILE, URL = ASSET.file, ASSET.url
SIDE = 160  # pixels of a crop, as wide as the box


def facts() -> dict[str, Any]:
    """Describe library, version and weights."""
    return {
        "library": f"facenet-pytorch {package_version('facenet-pytorch')}",
        "network": "InceptionResnetV1",
        "weights": short_hash(ASSETS[0]),
        "pixels": SIDE,
    }


def missing() -> str | None:
    """Say what to install or which file to put where; None if nothing is missing."""
    if reason := missing_package("facenet_pytorch", "facenet-pytorch", "faces"):
        return reason
    try:
        need(ASSETS[0])
    except MissingAsset as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def _load_network(path: Path, content: str, device: str) -> torch.nn.Module:
    from facenet_pytorch import InceptionResnetV1

    net = InceptionResnetV1(pretrained=None)
    state = {k: v for k, v in load_tensors(path).items() if not k.startswith("logits.")}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise SaBenchError(
            f"{path} does not hold InceptionResnetV1's weights. python -m sa_bench fetch {ASSET.name}"
        ) from error
    return net.eval().requires_grad_(False).to(device)


def detect(
    images: Pixels,
    beside: Any = None,
    prior_records: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """Record the face embeddings of each image: `{"faces": [[512 numbers of norm 1, 6 digits]]}`.

    Raises:
        MissingAsset: the weights are absent.
    """
    import torch
    from facenet_pytorch import fixed_image_standardization
    from PIL.Image import Resampling
    from torchvision.transforms.functional import pil_to_tensor

    net: Any = _load_network(need(ASSETS[0]), short_hash(ASSETS[0]), device)
    records, boxes = (
        [],
        faces.detect(images, device=device) if prior_records is None else prior_records,
    )
    for image, record in zip(iterate_rgb(images), boxes, strict=True):
        embeddings = []
        for face in record["faces"]:
            if (face_crop := crop(image, face["box"])) is not None:
                pixels = pil_to_tensor(face_crop.resize((SIDE, SIDE), Resampling.BILINEAR)).float()
                with torch.no_grad():
                    e = net(fixed_image_standardization(pixels)[None].to(device))[0]
                embeddings.append([round(float(v), 6) for v in e])
        records.append({"faces": embeddings})
        if progress is not None:
            progress("identity", len(records), len(images))
    return records
