"""A board and its lines of endpoints. `ranking` fills it in, `wording` puts it into words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from sa_bench.analysis.gates import Estimate
from sa_bench.results.format import format_percent
from sa_bench.results.rows import code_of, version_of
from sa_bench.results.schema import ResultRow, StageCost


def run_of(row: ResultRow) -> tuple[int, int, int]:
    """Return the run of a result: (base seed, forgetting seed, seed of the images)."""
    return row["base_seed"], row["seed"], row["task_values"].get("sample_seed") or 0


def seconds_spent(cost: StageCost) -> float | None:
    """Return the seconds of a stage: CPU seconds on a CPU, wall seconds on another device.

    The work of other devices is not seen by the CPU's clock. None if the cost was not recorded.
    """
    return cost.get("cpu_s") if cost.get("device", "cpu") == "cpu" else cost.get("wall_s")


class Outcome(NamedTuple):
    """What a line showed."""

    word: str  # of `outcomes.WORDS`
    bound: str  # the number that decides, in words; "" where there is none


NOT_JUDGED = Outcome("", "")


@dataclass(frozen=True)
class Endpoint:
    """One measurement over the cells of a line; `low` and `high`: one cell's interval, or the extremes."""

    value: float | None
    low: float | None
    high: float | None
    base: float | None
    points: tuple[float, ...] = ()  # one per cell
    reason: str | None = None  # why there is no value, or why `missing` of the cells have none
    estimate: Estimate | None = None  # for another base and seed: gates are decided on it
    missing: int = 0
    unit: str | None = None
    better: str | None = None
    n: int | None = None  # the smallest n of the cells
    n_unit: str = "image"

    @property
    def bounds(self) -> tuple[float, float]:
        """One-sided 95 % bounds (lower, upper) for another base model and seed; NaN without an estimate."""
        return (math.nan, math.nan) if self.estimate is None else self.estimate.bounds()


@dataclass(frozen=True)
class Survival:
    """What is left of c_f after the worst attack of a row."""

    attack: str
    """Name of the attack."""
    value: float
    """Rate of c_f that it brings back."""
    floor: float | None
    """Rate that it brings back in the board's reference; None without one."""
    low: float
    """One-sided 95 % bound of the difference, or of the rate without a floor, over all attacks."""
    high: float
    comes_back: str
    """`yes`, `no`, `unclear`, or `unknown` without a floor."""
    attacks: int
    """Number of the row's attacks."""

    def describe(self) -> str:
        """Describe it: `98 % by relearn (retrain 41 %), the worst of 5 attacks`."""
        floor = "" if self.floor is None else f" (retrain {format_percent(self.floor)})"
        among = f", the worst of {self.attacks} attacks" if self.attacks > 1 else ""
        return f"{format_percent(self.value)} by {self.attack}{floor}{among}"


