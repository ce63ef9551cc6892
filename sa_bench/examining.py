"""How a judge is examined before it judges."""

from __future__ import annotations

from typing import Any

import numpy as np


def measured(judge: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What goes on a judge's card: accuracy on test images, and its answers to grey, noise and blank ones.

    Args:
        judge: gives probabilities.
        x: uint8 (N, H, W, C).
        y: (N,) labels.
    """
    p = judge.probabilities(x)
    right = p[:, :10].argmax(1) == y
    grey = np.full((1, *x.shape[1:]), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (500, *x.shape[1:]), dtype=np.uint8)
    facts: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "accuracy_by_class": [float(right[y == c].mean()) for c in range(10)],
        "n_test": len(y),
    }
    for name, images in (("grey", grey), ("noise", noise), ("blank", np.zeros_like(grey))):
        q = judge.probabilities(images)
        h = -(q * np.log(np.clip(q, 1e-300, None))).sum(1).mean()
        facts[name] = {"entropy": float(h), "probability": [float(v) for v in q.mean(0)]}
    return facts
