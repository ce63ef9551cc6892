"""Format numbers, units and machines for people."""

from __future__ import annotations

import math

from sa_bench.results.schema import Hardware


def format_percent(value: float | None) -> str:
    """Format a rate as a percentage; n/a for None, NaN and infinity."""
    return "n/a" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def format_number(value: float | None, unit: str | None) -> str:
    """Format a number with the digits that people compare, and % where the unit is a rate.

    The result is "n/a" for None, NaN and infinity.
    """
    if value is None or not math.isfinite(value) or unit in ("rate", "probability"):
        return format_percent(value)
    return f"{value:.2f}" if unit == "nats" else f"{value:.4g}"


def format_unit(name: str | None) -> str:
    """Format a unit to follow a number; "" for rates, whose numbers carry their %."""
    return f" {name}" if name not in (None, "", "rate", "probability") else ""


def format_change(change: float, unit: str | None) -> str:
    """Format a change with its sign and unit: `-1.49 nats`, `+2.0 points` for rates, `+0.012`."""
    if unit in ("rate", "probability"):
        return f"{100 * change:+.1f} points"
    return (f"{change:+.2f}" if unit == "nats" else f"{change:+.3g}") + format_unit(unit)


def describe_machine(hardware: Hardware) -> str:
    """Name the machine of a result: the processor and, where one was used, the GPU."""
    gpu = hardware.get("gpu")
    return f"{hardware['cpu']}, {gpu}" if gpu else hardware["cpu"]
