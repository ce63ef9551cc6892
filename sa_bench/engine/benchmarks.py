"""Benchmark versions: bases, judges, protocol and guard, frozen together under one name.

The fingerprint of every measurement names the benchmark of its task, so that boards of different
releases compare exactly if they bear the same name. `python -m sa_bench.weights freeze NAME TASK
...` writes the manifest of the current state; a test compares it with later states. Whoever changes
an instrument gives it a new name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sa_bench.contracts import key_values
from sa_bench.core import registry
from sa_bench.core.store import digest
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.scoring.cards import judge_card


@lru_cache(maxsize=1)
def load_manifests() -> dict[str, dict[str, Any]]:
    """Load the frozen manifests by benchmark name."""
    files = sorted(WEIGHTS.glob("benchmark-*.json"))
    manifests = [json.loads(path.read_text()) for path in files]
    return {manifest["name"]: manifest for manifest in manifests}


def find_benchmark(task: str) -> str | None:
    """Find the benchmark that a task belongs to.

    Returns None if no benchmark froze it (a user's own task).
    """
    for name, manifest in load_manifests().items():
        if task in manifest["tasks"]:
            return name
    return None


def describe(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Build the manifest of `tasks` from the current state: every instrument by hash or version."""
    judges, metrics, bases, guards, task_hashes = set(), set(), set(), set(), {}
    for task in map(registry.get_task, tasks):
        judges |= {j for j in (*task.judges, task.designated, task.reject_judge) if j}
        for values in task.scales.values():
            judges |= set(values.get("judges", ()))
        metrics |= set(task.metrics)
        bases |= set(WEIGHTS.glob(f"base-{task.family}-{task.dataset}-*.json"))
        guards.add(WEIGHTS / f"guard-{task.dataset}.json")
        task_hashes[task.name] = digest(key_values(task))
    return {
        "name": name,
        "tasks": task_hashes,
        "metrics": {metric: registry.get_metric(metric).version for metric in sorted(metrics)},
        "judges": {judge: judge_card(judge)["sha256"] for judge in sorted(judges)},
        "bases": {path.stem: json.loads(path.read_text())["sha256"] for path in sorted(bases)},
        "guard": {
            path.stem: digest(json.loads(path.read_text())["bounds"]) for path in sorted(guards)
        },
    }
