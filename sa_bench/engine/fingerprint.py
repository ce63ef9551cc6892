"""A measurement's fingerprint: everything that its value depends on besides the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sa_bench.contracts import Metric, key_values
from sa_bench.core import registry
from sa_bench.engine import benchmarks
from sa_bench.scoring import detectors, inception, requirements

if TYPE_CHECKING:  # loads torch
    from sa_bench.engine.stages import Chain


def metric_name(metric: Metric, dataset: str) -> str:
    """Name a metric as results do: with its feature extractor, `fid[judge-mnist]`.

    In Inception's features the name is `fid[inception-v3-compat]`, or has that of a published
    protocol.
    """
    if "inception" in metric.requires:
        plain = metric.name.removeprefix("inception_").removeprefix("official_")
        return f"{plain}[{metric.protocol.get('protocol', inception.NAME)}]"
    return f"{metric.name}[judge-{dataset}]" if "features" in metric.requires else metric.name


def fingerprint(chain: Chain, metric: Metric) -> dict[str, Any]:
    """Collect everything that the metric's value depends on besides the images and the model."""
    task = chain.task
    entries: dict[str, Any] = {"metric": metric.name}
    if (benchmark := benchmarks.find_benchmark(task.name)) is not None:
        entries["benchmark"] = benchmark
    entries["version"] = registry.version_key("metric", metric.name, metric.version)
    values = key_values(task)
    entries |= {
        n: values[n] for n in metric.fields if n in values and n not in ("judges", "designated")
    }
    if "surrogate" in metric.fields:
        entries["surrogate"] = chain.sets.surrogate_key
    for field in metric.fields:
        if field in requirements.FACTS_OF_FIELDS:
            entries |= requirements.FACTS_OF_FIELDS[field](task, metric)
    for requirement in requirements.get(metric.requires):
        entries |= requirement.facts(task, metric)
    if "forgetting" in metric.requires:
        entries["forgetting"] = fingerprint(chain, registry.get_metric(task.primary[0]))
    if detector_facts := detectors.fingerprint(metric.requires):
        entries["detectors"] = detector_facts
    entries |= {n: list(v) for n in ("also", "then") if (v := getattr(task, n))}
    if task.scored != task.retain:  # what `retain` means to every metric of this task
        entries["scored"] = list(task.scored)
    return entries | dict(metric.protocol)
