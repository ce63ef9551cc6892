"""What work takes: CPU seconds a unit, measured on the shipped boards, for machines where it never ran.

A unit is what the time is proportional to: an image that a training step looks at, an image that
the network denoises once, an image that is scored. `python -m sa_bench.weights rates BOARD ...`
makes the card `rates.json` from results; `plan` scales it by how fast this machine is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sa_bench.models.family import get_family
from sa_bench.results import dose

LOW, HIGH = 0.05, 0.95
"""Quantiles of measured times that bound a range."""
RECOVERY = ("recovery", "recovery_excess")
ANY_METHOD = "any method"
PROBE_SECONDS = 0.1
SIDE = 64
"""Rows and columns of the probe's matrices."""
STEPS_OF_NETWORK = 0.125
"""Steps of the network in which `speed` is counted, in the time of one of the probe's: the median of
eight pairs on an AMD EPYC processor, 0.116 to 0.133. Other processors are taken to be like it."""


@dataclass(frozen=True)
class Duration:
    """CPU seconds: the median of what was measured, and the bounds that nine in ten kept within."""

    low: float
    middle: float
    high: float

    def __add__(self, other: Duration) -> Duration:
        """Add bounds to bounds: the range of a sum is no narrower than this."""
        return Duration(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, factor: float) -> Duration:
        """Multiply all three by a factor."""
        return Duration(self.low * factor, self.middle * factor, self.high * factor)


NOTHING = Duration(0.0, 0.0, 0.0)


def summarise(seconds: Iterable[float]) -> Duration:
    """Summarise measured seconds, of which there is at least one."""
    low, middle, high = np.quantile(list(seconds), [LOW, 0.5, HIGH])
    return Duration(float(low), float(middle), float(high))


def name_work(kind: str, family: str, dataset: str) -> str:
    """Name a kind of work on one sort of model: `forget sa: vae on mnist`."""
    return f"{kind}: {family} on {dataset}"


def count_trained_images(fields: Mapping[str, Any], family: str) -> int:
    """Count the images that a method's training looks at; 1 for a method without training steps."""
    recipes = get_family(family).recipes
    recipe = recipes.get(str(fields.get("recipe")))
    steps = fields.get("steps") or (recipe.steps if recipe else 1)
    batch = fields.get("batch") or (recipe.batch if recipe else 1)
    return int(steps) * int(batch)


def count_denoised_images(images: int, sampler: Mapping[str, Any]) -> int:
    """Count how often the network looks at one of `images` that a sampler draws."""
    return images * int(sampler.get("steps") or 1)


def count_scored_images(metric: str, task: Any) -> int:
    """Count the images that a metric scores, or that a recovery metric fits a condition to."""

    def get_value(name: str) -> Any:
        return task[name] if isinstance(task, Mapping) else getattr(task, name)

    if metric in RECOVERY:
        fitted = dose.recovery_dose(task, max(get_value("recovery_images") or (0,)))["samples"]
        return max(1, dose.count_fits(task) * fitted)
    return int(get_value("n_forget") + get_value("n_retain") * (len(get_value("classes")) - 1))


def probe_speed(clock: Callable[[], float] = time.process_time) -> float:
    """Measure how fast this machine trains, in steps of a small network per CPU second.

    The network of the unit is a convolution and a matrix product of the micro models' sizes, forward
    and back. What is run are products of stacks of small matrices and a rectifier, in numpy, which
    loads twenty times as fast as torch: each product is below the size from which OpenBLAS uses
    several threads. `STEPS_OF_NETWORK` converts one into the other.
    """
    rng = np.random.default_rng(0)
    stack = rng.random((SIDE, SIDE, SIDE), np.float32) - np.float32(0.5)
    weights = rng.random((SIDE, SIDE), np.float32) - np.float32(0.5)
    hidden, gradient = np.empty_like(stack), np.empty_like(stack)

    def step() -> None:
        np.matmul(stack, weights, out=hidden)
        np.maximum(hidden, 0, out=hidden)
        np.matmul(hidden, weights.T, out=gradient)
        np.multiply(gradient, hidden, out=gradient)
        gradient.mean()

    step()  # the first makes what later ones reuse
    started, steps = clock(), 0
    while (spent := clock() - started) < PROBE_SECONDS:
        step()
        steps += 1
    return STEPS_OF_NETWORK * steps / spent
