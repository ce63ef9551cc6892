"""What a board is: lines of endpoints. `ranking` fills it in, `wording` puts it into words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sa_bench.analysis.gates import Estimate
from sa_bench.results.rows import code_of

Row = Mapping[str, Any]
Rows = Sequence[Row]


def run_of(row: Row) -> tuple[int, int, int]:
    """Which run of a method a result is: (base seed, forgetting seed, seed of the images)."""
    return row["base_seed"], row["seed"], row["task_values"].get("sample_seed") or 0


def seconds_spent(cost: Row) -> float | None:
    """Seconds of a stage: the CPU's on a CPU; wall seconds on another device, whose work no CPU clock sees."""
    return cost.get("cpu_s" if cost.get("device", "cpu") == "cpu" else "wall_s")


@dataclass(frozen=True)
class Endpoint:
    """One measurement over the cells of a line: a cell's own interval, or the lowest and highest of several."""

    value: float | None
    low: float | None
    high: float | None
    base: float | None
    points: tuple[float, ...] = ()  # one a cell
    reason: str | None = None  # why there is no value, or none for `missing` of the cells
    estimate: Estimate | None = None  # for another base and seed: what gates are decided on
    missing: int = 0
    unit: str | None = None
    better: str | None = None
    n: int | None = None  # the smallest of the cells'
    n_unit: str = "image"

    @property
    def bounds(self) -> tuple[float, float]:
        """(lower, upper) for another base model and seed, each one-sided 95 %; however many runs there are."""
        return (math.nan, math.nan) if self.estimate is None else self.estimate.bounds()


@dataclass
class Line:
    """One row of a board: a method with its fields, over seeds and base models."""

    method: str
    label: str  # the method and the fields in which it differs from its siblings
    standing: str  # `method`, `reference`, `target` or `control`
    cells: list[Row]
    failed: list[Row]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    forgotten: bool | None = None
    no_claim: str = ""  # why nothing can be said of forgetting though it was measured: the base does not show c_f
    recoverable: str = "unknown"  # `yes`, `no`, `unclear`, `unknown`
    collapsed: str | None = (
        None  # the flag of a model that lost the rest as well, of too many of its runs
    )
    flagged: int = 0  # runs that the guard flags
    threat: str = "weights"  # who is kept from c_f: `weights`, also whoever has them; `service`, who may only ask
    verdict: str = ""  # a few words
    sentence: str = ""
    rank: int | None = None  # among the methods of its threat model
    front: bool = (
        False  # on the Pareto front: no other method of its threat model that forgot dominates it
    )
    dominated_by: tuple[str, ...] = ()  # labels, of a line that could be on the front

    @property
    def origin(self) -> str:
        """Whose bundle its cells come from; "": they are from a run folder."""
        return next((cell.get("origin") or "" for cell in (*self.cells, *self.failed)), "")

    def same_settings(self, other: Line) -> bool:
        """Whether both are one method, of the same code, with the same fields: of two origins, a reproduction."""
        first, second = ((*line.cells, *line.failed)[0] for line in (self, other))
        same_code = (self.method, code_of(first)) == (other.method, code_of(second))
        return same_code and first["fields"] == second["fields"]

    def known(self, name: str) -> Endpoint | None:
        """The endpoint `name` if it has a value."""
        found = self.endpoints.get(name)
        return found if found is not None and found.value is not None else None

    @property
    def seconds(self) -> float | None:
        """Mean seconds of forgetting over the cells that recorded it, by the clock that `clock` names."""
        found = [
            s for c in self.cells if (s := seconds_spent(c["cost"].get("forget", {}))) is not None
        ]
        return fmean(found) if found else None

    @property
    def tag(self) -> str:
        """What must be known of it beside its name: `control, service`; "" of a method that changes weights."""
        of = [self.standing] if self.standing != "method" else []
        return ", ".join([*of, "service"] if self.threat == "service" else of)

    @property
    def devices(self) -> tuple[str, ...]:
        """Where it forgot, of the cells that recorded what that cost."""
        costs = [c["cost"].get("forget", {}) for c in self.cells]
        return tuple(
            dict.fromkeys(c.get("device", "cpu") for c in costs if seconds_spent(c) is not None)
        )

    @property
    def clock(self) -> str:
        """Whose `seconds` are: `s CPU`, or wall seconds on a device: `s on cuda`."""
        return _clock(self.devices)

    @property
    def pareto_label(self) -> str:
        """`yes` on the Pareto front, `no: a` where `a` dominates it, `–` where it cannot be on it."""
        return (
            "yes"
            if self.front
            else f"no: {', '.join(self.dominated_by)}"
            if self.dominated_by
            else "–"
        )


@dataclass
class Board:
    """All lines that may stand together: one task, one protocol."""

    task: str
    title: str
    scale: str
    concept: str
    classes: int
    primary: tuple[str, ...]  # names of measurements: forgetting, recovery, retention
    lines: list[Line]
    headline: str = ""
    ledger: list[dict[str, Any]] = field(default_factory=list)
    """What was published, and our verdicts."""
    exposed: dict[str, str] = field(default_factory=dict)
    """A control's label -> `forgetting` or `recovery`."""
    gate: float = 0.0  # the task's, where it declares one
    trick: str = (
        "relabel"  # the control that unlearns nothing and shows no c_f, in the task's family
    )

    @property
    def pretrained(self) -> str:
        """The base model where it was trained by others, "" where it is ours."""
        return next(
            (
                c["task_values"].get("model") or ""
                for x in self.lines
                for c in (*x.cells, *x.failed)
            ),
            "",
        )

    @property
    def cost_title(self) -> str:
        """The heading over the lines' seconds."""
        clock = _clock(tuple(dict.fromkeys(d for line in self.lines for d in line.devices)))
        return f"{'CPU s' if clock == 's CPU' else clock} to forget"

    @property
    def services(self) -> bool:
        """Whether methods that only act around the base model stand on the board."""
        return any(line.threat == "service" and line.standing == "method" for line in self.lines)

    @property
    def origins(self) -> tuple[str, ...]:
        """Whose bundles rows come from."""
        return tuple(sorted({line.origin for line in self.lines} - {""}))

    @property
    def chance(self) -> float:
        """The rate of c_f up to which it counts as forgotten."""
        return self.gate or 1 / self.classes

    @property
    def excess(self) -> bool:
        """Whether recovery is a loss above the base model's, whose zero is where nothing was unlearned."""
        found = [line.endpoints.get(self.primary[1]) for line in self.lines]
        return any(e is not None and e.better == "higher" for e in found)

    @property
    def trick_proof(self) -> bool:
        """Whether every control on the board fails an endpoint."""
        return all(line.label in self.exposed for line in self.lines if line.standing == "control")


def _clock(devices: tuple[str, ...]) -> str:
    others = ", ".join(d for d in devices if d != "cpu")
    if not others:
        return "s CPU"
    return f"s CPU or on {others}" if "cpu" in devices else f"s on {others}"
