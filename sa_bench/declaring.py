"""How a metric is declared: its definition with everything that a reader must know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REQUIREMENTS = [
    "samples",
    "base",
    "real",
    "model",
    "likelihood",
    "bound",
    "diffusion",
    "judges",
    "features",
    "inception",
    "guard",
    "forgetting",
    "star",
    "nudity",
    "faces",
    "celebrities",
    "identity",
    "clip",
    "lpips",
]
"""What a metric may say it needs: `base` and `real` images beside the samples, a model with a certain ability, the
forgetting endpoint of other images, θ* itself (`star`), …"""


@dataclass(frozen=True)
class Metric:
    """One definition: what is measured, which way is better, and `measure`, the definition itself."""

    name: str
    version: int
    title: str
    better: str | None  # `lower`, `higher` or None (a diagnostic without direction)
    unit: str | None
    requires: tuple[str, ...]  # of `REQUIREMENTS`
    source: str
    measure: Any  # (View) -> Measured
    fields: tuple[str, ...] = ()  # the task's fields that the value depends on
    protocol: Mapping[str, Any] = field(default_factory=dict)  # what else the fingerprint shows
    sets: tuple[str, ...] = ("forget", "retain")  # the sample sets it looks at


def metric(
    *,
    version: int,
    title: str,
    better: str | None,
    unit: str | None,
    requires: tuple[str, ...],
    source: str,
    fields: tuple[str, ...] = (),
    protocol: Mapping[str, Any] | None = None,
    sets: tuple[str, ...] = ("forget", "retain"),
) -> Any:
    """Declare the decorated `measure(view) -> Measured` a metric, named after its function."""

    def declare(measure: Any) -> Metric:
        name = measure.__name__
        facts = dict(protocol or {})
        return Metric(name, version, title, better, unit, requires, source, measure, fields, facts, sets)

    return declare
