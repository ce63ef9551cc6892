"""How much an attack that fits c_f's condition was allowed: steps x images a step. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PUBLISHED = 80_000
"""Images that Concept Inversion (Pham et al. 2024, train.sh) shows a model: 5,000 steps of 4, gradients of 4 added up."""


DEFAULTS = {
    "recovery_budgets": (0,),
    "recovery_batch": 0,
    "recovery_accumulated": 1,
    "recovery_vectors": (1,),
    "recovery_starts": ("own", "mean", "zero"),
    "recovery_rates": (0.003, 0.01),
}
"""Of fields that results from before them, and fingerprints at a default, do not have."""


def _value(task: Any, name: str) -> Any:
    return task.get(name, DEFAULTS[name]) if isinstance(task, Mapping) else getattr(task, name)


def recovery_dose(task: Any, images: int = 0) -> dict[str, int]:
    """Tell the dose of one fit: `steps`, `batch` (images a step) and `samples`, their product.

    Args:
        task: a task, a result's `task_values` or a fingerprint.
        images: the images that the attacker has, all of which are shown at each step where the task names no batch.
    """
    steps = max(_value(task, "recovery_budgets"))
    batch = (_value(task, "recovery_batch") or images) * _value(task, "recovery_accumulated")
    return {"steps": steps, "batch": batch, "samples": steps * batch}


def count_fits(task: Any) -> int:
    """Count the fits of the endpoint's grid on one set of images: starts x vectors x rates."""
    names = ("recovery_starts", "recovery_vectors", "recovery_rates")
    return math.prod(len(_value(task, name)) for name in names)


def describe_share(samples: int) -> str:
    """Put a number of samples into words beside the published attack's."""
    if samples == PUBLISHED:
        return "the dose of the published attack"
    ratio = samples / PUBLISHED
    part = (
        f"{ratio:.3g} times"
        if ratio > 1
        else f"1/{PUBLISHED / samples:,.1f}".removesuffix(".0") + " of"
        if samples
        else "none of"
    )
    return f"{part} the published attack's {PUBLISHED:,}"


def describe_dose(found: Mapping[str, int]) -> str:
    """Say a dose: `5,000 steps of 16 images, the dose of the published attack`."""
    return (
        f"{found['steps']:,} steps of {found['batch']:,} images, {describe_share(found['samples'])}"
    )
