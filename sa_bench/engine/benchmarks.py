"""Benchmark versions: bases, judges, protocol and guard, frozen together under one name.

Every fingerprint names its task's, so that boards of different releases compare exactly if they bear the
same name. `python -m sa_bench.weights freeze NAME TASK ...` writes the manifest of what is here now; a test
compares it with what is here later. Whoever changes an instrument gives it a new name.
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
    """Name to what it is, as frozen."""
    found = [json.loads(path.read_text()) for path in sorted(WEIGHTS.glob("benchmark-*.json"))]
    return {facts["name"]: facts for facts in found}


def find_benchmark(task: str) -> str | None:
    """The benchmark that a task belongs to; None for one that no benchmark froze (a user's own)."""
    return next((name for name, facts in load_manifests().items() if task in facts["tasks"]), None)


def describe(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """The manifest of `tasks` as things are now: every instrument by hash or version."""
    found = [registry.get_task(task) for task in tasks]
    judges = sorted({j for t in found for j in (*t.judges, t.designated, t.reject_judge) if j})
    judges = sorted(
        {*judges, *(j for t in found for s in t.scales.values() for j in s.get("judges", ()))}
    )
    metrics = sorted({m for t in found for m in t.metrics})
    bases = sorted(
        {path for t in found for path in WEIGHTS.glob(f"base-{t.family}-{t.dataset}-*.json")}
    )
    guards = sorted({WEIGHTS / f"guard-{t.dataset}.json" for t in found})
    return {
        "name": name,
        "tasks": {t.name: digest(key_values(t)) for t in found},
        "metrics": {metric: registry.get_metric(metric).version for metric in metrics},
        "judges": {judge: judge_card(judge)["sha256"] for judge in judges},
        "bases": {path.stem: json.loads(path.read_text())["sha256"] for path in bases},
        "guard": {path.stem: digest(json.loads(path.read_text())["bounds"]) for path in guards},
    }
