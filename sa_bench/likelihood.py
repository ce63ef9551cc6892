"""Log-likelihoods of real images, shared by the metrics that need them."""

from __future__ import annotations

import numpy as np
import torch

from sa_bench.contracts import View
from sa_bench.sampling import SampleSet


def per_class(images: SampleSet, n: int) -> SampleSet:
    """The first `n` images of each class (0: all), in their original order."""
    if n == 0:
        return images
    rows = [np.flatnonzero(images.labels == c)[:n] for c in np.unique(images.labels)]
    return images.take(np.sort(np.concatenate(rows)))


def importance_weighted(view: View, images: SampleSet, k: int, name: str) -> np.ndarray:
    """log p̂(x|c) with `k` draws, (N,) nats; the noise depends on `name` alone."""
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)  # type: ignore[arg-type]
    return model.log_likelihood(x, c, k, view.rng(name)).double().cpu().numpy()  # type: ignore[attr-defined]


@torch.no_grad()
def elbo(view: View, images: SampleSet, name: str) -> np.ndarray:
    """The ELBO with one draw an image, (N,) nats."""
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)  # type: ignore[arg-type]
    return -model.loss(x, c, model.draw(len(x), view.rng(name))).double().cpu().numpy()
