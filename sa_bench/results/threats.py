"""Threat models: does a method withstand who has its weights, or only who queries it? No torch."""

from __future__ import annotations

from typing import Any, Literal

from sa_bench.results.schema import ResultRow

ThreatModel = Literal["weights", "service"]
THREATS: tuple[ThreatModel, ...] = ("weights", "service")
SERVICES = ("blank", "negative_prompt", "noise", "prompt_filter", "sld")
"""Methods with the threat model `service`, for old results that do not name theirs."""


def threat_model(method: Any) -> ThreatModel:
    """Determine the threat model of a method, given as its class or an instance.

    `weights`: the attacker holds the weights, which forgetting changed. `service`: the method acts
    around θ*, while the model samples (`wrap`) or on its images (`render`). Whoever has the weights
    turns such a method off, so that under `weights` its recovery is the base model's by definition.
    """
    return "service" if method.wraps() or method.renders() else "weights"


def threat_of(row: ResultRow) -> str:
    """Read the threat model of a result.

    If it has none, or an unknown one, its method's name decides.
    """
    threat = row.get("threat_model")
    if threat in THREATS:
        return threat
    return "service" if row["method"] in SERVICES else "weights"
