"""From result rows to a board: who forgot, who can be undone, at what cost. No torch, no pandas.

Gate: c_f is forgotten if the upper bound of its top-1 rate is at most chance (one over the number of
classes). Recoverable is decided against the `retrain` rows of the same board: a method whose lower bound
lies above retrain's upper bound only hid the concept. Controls and references are never ranked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Endpoint:
    """One measurement over the cells of a line."""

    value: float | None
    low: float | None
    high: float | None
    base: float | None
    points: tuple[float, ...] = ()  # one a cell
    reason: str | None = None

    @property
    def spread(self) -> str:
        """How low and high came about."""
        return "95 % interval" if len(self.points) == 1 else f"lowest and highest of {len(self.points)} runs"


@dataclass
class Line:
    """One row of a board: a method with its fields, over seeds and base models."""

    method: str
    label: str  # the method and the fields in which it differs from its siblings
    standing: str
    cells: list[Mapping[str, Any]]
    failed: list[Mapping[str, Any]]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    forgotten: bool | None = None
    recoverable: str = "unknown"  # `yes`, `no`, `unclear`, `unknown`
    sentence: str = ""
    rank: int | None = None


@dataclass
class Board:
    """All lines that may stand together: one task, one protocol."""

    task: str
    title: str
    scale: str
    concept: str
    classes: int
    primary: tuple[str, ...]
    lines: list[Line]
    headline: str = ""
    exposed: dict[str, str] = field(default_factory=dict)  # control -> the endpoint that it fails

    @property
    def trick_proof(self) -> bool:
        """Whether every control on the board fails an endpoint."""
        return all(line.method in self.exposed for line in self.lines if line.standing == "control")


def boards(results: Rows) -> list[Board]:
    """The results sorted into boards; different tasks, scales or overrides never share one."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results:
        key = json.dumps([row["task"], row["scale"], row["task_values"]], sort_keys=True)
        groups.setdefault(key, []).append(row)
    return [_board(rows) for rows in groups.values()]


def _board(rows: list[Mapping[str, Any]]) -> Board:
    first = rows[0]
    lines: dict[str, Line] = {}
    for row in rows:
        key = json.dumps([row["method"], row["fields"]], sort_keys=True)
        line = lines.setdefault(key, Line(row["method"], row["method"], row["standing"], [], []))
        (line.cells if row["status"] == "done" else line.failed).append(row)
    values = first["task_values"]
    title = first["task_title"]
    if first["overrides"]:
        title += " (" + ", ".join(f"{k}={v}" for k, v in first["overrides"].items()) + ")"
    board = Board(
        first["task"], title, first["scale"], first["concept"], len(values["classes"]),
        tuple(values["primary"]), list(lines.values()),
    )  # fmt: skip
    _label(board.lines)
    for line in board.lines:
        names = dict.fromkeys(m["name"] for cell in line.cells for m in cell["measurements"])
        line.endpoints = {name: _endpoint(line.cells, name) for name in names}
    floor = _floor(board)
    for line in board.lines:
        _judge(board, line, floor)
    _rank(board)
    board.headline = _headline(board, floor)
    return board


def _label(lines: list[Line]) -> None:
    """Name siblings of one method by the fields in which they differ."""
    for line in lines:
        siblings = [other for other in lines if other.method == line.method]
        if len(siblings) > 1:
            fields = [(other.cells or other.failed)[0]["fields"] for other in siblings]
            mine = (line.cells or line.failed)[0]["fields"]
            differing = [k for k in mine if len({json.dumps(f.get(k), sort_keys=True) for f in fields}) > 1]
            line.label = f"{line.method} " + " ".join(f"{k}={mine[k]}" for k in differing)


def _endpoint(cells: Rows, name: str) -> Endpoint:
    found = [m for cell in cells for m in cell["measurements"] if m["name"] == name]
    kept = [m for m in found if m["value"] is not None]
    if not kept:
        return Endpoint(None, None, None, None, (), found[0]["reason"] if found else "not measured")
    points = tuple(float(m["value"]) for m in kept)
    bases = [m["base"] for m in kept if m["base"] is not None]
    base = fmean(bases) if bases else None
    if len(points) == 1:
        return Endpoint(points[0], kept[0]["low"], kept[0]["high"], base, points)
    return Endpoint(fmean(points), min(points), max(points), base, points)


def _floor(board: Board) -> Endpoint | None:
    """Recovery of the reference: where nothing was ever learnt."""
    for line in board.lines:
        found = line.endpoints.get("recovery")
        if line.standing == "reference" and found is not None and found.value is not None:
            return found
    return None


def _bound(endpoint: Endpoint, side: str) -> float:
    value = getattr(endpoint, side)
    return endpoint.value if value is None else value  # type: ignore[return-value]