@dataclass
class Line:
    """One row of a board: a method with its fields, over seeds and base models."""

    method: str
    label: str  # the method and the fields in which it differs from its siblings
    standing: str  # `method`, `reference`, `target` or `control`
    cells: list[ResultRow]
    failed: list[ResultRow]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    forgotten: bool | None = None
    no_claim: str = ""
    """Why forgetting proves nothing though it was measured: the base model does not show c_f."""
    refitted: str = "unknown"
    """Whether more comes back by recovery than in the reference: `yes`, `no`, `unclear`, `unknown`."""
    recoverable: str = "unknown"
    """The same, but `yes` if any of its attacks is shown to bring back more."""
    survival: Survival | None = None
    """What its worst attack brings back; None if none was measured."""
    collapsed: str | None = None
    """The guard's flag if too many of the runs lost the rest as well."""
    flagged: int = 0  # number of runs that the guard flags
    threat: str = "weights"
    """Who is kept from c_f: with `weights` whoever has them, with `service` only who may query."""
    outcome: Outcome = NOT_JUDGED
    sentence: str = ""
    rank: int | None = None  # among the methods of its threat model
    front: bool = False
    """On the Pareto front: no other method of its threat model that forgot dominates it."""
    dominated_by: tuple[str, ...] = ()  # labels of the lines that keep it off the front

    @property
    def origin(self) -> str:
        """Origin of the bundle that its cells come from; "" if they are from a run folder."""
        return next((cell.get("origin") or "" for cell in (*self.cells, *self.failed)), "")

    def same_settings(self, other: Line) -> bool:
        """Tell whether both are one method, of the same code and version, with the same fields.

        Two such lines of different origins are a reproduction.
        """
        first, second = ((*line.cells, *line.failed)[0] for line in (self, other))
        same_code = (self.method, code_of(first)) == (other.method, code_of(second))
        same_version = len({version_of(first), version_of(second)} - {None}) < 2
        return same_code and same_version and first["fields"] == second["fields"]

    def known(self, name: str) -> Endpoint | None:
        """Return the endpoint `name` if it has a value, else None."""
        endpoint = self.endpoints.get(name)
        return endpoint if endpoint is not None and endpoint.value is not None else None

    @property
    def seconds(self) -> float | None:
        """Mean seconds of forgetting over the cells that recorded it, by the clock that `clock` names."""
        recorded = [
            s for c in self.cells if (s := seconds_spent(c["cost"].get("forget", {}))) is not None
        ]
        return fmean(recorded) if recorded else None

    @property
    def tag(self) -> str:
        """Remark beside its name, such as `control, service`; "" for a method that changes weights."""
        remarks = [self.standing] if self.standing != "method" else []
        if self.threat == "service":
            remarks.append("service")
        return ", ".join(remarks)

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices on which it forgot, of the cells that recorded the cost."""
        costs = [c["cost"].get("forget", {}) for c in self.cells]
        return tuple(
            dict.fromkeys(c.get("device", "cpu") for c in costs if seconds_spent(c) is not None)
        )

    @property
    def clock(self) -> str:
        """Unit of `seconds`: `s CPU` for CPU time, `s on cuda` for wall time on a GPU."""
        return _name_clock(self.devices)

    @property
    def pareto_label(self) -> str:
        """`yes` on the Pareto front, `no: a` if line `a` dominates it, `–` if it cannot be on it."""
        if self.front:
            return "yes"
        return f"no: {', '.join(self.dominated_by)}" if self.dominated_by else "–"


@dataclass
class Board:
    """All lines that may be compared: one task, one protocol."""

    task: str
    title: str
    scale: str
    concept: str
    classes: int
    primary: tuple[str, ...]  # names of measurements: forgetting, recovery, retention
    lines: list[Line]
    headline: str = ""
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    """What was published for its rows, with the verdict on each."""
    exposed: dict[str, str] = field(default_factory=dict)
    """Label of a control to the endpoint that exposes it: `forgetting` or `recovery`."""
    gate: float = 0.0  # the task's gate; 0 if it declares none
    changes: str = ""
    """What its runs changed of the task, in words; "" if nothing."""
    trick: str = ""
    """Name of the control that unlearns nothing and shows no c_f in such a task; "" if there is none."""

    @property
    def pretrained(self) -> str:
        """Name of the base model if others trained it; "" if we did."""
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
        """Heading of the column with the lines' seconds."""
        clock = _name_clock(tuple(dict.fromkeys(d for line in self.lines for d in line.devices)))
        return f"{'CPU s' if clock == 's CPU' else clock} to forget"

    @property
    def services(self) -> bool:
        """Whether the board has methods that only act around the base model."""
        return any(line.threat == "service" and line.standing == "method" for line in self.lines)

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins of the bundles that rows come from."""
        return tuple(sorted({line.origin for line in self.lines} - {""}))

    @property
    def chance(self) -> float:
        """Rate of c_f up to which it counts as forgotten: the task's gate, else 1 / classes."""
        return self.gate or 1 / self.classes

    @property
    def excess(self) -> bool:
        """Whether recovery is a loss above the base model's; 0 then means that nothing was unlearned."""
        recoveries = [line.endpoints.get(self.primary[1]) for line in self.lines]
        return any(e is not None and e.better == "higher" for e in recoveries)

    @property
    def trick_proof(self) -> bool:
        """Whether every control on the board fails an endpoint."""
        return all(line.label in self.exposed for line in self.lines if line.standing == "control")


def _name_clock(devices: tuple[str, ...]) -> str:
    """Name the unit of a cost on these devices: `s CPU`, `s on NVIDIA …`, or both."""
    others = ", ".join(d for d in devices if d != "cpu")
    if not others:
        return "s CPU"
    return f"s CPU or on {others}" if "cpu" in devices else f"s on {others}"
