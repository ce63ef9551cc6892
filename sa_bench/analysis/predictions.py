"""Predictions of a board's order, written down before it was run, and which of them held."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.gates import difference_bounds
from sa_bench.analysis.pairwise import differences_by_base
from sa_bench.core.errors import SaBenchError, find_nearest, first_line
from sa_bench.core.registry import list_entries
from sa_bench.statistics import ALPHA, over_bases


@dataclass(frozen=True)
class Prediction:
    """The expected order of the methods of a task by one metric."""

    task: str
    metric: str
    order: tuple[tuple[str, ...], ...]
    """Groups of methods from the lowest value to the highest; nothing is said within a group."""

    def pairs(self) -> list[tuple[str, str]]:
        """List the pairs (lower, higher) that it says something of."""
        return [
            (low, high)
            for i, group in enumerate(self.order)
            for later in self.order[i + 1 :]
            for low in group
            for high in later
        ]


@dataclass(frozen=True)
class Judged:
    """The pairs of a prediction by what a board says of them."""

    prediction: Prediction
    held: tuple[tuple[str, str], ...]
    """The difference is shown to have the predicted sign, for another base model and seed."""
    reversed: tuple[tuple[str, str], ...]
    """It is shown to have the other."""
    undecided: tuple[tuple[str, str], ...]
    """Neither is shown."""
    missing: tuple[str, ...]
    """Methods that the board has no value of."""


def load_predictions(file: Path) -> list[Prediction]:
    """Read predictions from a TOML file: tables `[[prediction]]` with `task`, `metric` and `order`.

    Raises:
        SaBenchError: the file is not there or is no such file, or a method is named twice in one order.
    """
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))["prediction"]
        predictions = TypeAdapter(list[Prediction]).validate_python(entries)
    except (OSError, ValueError, KeyError) as error:
        why = "not what it should be" if isinstance(error, ValidationError) else first_line(error)
        raise SaBenchError(
            f"{file} cannot be read as predictions ({why}). It needs tables [[prediction]], each with a task, a metric "
            'and an order of groups: order = [["retrain"], ["sa", "esd"], ["original"]].'
        ) from error
    for prediction in predictions:
        names = [name for group in prediction.order for name in group]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise SaBenchError(f"{file}: {twice[0]} is there twice for {prediction.metric}.")
    return predictions


def judge_prediction(prediction: Prediction, board: Board) -> Judged:
    """Compare a prediction with a board.

    Of a method with several rows that of the most runs counts, of several with as many the one whose label comes first
    (of `sld` the level max).
    """
    values: dict[str, Line] = {}
    for line in sorted(board.lines, key=lambda line: (-len(line.cells), line.label)):
        endpoint = line.known(prediction.metric)
        if endpoint is not None and endpoint.estimate is not None:
            values.setdefault(line.method, line)
    outcomes: dict[str, list[tuple[str, str]]] = {"held": [], "reversed": [], "undecided": []}
    for low, high in prediction.pairs():
        if low in values and high in values:
            outcome = _judge_pair(values[low], values[high], prediction.metric)
            outcomes[outcome].append((low, high))
    names = [name for group in prediction.order for name in group]
    missing = tuple(name for name in names if name not in values)
    held, reversed_pairs, undecided = (tuple(outcomes[key]) for key in outcomes)
    return Judged(prediction, held, reversed_pairs, undecided, missing)


def _judge_pair(low: Line, high: Line, metric: str) -> str:
    """Judge the difference of two rows: `held` if it is shown to be as predicted, each sign at one-sided 5 %.

    Rates by the bounds of their gates; other values, whose spread between runs is not known beforehand, by Student's t
    over the base models' mean differences of shared runs.
    """
    one, other = low.endpoints[metric].estimate, high.endpoints[metric].estimate
    if one is None or other is None:
        return "undecided"
    if one.rate:
        lower, upper = difference_bounds(other, one)
        return "held" if lower > 0 else "reversed" if upper < 0 else "undecided"
    by_base = differences_by_base(metric, high, low)
    difference = over_bases(by_base) if by_base else None
    if difference is None or difference.p is None or difference.p > 2 * ALPHA:
        return "undecided"
    return "held" if difference.mean > 0 else "reversed"


def describe_unknown(predictions: Sequence[Prediction]) -> list[str]:
    """Describe the names that this suite does not have, with the nearest that it has; [] if there is none.

    They may be a user's own, or slips, which cannot be mended once the file is frozen.
    """
    named = {
        "task": [p.task for p in predictions],
        "metric": [p.metric for p in predictions],
        "method": [name for p in predictions for group in p.order for name in group],
    }
    described = []
    for kind, names in named.items():
        known = {entry.name for entry in list_entries(kind)}
        for name in dict.fromkeys(names):
            if name not in known:
                near = find_nearest(name, known)
                hint = f", or did you mean {near[0]}?" if near else "?"
                described.append(f"`{name}` is no {kind} of this suite: your own{hint}")
    return described


def describe_orders(predictions: Sequence[Prediction]) -> list[str]:
    """Write each prediction as a line of Markdown: `sa, no_ewc < retrain < original`."""
    return [
        f"- `{p.task}`, `{p.metric}`: {' < '.join(', '.join(group) for group in p.order)}"
        for p in predictions
    ]


def describe_judged(predictions: Sequence[Prediction], boards: Sequence[Board]) -> list[str]:
    """Write what became of each prediction as a table in Markdown; tasks without a board are not run yet.

    Of several boards of a task that with the most runs counts.
    """
    largest: dict[str, Board] = {}
    for board in boards:
        known = largest.get(board.task)
        if known is None or _count_runs(board) > _count_runs(known):
            largest[board.task] = board
    lines = [
        "| task | metric | held | reversed | undecided | which were reversed | without a value |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in predictions:
        if p.task not in largest:
            lines.append(f"| `{p.task}` | `{p.metric}` | not run yet | | | | |")
            continue
        judged = judge_prediction(p, largest[p.task])
        wrong = ", ".join(f"{low} < {high}" for low, high in judged.reversed) or "–"
        absent = ", ".join(judged.missing) or "–"
        counts = (len(judged.held), len(judged.reversed), len(judged.undecided))
        cells = [f"`{p.task}`", f"`{p.metric}`", *map(str, counts), wrong, absent]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _count_runs(board: Board) -> int:
    """Count the runs of a board."""
    return sum(len(line.cells) for line in board.lines)
