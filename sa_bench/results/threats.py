"""Against whom a method stands up: whoever has its weights, or only whoever asks it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

ThreatModel = Literal["weights", "service"]
THREATS: tuple[ThreatModel, ...] = ("weights", "service")
# Of results from before they said their threat model.
SERVICES = ("blank", "negative_prompt", "noise", "prompt_filter", "sld")


def threat_model(method: Any) -> ThreatModel:
    """Tell a method's threat model from the method, its class or an instance.

    `weights`: the attacker holds the weights, which forgetting changed. `service`: they are θ* and the method acts around
    them, when the model is asked (`wrap`) or on what it drew (`render`); whoever has the weights turns it off, so that
    under `weights` its recovery is the base model's by definition.
    """
    return "service" if method.wraps() or method.renders() else "weights"


def threat_of(row: Mapping[str, Any]) -> str:
    """Tell the threat model of a result's method; a row that says none, or none that there is, is known by its name."""
    said = row.get("threat_model")
    if said in THREATS:
        return said
    return "service" if row["method"] in SERVICES else "weights"
