"""Schema of a result row."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = 1  # version of the result format
OPEN = ConfigDict(extra="allow", strict=True)


class Machine(BaseModel):
    """The machine that made a result."""

    model_config = OPEN
    cpu: str
    gpu: str = ""


class Provenance(BaseModel):
    """How a result was made."""

    model_config = OPEN
    command: str
    cell_command: str = ""
    versions: dict[str, str]
    hardware: Machine
    assets: dict[str, str]
    precision: dict[str, str] = {}


class Measurement(BaseModel):
    """One measurement of a result."""

    model_config = OPEN
    name: str
    role: str
    title: str
    value: float | None
    low: float | None
    high: float | None
    interval: str | None
    n: int | None
    n_unit: str | None
    judges: list[dict[str, Any]] | None
    extra: dict[str, Any] | None
    reason: str | None
    unit: str | None
    better: str | None
    source: str
    base: float | None
    ledger: dict[str, Any] | None = None
    fingerprint: dict[str, Any]


class Result(BaseModel):
    """A result.json of schema 1."""

    model_config = OPEN
    task: str
    task_title: str
    method: str
    fields: dict[str, Any]
    seed: int
    base_seed: int
    scale: str
    overrides: dict[str, Any]
    control: bool
    standing: str
    threat_model: Literal["weights", "service"] = "weights"  # absent from old results
    cell: str
    status: str
    error: str | None
    concept: str
    task_values: dict[str, Any]
    summary: str
    measurements: list[Measurement]
    flags: list[str]
    cost: dict[str, dict[str, Any]]
    artifacts: dict[str, Any]
    provenance: Provenance
