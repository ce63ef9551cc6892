"""A measurement's fingerprint: everything that its value depends on besides the images."""

from __future__ import annotations

from typing import Any

from sa_bench.contracts import Metric, key_values
from sa_bench.core import registry
from sa_bench.engine import benchmarks
from sa_bench.engine.stages import Chain
from sa_bench.scoring import detectors, inception, requirements


def metric_name(metric: Metric, dataset: str) -> str:
    """The name in results: feature-space metrics carry their extractor, `fid[judge-mnist]`.

    In Inception's features they carry its name, `fid[inception-v3-compat]`, or that of a published protocol.
    """
    if "inception" in metric.requires:
        plain = metric.name.removeprefix("inception_").removeprefix("official_")
        return f"{plain}[{metric.protocol.get('protocol', inception.NAME)}]"
    return f"{metric.name}[judge-{dataset}]" if "features" in metric.requires else metric.name


def fingerprint(chain: Chain, metric: Metric) -> dict[str, Any]:
    """Everything the metric's value depends on besides the images and the model."""
    task = chain.task
    facts: dict[str, Any] = {"metric": metric.name}
    if (frozen := benchmarks.find_benchmark(task.name)) is not None:
        facts["benchmark"] = frozen
    facts["version"] = registry.version_key("metric", metric.name, metric.version)
    values = key_values(task)
    facts |= {
        n: values[n] for n in metric.fields if n in values and n not in ("judges", "designated")
    }
    if "surrogate" in metric.fields:
        facts["surrogate"] = chain.sets.surrogate_key
    for field in metric.fields:
        if field in requirements.FACTS_OF_FIELDS:
            facts |= requirements.FACTS_OF_FIELDS[field](task, metric)
    for requirement in requirements.get(metric.requires):
        facts |= requirement.facts(task, metric)
    if "forgetting" in metric.requires:
        facts["forgetting"] = fingerprint(chain, registry.get_metric(task.primary[0]))
    if used := detectors.fingerprint(metric.requires):
        facts["detectors"] = used
    if task.scored != task.retain:  # what `retain` means to every metric of this task
        facts["scored"] = list(task.scored)
    return facts | dict(metric.protocol)
