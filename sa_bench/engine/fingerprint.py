"""A measurement's fingerprint: everything that its value depends on besides the images."""

from __future__ import annotations

from typing import Any

from sa_bench.contracts import Metric, key_values
from sa_bench.core import registry
from sa_bench.core.store import digest
from sa_bench.data import datasets
from sa_bench.engine import benchmarks
from sa_bench.engine.stages import Chain
from sa_bench.scoring import collapse_guard, detectors, inception
from sa_bench.scoring.cards import judge_card


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
    facts |= {n: values[n] for n in metric.fields if n in values and n not in ("judges", "designated")}
    if "surrogate" in metric.fields:
        facts["surrogate"] = chain.surrogate_key
    if "judges" in metric.fields or "judges" in metric.requires:
        facts["judges"] = {n: judge_card(n)["sha256"][:16] for n in task.judges}
    if "designated" in metric.fields or "features" in metric.requires:
        facts["features"] = {task.designated: judge_card(task.designated)["sha256"][:16]}
    if "inception" in metric.requires:
        facts |= {"features": {inception.NAME: inception.NAMED}, "layer": inception.LAYER}
        facts["reference"] = "retain_train"
    if "forgetting" in metric.requires:
        facts["forgetting"] = fingerprint(chain, registry.get_metric(task.primary[0]))
    if found := detectors.fingerprint(metric.requires):
        facts["detectors"] = found
    if "reject_judge" in metric.fields:
        facts["reject_judge"] = {task.reject_judge: judge_card(task.reject_judge)["sha256"][:16]}
    if "samples" in metric.requires or "sampler" in metric.fields:
        facts |= {"sampler": values["sampler"], "seed_rule": "sha256(set/i)"}
        facts |= {"n_forget": task.n_forget, "n_retain": task.n_retain}
        if task.prompts is not None and "prompts" not in metric.fields:
            facts["prompts"] = digest(values["prompts"])[:16]
        if task.prompts is not None and task.prompts.files:
            facts |= {"files": dict(task.prompts.files), "seed_rule": "the row's, else sha256(set/i)"}
    if task.scored != task.retain:  # what `retain` means to every metric of this task
        facts["scored"] = list(task.scored)
    if "guard" in metric.requires:
        facts["guard"] = collapse_guard.bounds(task.dataset)
    if "real" in metric.requires:
        facts |= {"dataset": task.dataset, "data": datasets.data_content(task.dataset)}
    return facts | dict(metric.protocol)
