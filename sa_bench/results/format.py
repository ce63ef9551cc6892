"""Numbers, units and machines in words for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def format_percent(value: float | None) -> str:
    """A rate for people."""
    return "n/a" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def format_number(value: float | None, unit: str | None) -> str:
    """A number with the digits that people compare, its unit only where that is %; n/a where there is none."""
    if value is None or not math.isfinite(value) or unit in ("rate", "probability"):
        return format_percent(value)
    return f"{value:.2f}" if unit == "nats" else f"{value:.4g}"


def format_unit(name: str | None) -> str:
    """A unit to stand behind a number; rates carry their % already."""
    return f" {name}" if name not in (None, "", "rate", "probability") else ""


def describe_machine(hardware: Mapping[str, Any]) -> str:
    """What a result was made on: the processor and, where one was used, the GPU."""
    return f"{hardware['cpu']}, {hardware['gpu']}" if hardware.get("gpu") else hardware["cpu"]
