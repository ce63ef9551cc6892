"""How much an attack that fits c_f's condition was allowed: steps x images a step. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED = 80_000
"""Images that Concept Inversion (Pham et al. 2024, train.sh) shows a model: 5,000 steps of 4, gradients of 4 added up."""


def dose(task: Any, images: int = 0) -> dict[str, int]:
    """Tell the dose of one fit: `steps`, `batch` (images a step) and `samples`, their product.

    Args:
        task: a task, or a result's `task_values`, which may be older than the fields.
        images: the images that the attacker has, all of which are shown at each step where the task names no batch.
    """

    def value(name: str, default: Any) -> Any:
        return task.get(name, default) if isinstance(task, Mapping) else getattr(task, name)

    steps = max(value("recovery_budgets", (0,)))
    batch = (value("recovery_batch", 0) or images) * value("recovery_accumulated", 1)
    return {"steps": steps, "batch": batch, "samples": steps * batch}


def share(samples: int) -> str:
    """Put a number of samples into words beside the published attack's."""
    if samples == PUBLISHED:
        return "the dose of the published attack"
    ratio = samples / PUBLISHED
    part = f"{ratio:.3g} times" if ratio > 1 else f"1/{PUBLISHED / samples:.3g} of" if samples else "none of"
    return f"{part} the published attack's {PUBLISHED:,}"


def words(found: Mapping[str, int]) -> str:
    """Say a dose: `5,000 steps of 16 images, the dose of the published attack`."""
    return f"{found['steps']:,} steps of {found['batch']:,} images, {share(found['samples'])}"
