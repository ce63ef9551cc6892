"""What a metric is, what it may look at, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sa_bench.contracts.model import Generator
from sa_bench.contracts.samples import SampleSet
from sa_bench.contracts.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Measured:
    """A metric's value with its interval and the per-sample scores behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str | None = None  # how it was made
    n: int = 0
    n_unit: str = "image"
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)  # columns, all of one length
    judges: Sequence[Mapping[str, Any]] = ()  # each judge's own value
    extra: Mapping[str, Any] = field(default_factory=dict)  # curves, ceilings, splits
    reason: str | None = None  # why `value` is None


def undefined(reason: str) -> Measured:
    """No value, and why: never 0."""
    return Measured(None, reason=reason)


@dataclass(frozen=True)
class Metric:
    """One definition: what is measured, which way is better, and `measure`, the definition itself."""

    name: str
    version: int
    title: str
    better: str | None  # `lower`, `higher` or None (a diagnostic without direction)
    unit: str | None
    requires: tuple[str, ...]  # of sa_bench.scoring.requirements.REQUIREMENTS
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
        return Metric(
            name, version, title, better, unit, requires, source, measure, fields, facts, sets
        )

    return declare


class Judge(Protocol):
    """Something that gives every image a probability over the task's classes."""

    name: str
    content: str  # sha256 of its weights
    card: dict[str, Any]
    channels: int  # of the images that it looks at

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) float64, rows sum to 1; `images` uint8 (N, H, W, C)."""
        ...

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, d) float64 penultimate features."""
        ...


class View(Protocol):
    """What a metric may look at; everything is loaded on first use."""

    task: Task
    samples: Mapping[str, SampleSet]  # `forget`, `retain`: of the model measured
    base: Mapping[str, SampleSet]  # the same seeds from θ*
    judges: Mapping[str, Judge]
    model: Generator
    base_model: Generator  # θ*

    def real(self, name: str) -> SampleSet:
        """Real images: `forget_train`, `forget_test`, `retain_train`, `retain_test`."""
        ...

    def inception(self, images: SampleSet) -> np.ndarray:
        """(N, 2048) float32 features of the Inception network, computed once for the same images and kept."""
        ...

    def detections(
        self, name: str, images: SampleSet, beside: Sequence[str] | SampleSet | None = None
    ) -> list[dict[str, Any]]:
        """One record an image from the detector `name`, kept; `beside` holds each one's prompt, name or other image."""
        ...

    def prompts(self, images: SampleSet) -> list[str]:
        """The text that each image was made from."""
        ...

    def forgetting(self) -> Metric:
        """The task's forgetting endpoint, whose `measure` takes other images of c_f; SaBenchError: it cannot be taken."""
        ...

    def surrogate(self, n: int) -> SampleSet:
        """`n` images of q(x|c_f)."""
        ...

    def rng(self, name: str) -> torch.Generator:
        """A generator that depends on `name` alone: the same for every model measured."""
        ...
