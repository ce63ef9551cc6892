"""Log-likelihoods of real images, shared by the metrics that need them."""

from __future__ import annotations

import numpy as np
import torch

from sa_bench.contracts import View
from sa_bench.sample_sets import SampleSet


def per_class(images: SampleSet, n: int) -> SampleSet:
    """The first `n` images of each class (0: all), in their original order."""
    return images if n == 0 else images.take(first_rows(images, n))


def first_rows(images: SampleSet, n: int) -> np.ndarray:
    """The row numbers of the first `n` images of each class, ascending."""
    rows = [np.flatnonzero(images.labels == c)[:n] for c in np.unique(images.labels)]
    return np.sort(np.concatenate(rows))


def importance_weighted(view: View, images: SampleSet, k: int, name: str, refine: int = 0) -> np.ndarray:
    """Log p̂(x|c) with `k` draws, (N,) nats; the noise depends on `name` alone."""
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)
    return model.log_likelihood(x, c, k, view.rng(name), refine).double().cpu().numpy()  # type: ignore[attr-defined]


@torch.no_grad()
def elbo(view: View, images: SampleSet, name: str) -> np.ndarray:
    """The ELBO with one draw an image, (N,) nats."""
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)
    return -model.loss(x, c, model.draw(len(x), view.rng(name))).double().cpu().numpy()
