"""Find the weights and cards that ship with the package, and check weights against their cards."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from sa_bench.core.errors import SaBenchError
from sa_bench.core.file_state import cached_by, read_state
from sa_bench.core.store import file_digest

WEIGHTS = Path(__file__).parents[2] / "weights"


def guard_card(dataset: str) -> dict[str, Any]:
    """Read the collapse guard's calibration: bounds, null, power, and how they were made.

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
    """Read the spread of differences between methods on shipped boards, by task and endpoint."""
    spreads: dict[str, Any] = {}
    for path in sorted(WEIGHTS.glob("variance-*.json")):
        spreads |= json.loads(path.read_text())
    return spreads


def rates_card() -> dict[str, Any]:
    """Read what work took on the machine of the shipped boards: `rates` a unit, and its `speed`."""
    return json.loads((WEIGHTS / "rates.json").read_text())


@cache
def gpu_rates_card() -> dict[str, Any]:
    """Read what work on large models took on one GPU: its name, and `figures` as docs/gpu.md prints them."""
    return json.loads((WEIGHTS / "rates-gpu.json").read_text())


@cached_by(lambda file: (read_state(file), read_state(file.with_suffix(".json"))), maxsize=64)
def verify_shipped(file: Path) -> str:
    """Verify a shipped weight file against its card, once while neither changes, and return its sha256.

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
