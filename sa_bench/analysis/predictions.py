"""Predictions of a board's order, written down before it was run, and which of them held."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sa_bench.analysis.board import Board, Endpoint
from sa_bench.analysis.gates import difference_bounds
from sa_bench.core.errors import SaBenchError


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
    """Read predictions from a TOML file.

    Raises:
        SaBenchError: a method is named twice in one order.
    """
    predictions = []
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["prediction"]:
        order = tuple(map(tuple, entry["order"]))
        names = [name for group in order for name in group]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise SaBenchError(f"{file}: {twice[0]} is there twice for {entry['metric']}.")
        predictions.append(Prediction(entry["task"], entry["metric"], order))
    return predictions


def judge_prediction(prediction: Prediction, board: Board) -> Judged:
    """Compare a prediction with a board; of a method with several rows the first counts."""
    values: dict[str, Endpoint] = {}
    for line in board.lines:
        endpoint = line.known(prediction.metric)
        if endpoint is not None and endpoint.estimate is not None:
            values.setdefault(line.method, endpoint)
    outcomes: dict[str, list[tuple[str, str]]] = {"held": [], "reversed": [], "undecided": []}
    for low, high in prediction.pairs():
        if low in values and high in values:
            outcomes[_judge_pair(values[low], values[high])].append((low, high))
    names = [name for group in prediction.order for name in group]
    missing = tuple(name for name in names if name not in values)
    held, reversed_pairs, undecided = (tuple(outcomes[key]) for key in outcomes)
    return Judged(prediction, held, reversed_pairs, undecided, missing)


def _judge_pair(low: Endpoint, high: Endpoint) -> str:
    """Judge the difference of two estimates: `held` if it is shown to be as predicted."""
    if low.estimate is None or high.estimate is None:
        return "undecided"
    lower, upper = difference_bounds(high.estimate, low.estimate)
    return "held" if lower > 0 else "reversed" if upper < 0 else "undecided"


def describe_orders(predictions: Sequence[Prediction]) -> list[str]:
    """Write each prediction as a line of Markdown: `sa, no_ewc < retrain < original`."""
    return [
        f"- `{p.task}`, `{p.metric}`: {' < '.join(', '.join(group) for group in p.order)}"
        for p in predictions
    ]
