"""Requirements: what a metric may say that it needs, one value each.

A metric names its requirements; nothing else in the suite compares their names. A detector is a
requirement of its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sa_bench.contracts import Metric, SampleSet, Task, key_values
from sa_bench.core.errors import unknown_name
from sa_bench.core.store import digest
from sa_bench.data import datasets
from sa_bench.scoring import collapse_guard, detectors, inception
from sa_bench.scoring.cards import judge_card

Facts = Callable[[Task, Metric], dict[str, Any]]


@dataclass(frozen=True)
class Requirement:
    """Something that a metric cannot do without."""

    name: str
    assets: tuple[str, ...] = ()
    """Files of the catalogue behind it."""
    missing: Callable[[], str | None] = lambda: None
    """Says in one line what is missing on this machine; None if nothing is."""
    facts: Facts = lambda task, metric: {}
    """Gives the entries that it adds to the fingerprint of a metric."""
    unfit: Callable[[Task, Callable[[str], bool]], str] = lambda task, can: ""
    """Says why a task, or a model that `can` do some things, does not meet it; "" if it does."""
    unfit_given: Callable[[Mapping[str, SampleSet]], str] = lambda sets: ""
    """Says why images alone, without a model, do not meet it; "" if they do."""
    from_model: bool = False
    """True if the metric needs the model itself, not only its images."""
    optional: bool = False
    """True if one machine may have it and another not."""


def _fingerprint_samples(task: Task, metric: Metric) -> dict[str, Any]:
    """Give the fingerprint entries of sample sets: sampler, seeds, sizes and prompts."""
    entries: dict[str, Any] = {"sampler": key_values(task.sampler), "seed_rule": "sha256(set/i)"}
    entries |= {"n_forget": task.n_forget, "n_retain": task.n_retain}
    if task.prompts is not None and "prompts" not in metric.fields:
        entries["prompts"] = digest(key_values(task.prompts))[:16]
    if task.prompt_options.files:
        entries |= {
            "files": key_values(task.prompt_options)["files"],
            "seed_rule": "the row's, else sha256(set/i)",
        }
    return entries


def _hash_judges(names: Iterable[str]) -> dict[str, str]:
    return {name: judge_card(name)["sha256"][:16] for name in names}


def _require_prompts(sets: Mapping[str, SampleSet]) -> str:
    if any(samples.prompts is None for samples in sets.values()):
        return "needs each image's prompt: name the images as `show TASK --rows` numbers them"
    return ""


def _require_model(name: str, able: str = "", reason: str = "") -> Requirement:
    """Make a requirement of the model itself.

    Args:
        name: name of the requirement.
        able: the method that a model family must have; "" if any family will do.
        reason: says that a family lacks the method; `{}` stands for the family.
    """
    return Requirement(
        name,
        unfit=lambda task, can: "" if not able or can(able) else reason.format(task.family),
        unfit_given=lambda sets: "needs the model; only images were given",
        from_model=True,
    )


def _require_detector(name: str) -> Requirement:
    """Make the requirement of a detector."""
    detector = detectors.load(name)
    return Requirement(
        name,
        detector.ASSETS,
        missing=lambda: detectors.find_missing([name]),
        unfit_given=_require_prompts if detector.NEEDS_PROMPTS else lambda sets: "",
        optional=True,
    )


OWN = (
    Requirement("samples", facts=_fingerprint_samples),
    Requirement("base"),
    Requirement(
        "real",
        facts=lambda task, metric: {
            "dataset": task.dataset,
            "data": datasets.data_content(task.dataset),
        },
        unfit=lambda task, can: (
            "the task brings no real images" if task.dataset == datasets.NONE else ""
        ),
        optional=True,
    ),
    _require_model("model"),
    _require_model("likelihood", "log_likelihood", "the family {} has no likelihood"),
    _require_model(
        "bound", "variational_bound", "the family {} has no variational bound over timesteps"
    ),
    Requirement(
        "code",
        unfit=lambda task, can: (
            ""
            if can("variational_bound") or can("log_likelihood")
            else f"the family {task.family} has no bound on its likelihood in nats"
        ),
        unfit_given=lambda sets: "needs the model; only images were given",
        from_model=True,
    ),
    _require_model(
        "prompted",
        "vocabulary",
        "the family {} is asked for a class, not in words that can be searched",
    ),
    _require_model("diffusion", "add_noise", "the family {} is no diffusion model"),
    Requirement(
        "judges",
        facts=lambda task, metric: {"judges": _hash_judges(task.judges)},
        unfit=lambda task, can: (
            "" if task.judges else "the task has no judges; detectors stand in for them"
        ),
    ),
    Requirement(
        "features", facts=lambda task, metric: {"features": _hash_judges([task.designated])}
    ),
    Requirement(
        "inception",
        (inception.NAME,),
        missing=inception.find_missing,
        facts=lambda task, metric: {
            "features": {inception.NAME: inception.NAMED},
            "layer": inception.LAYER,
            "reference": "retain_train",
        },
        optional=True,
    ),
    Requirement("guard", facts=lambda task, metric: {"guard": collapse_guard.bounds(task.dataset)}),
    Requirement("forgetting"),
    Requirement("star"),
)
"""All requirements but the detectors: `base` and `real` images beside the samples, a model with a
certain ability, the forgetting endpoint of other images (`forgetting`), θ* itself (`star`), ..."""

FACTS_OF_FIELDS: Mapping[str, Facts] = {
    "judges": lambda task, metric: {"judges": _hash_judges(task.judges)},
    "designated": lambda task, metric: {"features": _hash_judges([task.designated])},
    "reject_judge": lambda task, metric: {"reject_judge": _hash_judges([task.reject_judge])},
    "sampler": _fingerprint_samples,
}
"""Fingerprint entries of those task fields that are not fingerprinted by their value, by field."""


@cache
def all_requirements() -> Mapping[str, Requirement]:
    """List every requirement by name."""
    return {r.name: r for r in (*OWN, *map(_require_detector, detectors.NAMES))}


def get(names: Iterable[str]) -> list[Requirement]:
    """Get requirements by name.

    Raises:
        SaBenchError: there is no requirement of a name.
    """
    requirements, names = all_requirements(), list(names)
    if unknown := [name for name in names if name not in requirements]:
        raise unknown_name("requirement", unknown[0], requirements)
    return [requirements[name] for name in names]


def find_missing(names: Iterable[str]) -> str | None:
    """Say in one line why a metric with these requirements cannot run here; None if it can."""
    return next((reason for r in get(names) if (reason := r.missing())), None)


def asks_model(metric: Metric) -> bool:
    """Tell whether a metric needs the model itself, not only its images."""
    return any(r.from_model for r in get(metric.requires))


def is_optional(metric: Metric) -> bool:
    """Tell whether one machine may be able to take a metric and another not."""
    return any(r.optional for r in get(metric.requires))
