"""Define a metric: what it is, what it may look at, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sa_bench.contracts.model import Generator
from sa_bench.contracts.samples import SampleSet
from sa_bench.contracts.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Measured:
    """A metric's value with its interval and the scores of the samples behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str | None = None  # how the interval was made
    n: int = 0
    n_unit: str = "image"
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns, all of the same length."""
    judges: Sequence[Mapping[str, Any]] = ()  # each judge's own value
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What stands beside the value: curves, ceilings, splits. Reports show what `Metric.extras` words;
    `warning` becomes a flag of the result."""
    reason: str | None = None  # why `value` is None


def undefined(reason: str) -> Measured:
    """Return a measurement without a value, with the reason; it is never 0."""
    return Measured(None, reason=reason)


class Extra(NamedTuple):
    """How reports show an entry of `Measured.extra`: its words, its unit and its form."""

    words: str
    unit: str | None = None
    """A unit; `the metric's` for that of the value; `count` for whole numbers."""
    form: str = ""
    """What the entry holds.

    `""`: a number, an entry with `value` or `mean` (and `n`), or a table of those. `classes`: such
    a table by class. `firsts`: a table of lists, which begin with a number and its upper bound. `points`: a
    list of tables, each named by its `w`. `dose`: what `sa_bench.results.dose` computes.
    """


@dataclass(frozen=True)
class Metric:
    """A metric: what is measured, which direction is better, and `measure`, its definition."""

    name: str
    version: int
    title: str
    better: str | None  # `lower`, `higher` or None (a diagnostic without direction)
    unit: str | None
    requires: tuple[str, ...]  # names of requirements, in sa_bench.scoring.requirements
    source: str
    measure: Any  # (View) -> Measured
    fields: tuple[str, ...] = ()  # fields of the task on which the value depends
    protocol: Mapping[str, Any] = field(default_factory=dict)  # further entries of the fingerprint
    sets: tuple[str, ...] = ("forget", "retain")  # the sample sets that it reads
    extras: Mapping[str, Extra | None] = field(default_factory=dict)
    """How each key of `Measured.extra` is shown; None for one that has a place of its own."""
    axis: str = ""  # words of its axis in figures, with c_f for the concept; "" uses its name
    attack: str = ""
    """What an attacker needs, if it is an attack whose value is a rate of c_f.

    `service`: only queries; `weights`: the model itself. The worst of a row's attacks says what
    survives.
    """


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
    extras: Mapping[str, Any] | None = None,
    axis: str = "",
    attack: str = "",
) -> Any:
    """Declare the function `measure(view) -> Measured` a metric, named after the function.

    `extras`, `axis` and `attack` are read from the source by reports, which import no metric: write literals,
    `extras={"families": ("prompts", "rate")}`, with the fields of `Extra`.
    """

    def declare(measure: Any) -> Metric:
        name = measure.__name__
        protocol_values = dict(protocol or {})
        entries: dict[str, Any] = {
            key: None if entry is None else Extra(*entry) for key, entry in (extras or {}).items()
        }
        return Metric(
            name,
            version,
            title,
            better,
            unit,
            requires,
            source,
            measure,
            fields,
            protocol_values,
            sets,
            entries,
            axis,
            attack,
        )

    return declare


class Judge(Protocol):
    """A classifier that gives every image a probability for each of the task's classes."""

    name: str
    content: str  # sha256 of its weights
    card: dict[str, Any]
    channels: int  # of its input images

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return (N, classes) float64 whose rows sum to 1; `images` are uint8 (N, H, W, C)."""
        ...

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the penultimate features, (N, d) float64."""
        ...


class View(Protocol):
    """What a metric may read; everything is loaded on first use."""

    task: Task
    samples: Mapping[str, SampleSet]  # `forget` and `retain` of the measured model
    base: Mapping[str, SampleSet]  # the same sets, from θ* with the same seeds
    judges: Mapping[str, Judge]
    model: Generator
    base_model: Generator  # θ*

    def real(self, name: str) -> SampleSet:
        """Load real images: `forget_train`, `forget_test`, `retain_train` or `retain_test`."""
        ...

    def show(self, images: np.ndarray, label: int) -> np.ndarray:
        """Filter images (N, H, W, C) of class `label` as the method's `render` does, where an attacker may only ask."""
        ...

    def inception(self, images: SampleSet) -> np.ndarray:
        """Return (N, 2048) float32 features of the Inception network, computed once and stored."""
        ...

    def detections(
        self, name: str, images: SampleSet, beside: Sequence[str] | SampleSet | None = None
    ) -> list[dict[str, Any]]:
        """Return one record per image from the detector `name`; the records are stored.

        Args:
            name: of the detector.
            images: to be examined.
            beside: what each image is compared with, if the detector compares: a prompt, a name or
                another image.
        """
        ...

    def search_base(self, name: str, inputs: Mapping[str, Any], search: Callable[[], Any]) -> Any:
        """Return what `search` finds in θ* alone, searched once for all models that come from it and stored.

        Args:
            name: of the search, as costs show it.
            inputs: all that it depends on besides θ*, as JSON values; a change of the search itself as well.
            search: makes JSON values; its randomness is that of `rng`.
        """
        ...

    def prompts(self, images: SampleSet) -> list[str]:
        """Return the text that each image was made from."""
        ...

    def forgetting(self) -> Metric:
        """Return the task's forgetting endpoint, whose `measure` accepts other images of c_f.

        Raises:
            SaBenchError: it cannot be measured.
        """
        ...

    def surrogate(self, n: int) -> SampleSet:
        """Draw `n` images of q(x|c_f)."""
        ...

    def rng(self, name: str) -> torch.Generator:
        """Return a generator that depends on `name` alone: the same for every measured model."""
        ...
