"""The weights and cards that ship with the package: where they lie, and whether they are what their cards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import file_digest

WEIGHTS = Path(__file__).parents[2] / "weights"


def guard_card(dataset: str) -> dict[str, Any]:
    """The collapse guard's calibration: bounds, null, power, and how they were made.

    Raises:
        SaBenchError: there is none for that data set.
    """
    path = WEIGHTS / f"guard-{dataset}.json"
    if not path.is_file():
        raise SaBenchError(
            f"There is no collapse guard for {dataset}; make one: python -m sa_bench.weights guard TASK."
        )
    return json.loads(path.read_text())


def variance_card() -> dict[str, Any]:
    """Task to endpoint to the spread of differences between methods, as measured on the boards that ship."""
    found: dict[str, Any] = {}
    for path in sorted(WEIGHTS.glob("variance-*.json")):
        found |= json.loads(path.read_text())
    return found


def verify_shipped(file: Path) -> str:
    """The weight file's sha256, equal to its card's.

    Raises:
        SaBenchError: the file was changed or damaged.
    """
    card = json.loads(file.with_suffix(".json").read_text())
    content = file_digest(file)
    if content != card["sha256"]:
        raise SaBenchError(
            f"{file} is damaged: sha256 {content[:12]}…, its card says {card['sha256'][:12]}…. Reinstall."
        )
    return content
