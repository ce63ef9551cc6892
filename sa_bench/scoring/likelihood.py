"""Log-likelihoods and denoising errors of real images, shared by the metrics that need them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Bound, Diffusion, Draw, Generator, Likelihood, SampleSet, View


def take_per_class(images: SampleSet, n: int) -> SampleSet:
    """Take the first `n` images of each class (0: all), in their original order."""
    return images if n == 0 else images.take(first_rows(images, n))


def first_rows(images: SampleSet, n: int) -> np.ndarray:
    """List the row numbers of the first `n` images of each class, ascending."""
    rows = [np.flatnonzero(images.labels == c)[:n] for c in np.unique(images.labels)]
    return np.sort(np.concatenate(rows))


def importance_weighted(
    view: View, images: SampleSet, k: int, name: str, refine: int = 0, draws: int = 200
) -> np.ndarray:
    """Estimate log p̂(x|c) with `k` importance-weighted draws, (N,) nats.

    The noise depends on `name` alone.

    With `refine` steps the proposal is fitted to each image, starting from the best of `draws`
    samples of the prior (with draws=0, from the encoder's).
    """
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)
    likelihood = cast("Likelihood", model)
    return likelihood.log_likelihood(x, c, k, view.rng(name), refine, draws).double().cpu().numpy()


@torch.no_grad()
def elbo(view: View, images: SampleSet, name: str) -> np.ndarray:
    """Compute the ELBO with one draw an image, (N,) nats."""
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)
    return -model.loss(x, c, model.draw(len(x), view.rng(name))).double().cpu().numpy()


def bits_per_dimension(view: View, images: SampleSet, name: str) -> np.ndarray:
    """Compute −VLB in bits per dimension, (N,), from the task's `bound_steps`.

    Noise depends on `name` alone.
    """
    model = view.model
    x, c = model.encode(images.images), model.conditions(images.labels)
    bound = cast("Bound", model)
    nats = bound.variational_bound(x, c, view.task.bound_steps, view.rng(name))
    return (nats / (x[0].numel() * np.log(2))).double().cpu().numpy()


@torch.no_grad()
def denoising(view: View, images: SampleSet, name: str) -> np.ndarray:
    """Compute ‖ε − ε̂‖²/D averaged over stratified timesteps, (N,).

    The noise depends on `name` alone.
    """
    x, c = view.model.encode(images.images), view.model.conditions(images.labels)
    return noise_errors(view, x, c, name)


@torch.no_grad()
def noise_errors(
    view: View, x: Tensor, c: Any, name: str, model: Generator | None = None
) -> np.ndarray:
    """Compute ‖ε − ε̂‖²/D averaged over stratified timesteps, (N,), of samples in model space.

    Args:
        view: the model measured, and its task.
        x: samples in model space (N, ...).
        c: their conditions.
        name: names the noise.
        model: another model than the one measured.
    """
    measured = cast("Diffusion", view.model if model is None else model)
    rng, steps, total = view.rng(name), view.task.bound_steps, np.zeros(len(x))
    for k in range(steps):
        t = (k + torch.rand(len(x), generator=rng)) * measured.timesteps / steps
        t = t.long().clamp(max=measured.timesteps - 1)  # in float32 the last part may reach T
        draw = measured.draw(len(x), rng, t)
        for rows in torch.arange(len(x)).split(64 if x[0].numel() < 10_000 else 4):
            noise, t_of_rows = draw.noise[rows], t[rows].to(x.device)
            x_t = measured.add_noise(x[rows], Draw(noise, t_of_rows))
            error = measured.predict(x_t, t_of_rows, c[rows]) - noise
            total[rows.numpy()] += (error**2).flatten(1).mean(1).double().cpu().numpy()
    return total / steps
