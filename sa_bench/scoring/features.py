"""Feature extractors behind torch-fidelity's interface.

The designated judge's features are registered there as `judge-<dataset>`, so that its FID, KID,
precision and recall are torch-fidelity's own on other features, and are named accordingly:
`fid[judge-mnist]` is never called FID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sa_bench.scoring.judges import Judge, panel_view

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase


from collections.abc import Callable
from dataclasses import replace

from sa_bench.contracts import SampleSet, View
from sa_bench.scoring.likelihood import take_per_class

LAYER = "penultimate"
ROUNDING = 1e-10  # of two squared lengths: networks give one picture's features to about 1e-6 of themselves
_registered: dict[tuple[str, str], type[FeatureExtractorBase]] = {}  # by name and judge


def register_extractor(name: str, judge: Judge) -> type[FeatureExtractorBase]:
    """The torch-fidelity extractor class over a judge's features, registered once a process.

    The first judge of a process is registered as `name`, another one as `name-<hash>`.
    """
    if (name, judge.content) in _registered:
        return _registered[name, judge.content]
    from torch_fidelity import register_feature_extractor  # brings torchvision: two seconds
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class JudgeFeatures(FeatureExtractorBase):
        """uint8 (N, C, H, W) to penultimate features."""

        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (LAYER,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 1, 28, 28, dtype=torch.uint8)

        def forward(self, input: Tensor) -> tuple[Tensor]:
            images = input[:, : judge.channels].permute(0, 2, 3, 1).cpu().numpy()
            return (torch.from_numpy(judge.features(images)),)

    taken = any(known == name for known, _ in _registered)
    register_feature_extractor(f"{name}-{judge.content[:8]}" if taken else name, JudgeFeatures)
    _registered[name, judge.content] = JudgeFeatures
    return JudgeFeatures


def extract(name: str, judge: Judge, images: np.ndarray) -> np.ndarray:
    """(N, d) float64 through the registered extractor; `images` uint8 (N, H, W, C)."""
    images, network = (
        panel_view({name: judge}, images),
        register_extractor(name, judge)(name, [LAYER]),
    )
    with torch.no_grad():
        (features,) = network(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
    return features.numpy()


def is_in_manifold(
    query: np.ndarray, support: np.ndarray, k: int = 3, chunk: int = 1000
) -> np.ndarray:
    """Whether each query point lies in a ball around a support point that reaches its k-th neighbour.

    precision = in_manifold(generated, real), recall = in_manifold(real, generated), as 0/1 (N,).
    Source: Kynkäänniemi et al. 2019, Eq. 1-2 (the point itself is not its own neighbour).
    """
    s, q = (torch.from_numpy(points).double() for points in (support, query))
    lengths = (s * s).sum(1)

    def squared(part: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances of `part` to all support points, and below what they are rounding, (n, M) each."""
        total = (part * part).sum(1)[:, None] + lengths
        return torch.addmm(total, part, s.T, alpha=-2).clamp(min=0), ROUNDING * total

    radii = torch.cat([squared(part)[0].kthvalue(k + 1, dim=1).values for part in s.split(chunk)])
    inside = []
    for part in q.split(chunk):
        distances, rounding = squared(part)
        inside.append((distances <= radii + rounding).any(1))
    return torch.cat(inside).double().numpy()


pass


def judge_features(view: View) -> tuple[np.ndarray, np.ndarray, SampleSet]:
    """Features (N, d) of generated and (M, d) of real retained images, and the generated set."""
    judge, name = view.judges[view.task.designated], f"judge-{view.task.dataset}"
    images = view.samples["retain"]
    real = take_per_class(view.real("retain_test"), view.task.feature_images)
    return extract(name, judge, images.images), extract(name, judge, real.images), images


def inception_features(
    view: View, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, SampleSet]:
    """The same in Inception's features, against real *training* images: what published FIDs refer to.

    Args:
        view: what is measured.
        prepare: what is done to uint8 images (N, H, W, C) of both sides before the network sees them.
    """
    images = view.samples["retain"]
    real = take_per_class(view.real("retain_train"), view.task.feature_images)
    x, y = (
        view.inception(s if prepare is None else replace(s, images=prepare(s.images)))
        for s in (images, real)
    )
    return x, y, images


PROTOCOL = {"protocol": "official-2023", "channels": "bgr", "stretch": True, "order": "table-1"}


def stretch_as_published(images: np.ndarray, chunk: int = 1000) -> np.ndarray:
    """uint8 (N, H, W, C), each image stretched to 0..255 as torchvision's save_image does, in BGR order.

    The official code stretched floats and then rounded; here the images are 8-bit already, so that the stretch
    widens their rounding.
    """
    out = np.empty_like(images)
    for start in range(0, len(images), chunk):
        x = torch.from_numpy(images[start : start + chunk]).float() / 255
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = (x - low) / (high - low).clamp(min=1e-5)
        out[start : start + chunk] = (x * 255 + 0.5).clamp(0, 255).to(torch.uint8).flip(3).numpy()
    return out
