"""Compute what a model is taught to predict in the concept's place."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Diffusion


@torch.no_grad()
def negative_guidance(
    star: Diffusion,
    x_t: Tensor,
    t: Tensor,
    c: Any,
    eta: float,
    start: Literal["concept", "null"] = "concept",
) -> Tensor:
    """Compute ESD's target ε*(x_t, c_from, t) − η [ε*(x_t, c, t) − ε*(x_t, t)], in the shape of `x_t`.

    Source: Gandikota et al. 2023, Eq. 6; rohitgandikota/erasing, esd_sd.py and train-esd.py.

    Args:
        star: the frozen model θ*.
        x_t: noisy images (N, ...).
        t: their timesteps (N,).
        c: conditions that ask for the concept, N of them.
        eta: η, how far beyond the unconditional prediction.
        start: c_from; `null` is the paper's, with which η = 1 equals `concept` with η = 2.
    """
    on = star.predict(x_t, t, c)
    free = star.predict(x_t, t, star.conditions([star.null] * len(x_t)))
    return (on if start == "concept" else free) - eta * (on - free)
