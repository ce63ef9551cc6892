"""The claims ledger: does the ordering that a publication argues from hold on this board?

An ordering holds, or is reversed, if the 95 % interval of the methods' difference lies on one side of zero; a
threshold, if the intervals of all runs do. From five runs on; each claim is looked at by itself.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache

from sa_bench.board import Board, Line
from sa_bench.comparing import FEWEST, Comparison, difference, endpoint
from sa_bench.ledger import setting
from sa_bench.registry import room
from sa_bench.results import metric_of
from sa_bench.wording import shown

RELATIONS = ("better", "above", "below")  # than another method; than a number


@dataclass(frozen=True)
class Claim:
    """One row of tasks/published/claims.csv."""

    task: str
    metric: str
    left: str  # a method, or one with fields: `sa lam=10`
    relation: str
    right: str  # the same, or a number
    claim: str
    source: str
    kind: str  # `stated` by the publication, or `implied` by its argument


@dataclass(frozen=True)
class Verdict:
    """A claim and what the board says of it."""

    claim: Claim
    verdict: str  # `holds`, `reversed`, `cannot be told`
    evidence: str


@lru_cache(maxsize=1)
def entries() -> tuple[Claim, ...]:
    """Every claim."""
    path = room("task") / "published" / "claims.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(Claim(**row) for row in csv.DictReader(file))


def verdicts(board: Board) -> list[Verdict]:
    """What `board` says of every claim about its task; nothing at scale `quick` or with a task's field overridden."""
    if any(cell["overrides"] for line in board.lines for cell in line.cells):
        return []  # another concept or surrogate is another experiment
    found = []
    for claim in entries() if board.scale != "quick" else ():
        if claim.task != board.task:
            continue
        for left in _lines(board, claim.left):
            name = _measured(left, claim.metric)
            if left.known(name) is None:
                continue
            if claim.relation != "better":
                found.append(Verdict(claim, *_threshold(claim, left, name)))
            for right in _lines(board, claim.right):
                row = endpoint(name, left, right)
                if row is not None:
                    found.append(Verdict(claim, *_ordering(row)))
    return found


def _lines(board: Board, asked: str) -> list[Line]:
    """A method's lines, with the fields asked for, of the most runs: of a tuned and a default row, the one studied."""
    method, fields = setting(asked)
    lines = [
        line for line in board.lines
        if line.method == method and line.cells and fields.items() <= line.cells[0]["fields"].items()
    ]  # fmt: skip
    lines = [
        line for line in lines if not line.origin
    ] or lines  # strangers' only where there are none of ours
    most = max((len(line.cells) for line in lines), default=0)
    return [line for line in lines if len(line.cells) == most]


def _ordering(row: Comparison) -> tuple[str, str]:
    sign = -1 if row.better == "lower" else 1
    text = f"{row.a} − {row.b}: {difference(row)}"
    if row.low is None or row.high is None:
        few = f"{row.runs} shared runs, {FEWEST} are needed"
        same = f"in all {row.runs} runs alike, and a spread that was not seen is not none"
        return "cannot be told", f"{text}; {few if row.runs < FEWEST else same}"
    text += f", {row.runs} runs on {row.bases} base model(s)"
    if row.low <= 0 <= row.high:
        return "cannot be told", text
    return ("holds" if sign * row.difference > 0 else "reversed"), text


def _measured(line: Line, metric: str) -> str:
    """What a metric's measurement is called: `inception_kid` is measured as `kid[inception-v3-compat]`."""
    rows = (m for cell in line.cells for m in cell["measurements"])
    return next((m["name"] for m in rows if metric_of(m) == metric), metric)


def _threshold(claim: Claim, line: Line, name: str) -> tuple[str, str]:
    found, limit = line.endpoints[name], float(claim.right)
    low, high = found.bounds
    text = f"{line.label}: {shown(found.value, found.unit)}, for another base and seed "
    text += f"{shown(low, found.unit)} to {shown(high, found.unit)}, against {shown(limit, found.unit)}"
    above, below = low > limit, high < limit
    if len(found.points) < FEWEST or not (above or below):
        return "cannot be told", text
    return ("holds" if above == (claim.relation == "above") else "reversed"), text
