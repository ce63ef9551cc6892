"""Schema of a result row: its types for a reader of the code, and the check of rows from outside.

`ResultRow` and its parts say which keys a row has, so that a type checker sees a misspelt one; they
cost nothing while the suite runs. `CheckedResult` and its parts are what a row from a file must
satisfy. Where both name a key they agree (tests/test_schema.py); a key that the check leaves open is
only in the types.
"""

# No `from __future__ import annotations`: TypedDict would take every key for a required one.

from typing import Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict

SCHEMA = 1  # version of the result format
OPEN = ConfigDict(extra="allow", strict=True)


class Hardware(TypedDict):
    """The machine that made a result."""

    machine: NotRequired[str]
    system: NotRequired[str]
    cpu: str
    gpu: NotRequired[str]


class Provenance(TypedDict):
    """How a result was made."""

    command: str
    commit: NotRequired[str]  # of this package's code, with " + changes" where it had some
    cell_command: NotRequired[str]
    versions: dict[str, str]
    hardware: Hardware
    assets: dict[str, str]
    started: NotRequired[str]
    finished: NotRequired[str]
    plug_ins: NotRequired[dict[str, Any]]  # "method x" to path and sha256 of its code
    method_version: NotRequired[int]
    precision: NotRequired[dict[str, str]]


class StageCost(TypedDict, total=False):
    """What one stage cost."""

    wall_s: float
    cpu_s: float
    peak_mib: int | None
    device_peak_mib: int
    device: str
    cached: bool
    divisor: int  # pieces in which networks took their batches, where memory was too small for all


class Artifacts(TypedDict, total=False):
    """Hashes of what a result was measured on; a failed cell has none of them."""

    model: str
    base: str | None
    samples: dict[str, str]  # by sample set
    judges: dict[str, dict[str, Any]]  # cards of judges that were trained for this task
    # of images from elsewhere, by sample set
    counts: dict[str, int]
    images: dict[str, str]
    join: dict[str, str]


class TrainingValues(TypedDict):
    """What a training did; see `sa_bench.training.record`."""

    stage: str
    steps: int
    planned: int
    end: str
    losses: list[float]


class JudgeValue(TypedDict):
    """The value by one judge alone."""

    judge: str
    value: float
    grey: NotRequired[float]  # its value on constant grey


class Measurement(TypedDict):
    """One measurement of a result."""

    name: str
    role: str
    title: str
    value: float | None
    low: float | None
    high: float | None
    interval: str | None
    n: int | None
    n_unit: str | None
    judges: list[JudgeValue] | None
    extra: dict[str, Any] | None
    reason: str | None
    unit: str | None
    better: str | None
    source: str
    base: float | None
    ledger: NotRequired[dict[str, Any] | None]  # in results of older versions; nothing reads it
    fingerprint: dict[str, Any]


class ValuesOfWords(TypedDict, total=False):
    """The numbers behind fields that are words: `{"level": {...}}`."""

    stands_for: dict[str, Any]


class ResultRow(ValuesOfWords):
    """A result.json of schema 1, or a line of a packed file, as everything above reads it.

    `task_values` and `fields` hold the values of a `Task` and of a method, which declare them.
    """

    schema: int
    task: str
    task_title: str
    method: str
    label: NotRequired[str]  # what its line is called in place of the method; of images given
    fields: dict[str, Any]
    seed: int
    base_seed: int
    scale: str
    overrides: dict[str, Any]
    control: bool
    standing: str
    threat_model: NotRequired[Literal["weights", "service"]]  # absent from old results
    cell: str
    status: str
    error: str | None
    exit_code: NotRequired[int]  # of a failed cell
    concept: str
    task_values: dict[str, Any]
    summary: str
    measurements: list[Measurement]
    flags: list[str]
    cost: dict[str, StageCost]  # by stage
    artifacts: Artifacts
    provenance: Provenance
    trainings: NotRequired[list[TrainingValues]]  # absent from old results
    # Hashes, see `sealing`.
    files: NotRequired[dict[str, str]]
    seal: NotRequired[str]
    # Added as a row is read: where it lies ("" for a packed file), and whose it is if not ours.
    folder: NotRequired[str]
    origin: NotRequired[str]
    # Of a packed file, by measurement: the score of every image, and its seed and prompt number.
    scores: NotRequired[dict[str, list[float]]]
    units: NotRequired[dict[str, dict[str, list[int]]]]


class CheckedHardware(BaseModel):
    """Check of `Hardware`."""

    model_config = OPEN
    cpu: str
    gpu: str = ""


class CheckedProvenance(BaseModel):
    """Check of `Provenance`."""

    model_config = OPEN
    command: str
    commit: str = ""
    cell_command: str = ""
    versions: dict[str, str]
    hardware: CheckedHardware
    assets: dict[str, str]
    method_version: int | None = None
    precision: dict[str, str] = {}


class CheckedMeasurement(BaseModel):
    """Check of `Measurement`."""

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


class CheckedTraining(BaseModel):
    """Check of `TrainingValues`."""

    model_config = OPEN
    stage: str
    steps: int
    planned: int
    end: str
    losses: list[float]


class CheckedResult(BaseModel):
    """Check of `ResultRow`: of the keys that `run` of any version writes."""

    model_config = OPEN
    task: str
    task_title: str
    method: str
    label: str = ""
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
    measurements: list[CheckedMeasurement]
    flags: list[str]
    cost: dict[str, dict[str, Any]]
    artifacts: dict[str, Any]
    trainings: list[CheckedTraining] = []
    provenance: CheckedProvenance
