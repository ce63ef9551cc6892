"""What work on large models takes on a GPU: the figures of docs/gpu.md, measured on one H100.

They are for models that nobody runs on a CPU: Stable Diffusion at 512 pixels, and the DDPMs of
CIFAR10 and STL10. They are seconds of that GPU, and are not scaled to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from sa_bench.contracts import Task
from sa_bench.core import registry
from sa_bench.data.assets.shipped import gpu_rates_card
from sa_bench.models import schedule
from sa_bench.models.family import get_family

STABLE_DIFFUSION, SIDE = "stable diffusion", 512
LIKE: Mapping[str, str] = {"fp32": "bf16", "bf16": "fp32"}
"""The precision whose figure is taken of a DDPM where a precision has none of its own: training differs
by a fifth between the two."""


def needs_gpu(task: Task) -> bool:
    """Tell whether a task's model is practical on a GPU alone: a pretrained one, or a large DDPM."""
    return task.needs_weights or bool(_name_large_base(task))


def _name_large_base(task: Task) -> str:
    """Name the base of a task that trains a large DDPM; "" for any other task."""
    figures = gpu_rates_card()["figures"]
    return task.base if not task.model and f"fisher: {task.base}" in figures else ""


def is_gpu(device: str) -> bool:
    """Tell whether a device is a GPU: `cuda`, `cuda:1`."""
    return device.partition(":")[0] == "cuda"


def training_precision(task: Task) -> str:
    """Name the precision that a task trains in on this GPU, which multiplies bf16 in hardware."""
    return "fp32" if task.train_precision == "fp32" else "bf16"


class GPUTime(NamedTuple):
    """The time that work takes on the GPU of the figures."""

    seconds: float
    borrowed: str = ""
    """Says which figure it is, if it was measured at another precision; "" if it was not."""


def estimate(
    kind: str,
    task: Task,
    units: int,
    precision: str = "",
    scope: str = "",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> GPUTime | None:
    """Estimate work on a large model by the figures.

    Args:
        kind: the work: `sample`, `fisher`, `forget sa`.
        task: whose model it is.
        units: images that are trained on or denoised once, or timesteps of F.
        precision: that it is done in; "" where figures are of one alone.
        scope: of the parameters that Stable Diffusion is trained in; "" where it makes no difference.
        settings: the method's fields, of some of which a figure may be of one value.

    Returns:
        None if there is no such figure.
    """
    base = _name_large_base(task)
    if task.needs_weights and task.size == SIDE:
        names = {_name_figure(kind, precision, scope): ""}
        if scope and precision in LIKE:
            of_other = f"{kind} in {precision} is taken to be as in {LIKE[precision]}"
            names[_name_figure(kind, LIKE[precision], scope)] = of_other
    elif base and precision in LIKE:
        of_other = f"{kind} in {precision} is taken to be as in {LIKE[precision]}"
        names = {f"{kind}: {base}, {precision}": "", f"{kind}: {base}, {LIKE[precision]}": of_other}
    else:
        names = {f"{kind}: {base}": ""}
    figures = gpu_rates_card()["figures"]
    for name, borrowed in names.items():
        figure = figures.get(name)
        if figure and all(settings.get(k) == v for k, v in figure.get("only", {}).items()):
            return GPUTime(units * seconds_a_unit(figure), borrowed)
    return None


def _name_figure(kind: str, precision: str, scope: str) -> str:
    """Name a figure of Stable Diffusion."""
    return f"{kind}: {', '.join(filter(None, (STABLE_DIFFUSION, precision, scope)))}"


def seconds_a_unit(figure: Mapping[str, Any]) -> float:
    """Compute the seconds a unit of a figure: `12.5 steps/s` of 128 images, `0.43 s` of 50 steps."""
    number, unit = figure["printed"].split(" ")[:2]
    per_second = float(number) * figure["units"]
    return 1 / per_second if unit.endswith("/s") else float(number) / figure["units"]


def count_looks(options: Mapping[str, Any], family: str) -> int:
    """Count the gradients that an estimate of F takes: one an image or, of a diffusion model, a timestep of an image.

    `timesteps` of 0 in the options means all.
    """
    has_timesteps = get_family(family).has_timesteps
    per_image = int(options.get("timesteps") or schedule.T) if has_timesteps else 1
    return int(options.get("n") or 1) * per_image


def list_kinds(method: str) -> list[str]:
    """List the kinds of work that a method's training may be: its own, or that of the method it ablates."""
    names = dict.fromkeys(filter(None, (method, registry.get_method(method).ablates)))
    return [f"forget {name}" for name in names]


def trains_nothing(method: str) -> bool:
    """Tell whether a method leaves the weights as they are: it acts at inference, or has nothing to set."""
    cls = registry.get_method(method)
    return cls.wraps() or cls.renders() or not fields(cls)
