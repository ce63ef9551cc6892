"""Format numbers, units and machines for people."""

from __future__ import annotations

import math

from sa_bench.results.schema import Hardware


def format_percent(value: float | None) -> str:
    """Format a rate as a percentage; n/a for None, NaN and infinity."""
    return "n/a" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def is_rate(unit: str | None) -> bool:
    """Tell whether values in a unit lie in [0, 1] and are shown in %: rates and mean probabilities."""
    return unit in ("rate", "probability")


def format_number(value: float | None, unit: str | None) -> str:
    """Format a number with the digits that people compare, and % where the unit is a rate.

    The result is "n/a" for None, NaN and infinity.
    """
    if value is None or not math.isfinite(value) or is_rate(unit):
        return format_percent(value)
    return f"{value:.2f}" if unit == "nats" else f"{value:.4g}"


def format_unit(name: str | None) -> str:
    """Format a unit to follow a number; "" for rates, whose numbers carry their %."""
    return f" {name}" if name and not is_rate(name) else ""


def format_change(change: float, unit: str | None) -> str:
    """Format a change with its sign and unit: `-1.49 nats`, `+2.0 points` for rates, `+0.012`."""
    return format_amount(change, unit, "+") + unit_of_change(unit)


def format_amount(amount: float, unit: str | None, sign: str = "") -> str:
    """Format a change or a spread without its unit: of rates in points, of nats with two decimals.

    `sign` is "+" to show the sign of positive numbers too.
    """
    if is_rate(unit):
        return format(100 * amount, f"{sign}.1f")
    return format(amount, f"{sign}.2f" if unit == "nats" else f"{sign}.3g")


def unit_of_change(unit: str | None) -> str:
    """Return what follows a change of a value in `unit`: ` points` for rates, ` nats`, or ""."""
    return " points" if is_rate(unit) else format_unit(unit)


def describe_machine(hardware: Hardware) -> str:
    """Name the machine of a result: the processor and, where one was used, the GPU."""
    gpu = hardware.get("gpu")
    return f"{hardware['cpu']}, {gpu}" if gpu else hardware["cpu"]
