"""The claims ledger: does the ordering that a publication argues from hold on this board?"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache

from sa_bench.board import Board, Line
from sa_bench.comparing import FEWEST, Comparison, difference, endpoint
from sa_bench.registry import room
from sa_bench.wording import shown

RELATIONS = ("better", "above", "below")  # than another method; than a number


@dataclass(frozen=True)
class Claim:
    """One row of tasks/published/claims.csv."""

    task: str
    metric: str
    left: str  # a method
    relation: str
    right: str  # a method, or a number
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
    """What `board` says of every claim about its task; none if a task's field was overridden."""
    if any(cell["overrides"] for line in board.lines for cell in line.cells):
        return []  # another concept or surrogate is another experiment
    found = []
    for claim in entries():
        left = _line(board, claim.left)
        if claim.task != board.task or left is None or left.known(claim.metric) is None:
            continue
        if claim.relation == "better":
            right = _line(board, claim.right)
            row = endpoint(claim.metric, left, right) if right is not None else None
            if row is not None:
                found.append(Verdict(claim, *_ordering(row)))
        else:
            found.append(Verdict(claim, *_threshold(claim, left)))
    return found


def _line(board: Board, method: str) -> Line | None:
    """The method's line with the most runs: of a tuned and a default row, the one that was studied."""
    lines = [line for line in board.lines if line.method == method and line.cells]
    return max(lines, key=lambda line: len(line.cells), default=None)


def _ordering(row: Comparison) -> tuple[str, str]:
    sign = -1 if row.better == "lower" else 1
    text = f"{row.a} − {row.b}: {difference(row)}"
    if row.low is None or row.high is None:
        return "cannot be told", f"{text}; {row.runs} shared runs, {FEWEST} are needed"
    if row.low <= 0 <= row.high:
        return "cannot be told", text
    return ("holds" if sign * row.difference > 0 else "reversed"), text


def _threshold(claim: Claim, line: Line) -> tuple[str, str]:
    found, limit = line.endpoints[claim.metric], float(claim.right)
    low, high = found.bounds
    text = f"{line.label}: {shown(found.value, found.unit)}, bounds of its {len(found.points)} runs "
    text += f"{shown(low, found.unit)} to {shown(high, found.unit)}, against {shown(limit, found.unit)}"
    above, below = low > limit, high < limit
    if not above and not below:
        return "cannot be told", text
    return ("holds" if above == (claim.relation == "above") else "reversed"), text
