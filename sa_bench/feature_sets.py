"""The two sides of every feature-space metric: generated and real images of the retained classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sa_bench.contracts import View
from sa_bench.features import extract
from sa_bench.likelihood import per_class
from sa_bench.sample_sets import SampleSet


def generated_and_real(view: View) -> tuple[np.ndarray, np.ndarray, SampleSet]:
    """Features (N, d) of generated and (M, d) of real retained images, and the generated set."""
    judge, name = view.judges[view.task.designated], f"judge-{view.task.dataset}"
    images = view.samples["retain"]
    real = per_class(view.real("retain_test"), view.task.feature_images)
    return extract(name, judge, images.images), extract(name, judge, real.images), images


def in_inception(
    view: View, prepare: Callable[[np.ndarray], np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, SampleSet]:
    """The same in Inception's features, against real *training* images: what published FIDs refer to.

    Args:
        view: what is measured.
        prepare: what is done to uint8 images (N, H, W, C) of both sides before the network sees them.
    """
    images = view.samples["retain"]
    real = per_class(view.real("retain_train"), view.task.feature_images)
    x, y = (
        view.inception(s if prepare is None else replace(s, images=prepare(s.images))) for s in (images, real)
    )
    return x, y, images