def _judge(board: Board, line: Line, floor: Endpoint | None) -> None:
    forget, recovery = line.endpoints.get(board.primary[0]), line.endpoints.get("recovery")
    if forget is not None and forget.value is not None:
        line.forgotten = _bound(forget, "high") <= 1 / board.classes
    if recovery is not None and recovery.value is not None and floor is not None:
        if _bound(recovery, "low") > _bound(floor, "high"):
            line.recoverable = "yes"
        elif recovery.value <= _bound(floor, "high"):
            line.recoverable = "no"
        else:
            line.recoverable = "unclear"
    if line.standing == "control":
        if line.forgotten is False:
            board.exposed[line.method] = board.primary[0]
        elif line.recoverable == "yes":
            board.exposed[line.method] = "recovery"
    line.sentence = _sentence(board, line, floor)


def percent(value: float | None) -> str:
    """A rate for people."""
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _sentence(board: Board, line: Line, floor: Endpoint | None) -> str:
    if not line.cells:
        return "Failed: " + (line.failed[0]["error"] or "no reason given")
    parts = []
    forget = line.endpoints.get(board.primary[0])
    if forget is not None and forget.value is not None:
        verb = "Forgot" if line.forgotten else "Did not forget"
        if line.standing == "reference":
            verb = f"Never saw {board.concept}"
        parts.append(
            f"{verb}: {percent(forget.value)} of its {board.concept}s are still judged {board.concept}"
        )
    recovery = line.endpoints.get("recovery")
    if recovery is not None and recovery.value is not None:
        text = f"{percent(recovery.value)} come back when its condition is fitted again"
        if floor is not None and line.standing != "reference":
            text += {
                "yes": f" — far more than the {percent(floor.value)} of retrain, so the knowledge is still there",
                "no": f" — no more than retrain's {percent(floor.value)}",
                "unclear": f" — not clearly more than retrain's {percent(floor.value)}",
            }.get(line.recoverable, "")
        parts.append(text)
    keep = line.endpoints.get(board.primary[2])
    if keep is not None and keep.value is not None and keep.base is not None:
        parts.append(f"the rest: {keep.value - keep.base:+.2f} nats against the base")
    sentence = "; ".join(parts) + "." if parts else "Nothing could be measured."
    if line.failed:
        sentence += f" {len(line.failed)} of {len(line.failed) + len(line.cells)} cells failed."
    return sentence


def _rank(board: Board) -> None:
    """Rank methods that forgot and cannot be shown to be undone; by retention within each degree of doubt."""
    keep = board.primary[2]

    def order(line: Line) -> tuple[int, float]:
        retention = line.endpoints[keep].value if keep in line.endpoints else None
        standing = {"no": 0, "unclear": 1, "unknown": 2, "yes": 3}[line.recoverable]
        return standing, -(retention if retention is not None else float("-inf"))

    ranked = sorted((x for x in board.lines if x.standing == "method" and x.forgotten), key=order)
    for place, line in enumerate(ranked, 1):
        line.rank = place if line.recoverable != "yes" else None
    standing = {"method": 0, "reference": 1, "control": 2}
    board.lines.sort(key=lambda x: (standing.get(x.standing, 0), x.rank or 99, not x.forgotten, x.label))


def _headline(board: Board, floor: Endpoint | None) -> str:
    methods = [line for line in board.lines if line.standing == "method"]
    ranked = [line for line in methods if line.forgotten]
    if not methods:
        text = "Only controls and references so far: add a method."
    elif not ranked:
        text = f"No method here made the model forget {board.concept}."
    elif floor is None:
        text = (
            f"{ranked[0].label} leads on forgetting {board.concept}, but without a retrain row nobody can say "
            "whether it can be undone: add --method retrain."
        )
    elif ranked[0].recoverable == "no":
        text = f"{ranked[0].label} wins: it forgot {board.concept}, and the concept does not come back."
    elif ranked[0].recoverable == "unclear":
        text = (
            f"{ranked[0].label} leads, but whether {board.concept} comes back is not settled by these runs."
        )
    else:
        text = (
            f"Nobody wins: {', '.join(x.label for x in ranked)} hid {board.concept} without erasing it — most of "
            "it comes back once the condition alone is fitted again."
        )
    caught = [f"{name} fails {endpoint}" for name, endpoint in board.exposed.items() if name != "original"]
    if caught:
        text += f" Controls caught: {', '.join(caught)}."
    if floor is not None and not board.trick_proof:
        loose = [x.method for x in board.lines if x.standing == "control" and x.method not in board.exposed]
        text += (
            f" WARNING: the control {', '.join(loose)} is not exposed, so this board can be won by a trick."
        )
    return text
