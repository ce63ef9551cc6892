"""Dose of the recovery attack, which fits c_f's condition: steps x images a step. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PUBLISHED = 80_000
"""Images that Concept Inversion (Pham et al. 2024, train.sh) shows a model: 5,000 steps of 4, with
gradients of 4 steps added up."""

DEFAULTS = {
    "recovery_budgets": (0,),
    "recovery_batch": 0,
    "recovery_accumulated": 1,
    "recovery_vectors": (1,),
    "recovery_starts": ("own", "mean", "zero"),
    "recovery_rates": (0.003, 0.01),
}
"""Values of fields that are absent from old results, and from fingerprints where they have their
default."""


def _get_value(task: Any, name: str) -> Any:
    return task.get(name, DEFAULTS[name]) if isinstance(task, Mapping) else getattr(task, name)


def recovery_dose(task: Any, images: int = 0) -> dict[str, int]:
    """Compute the dose of one fit: `steps`, `batch` (images a step) and `samples`, their product.

    Args:
        task: a task, a result's `task_values` or a fingerprint.
        images: number of the attacker's images, all of which are shown at each step where the task
            names no batch.
    """
    steps = max(_get_value(task, "recovery_budgets"))
    batch = (_get_value(task, "recovery_batch") or images) * _get_value(
        task, "recovery_accumulated"
    )
    return {"steps": steps, "batch": batch, "samples": steps * batch}


def count_fits(task: Any) -> int:
    """Count the fits of the endpoint's grid on one set of images: starts x vectors x rates."""
    names = ("recovery_starts", "recovery_vectors", "recovery_rates")
    return math.prod(len(_get_value(task, name)) for name in names)


def describe_share(samples: int) -> str:
    """Describe a number of samples as a multiple of the published attack's."""
    if samples == PUBLISHED:
        return "the dose of the published attack"
    ratio = samples / PUBLISHED
    if ratio > 1:
        multiple = f"{ratio:.3g} times"
    elif samples:
        multiple = f"1/{PUBLISHED / samples:,.1f}".removesuffix(".0") + " of"
    else:
        multiple = "none of"
    return f"{multiple} the published attack's {PUBLISHED:,}"


def describe_dose(dose: Mapping[str, int]) -> str:
    """Describe a dose: `5,000 steps of 16 images, the dose of the published attack`."""
    return f"{dose['steps']:,} steps of {dose['batch']:,} images, {describe_share(dose['samples'])}"
