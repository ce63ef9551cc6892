"""The benchmark's version: bases, judges, protocol and guard, frozen together under one name.

Every fingerprint names it, so that boards of different releases compare exactly if they bear the same
name. `python -m sa_bench.weights freeze TASK ...` writes the manifest of what is here now; a test compares it
with what is here later. Whoever changes an instrument gives it a new name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sa_bench import registry
from sa_bench.cards import WEIGHTS, judge_card
from sa_bench.store import digest

CURRENT = "micro-1"


@lru_cache(maxsize=1)
def manifest() -> dict[str, Any]:
    """What `CURRENT` is, as frozen."""
    return json.loads((WEIGHTS / f"benchmark-{CURRENT}.json").read_text())


def name_of(task: str) -> str | None:
    """The benchmark that a task belongs to; None for one that no benchmark froze (a user's own)."""
    return CURRENT if task in manifest()["tasks"] else None


def describe(tasks: Sequence[str]) -> dict[str, Any]:
    """The manifest of `tasks` as things are now: every instrument by hash or version."""
    found = [registry.task(name) for name in tasks]
    judges = sorted({j for t in found for j in (*t.judges, t.designated, t.reject_judge)})
    judges = sorted({*judges, *(j for t in found for s in t.scales.values() for j in s.get("judges", ()))})
    metrics = sorted({m for t in found for m in t.metrics})
    bases = sorted(WEIGHTS.glob("base-*.json"))
    return {
        "name": CURRENT,
        "tasks": {t.name: digest(asdict(t)) for t in found},
        "metrics": {name: registry.metric(name).version for name in metrics},
        "judges": {name: judge_card(name)["sha256"] for name in judges},
        "bases": {path.stem: json.loads(path.read_text())["sha256"] for path in bases},
        "guard": {
            path.stem: digest(json.loads(path.read_text())["bounds"])
            for path in sorted(WEIGHTS.glob("guard-*.json"))
        },
    }
