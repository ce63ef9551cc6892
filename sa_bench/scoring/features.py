"""Features of images, by the designated judge or by Inception, and the manifold that they span.

A distance in a judge's features is named after it: `fid[judge-mnist]` is never called FID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sa_bench.contracts import SampleSet, View

if TYPE_CHECKING:  # metrics say what they are without torch
    from torch import Tensor

    from sa_bench.scoring.judges import Judge

ROUNDING = 1e-10
"""Rounding of a squared distance, as a share of the two squared lengths: networks repeat the
features of one image to about 1e-6."""


def extract(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Extract a judge's features (N, d) float64 of `images`, uint8 (N, H, W, C), as its panel sees them."""
    from sa_bench.scoring.judges import panel_view

    return judge.features(panel_view({judge.name: judge}, images))


def is_in_manifold(
    query: np.ndarray, support: np.ndarray, k: int = 3, chunk: int = 1000
) -> np.ndarray:
    """Test whether each query point lies within a support point's distance to its k-th neighbour.

    precision = is_in_manifold(generated, real), recall = is_in_manifold(real, generated), as 0/1
    (N,). Source: Kynkäänniemi et al. 2019, Eq. 1-2 (the point itself is not its own neighbour).
    """
    import torch

    s, q = (torch.from_numpy(points).double() for points in (support, query))
    radii = _measure_radii(s, k, chunk)
    inside = []
    for rows in q.split(chunk):
        distances, rounding = _square_distances(rows, s)
        inside.append((distances <= radii + rounding).any(1))
    return torch.cat(inside).double().numpy()


def _measure_radii(points: Tensor, k: int, chunk: int) -> Tensor:
    """Measure each point's squared distance to its k-th neighbour, (N,); each pair of points is looked at once."""
    import torch

    blocks = points.split(chunk)
    nearest = [points.new_empty(len(rows), 0) for rows in blocks]

    def keep(i: int, distances: Tensor) -> None:
        known = torch.cat([nearest[i], distances], 1)
        smallest = known.topk(min(k + 1, known.shape[1]), 1, largest=False)
        nearest[i] = smallest.values

    for i, rows in enumerate(blocks):
        for j in range(i, len(blocks)):
            distances, _ = _square_distances(rows, blocks[j])
            keep(i, distances)
            if j > i:
                keep(j, distances.T)
    return torch.cat([known.kthvalue(k + 1, dim=1).values for known in nearest])


def _square_distances(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Compute squared distances and their rounding errors, both (N, M)."""
    import torch

    total = (points * points).sum(1)[:, None] + (others * others).sum(1)
    return torch.addmm(total, points, others.T, alpha=-2).clamp(min=0), ROUNDING * total


class FeaturePair(NamedTuple):
    """Features of generated and of real images."""

    generated: np.ndarray
    """(N, d)."""
    real: np.ndarray
    """(M, d)."""
    images: SampleSet
    """The generated images."""


def judge_features(view: View) -> FeaturePair:
    """Extract judge features of generated and real retained images."""
    from sa_bench.scoring.likelihood import take_per_class

    judge, images = view.judges[view.task.designated], view.samples["retain"]
    real = take_per_class(view.real("retain_test"), view.task.feature_images)
    return FeaturePair(extract(judge, images.images), extract(judge, real.images), images)


def inception_features(
    view: View, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> FeaturePair:
    """Extract Inception features of generated and real retained images.

    The real images are *training* images, which is what published FIDs refer to.

    Args:
        view: what is measured.
        prepare: applied to the uint8 images (N, H, W, C) of both sides before the network sees
            them.
    """
    from sa_bench.scoring.likelihood import take_per_class

    images = view.samples["retain"]
    real = take_per_class(view.real("retain_train"), view.task.feature_images)
    x, y = (
        view.inception(s if prepare is None else replace(s, images=prepare(s.images)))
        for s in (images, real)
    )
    return FeaturePair(x, y, images)


PROTOCOL = {"protocol": "official-2023", "channels": "bgr", "stretch": True, "order": "table-1"}


def stretch_as_published(images: np.ndarray, chunk: int = 1000) -> np.ndarray:
    """Stretch each image, uint8 (N, H, W, C), to 0..255 as torchvision's save_image does.

    BGR order.

    The official code stretched floats and then rounded; here the images are 8-bit already, so that
    the stretch widens their rounding.
    """
    import torch

    stretched = np.empty_like(images)
    for start in range(0, len(images), chunk):
        x = torch.from_numpy(images[start : start + chunk]).float() / 255
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = (x - low) / (high - low).clamp(min=1e-5)
        stretched[start : start + chunk] = (
            (x * 255 + 0.5).clamp(0, 255).to(torch.uint8).flip(3).numpy()
        )
    return stretched
