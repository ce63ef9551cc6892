"""What was trained for a row, in words: steps, the loss at both ends, why it ended. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sa_bench.analysis.board import Board, Line
from sa_bench.results.schema import ResultRow, TrainingValues


def describe_training(training: TrainingValues) -> str:
    """Describe a training: `forget sa: 90 of 100 steps, the method stopped it; loss 3.2 to 1.1`."""
    text = f"{training['stage']}: {training['steps']:,} of {training['planned']:,} steps, {training['end']}"
    losses = training["losses"]
    return f"{text}; loss {losses[0]:.4g} to {losses[-1]:.4g}" if losses else text


def describe_trainings(row: ResultRow) -> Iterator[str]:
    """Yield a line for every training of a row; what there is to say where there was none, or no record."""
    trainings = row.get("trainings")
    if trainings is None:
        yield "no curve: the result is from before trainings were recorded"
    elif not any(t["stage"].startswith("forget ") for t in trainings):
        yield f"nothing trained: {row['method']} takes no training steps"
    yield from map(describe_training, trainings or ())


@dataclass(frozen=True)
class TrainedStage:
    """One training of a row, over all of its runs; the curve is the first run's."""

    label: str  # of the row
    stage: str
    steps: str  # `1,000 of 1,000`
    end: str
    losses: str  # `3.2 to 1.1`
    path: tuple[tuple[float, float], ...]  # points of the curve, x and y from 0 to 1, y downwards


def list_trainings(board: Board) -> list[TrainedStage]:
    """List what was trained for the rows of a board; [] if none of them has a record of it."""
    stages = []
    for line in board.lines:
        by_stage: dict[str, list[TrainingValues]] = {}
        for row in line.cells:
            for training in row.get("trainings", ()):
                by_stage.setdefault(training["stage"], []).append(training)
        stages += [_join_runs(line, stage, runs) for stage, runs in by_stage.items()]
    return stages


def list_untrained(board: Board) -> list[str]:
    """List the labels of rows whose method took no training step, as their record says."""
    return [
        line.label
        for line in board.lines
        if line.cells
        and all(
            "trainings" in row
            and not any(t["stage"].startswith("forget ") for t in row["trainings"])
            for row in line.cells
        )
    ]


def _join_runs(line: Line, stage: str, runs: Sequence[TrainingValues]) -> TrainedStage:
    """Join the records of a row's runs of one training."""
    fewest, most = min(t["steps"] for t in runs), max(t["steps"] for t in runs)
    done = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    planned = " or ".join(f"{n:,}" for n in dict.fromkeys(t["planned"] for t in runs))
    losses = runs[0]["losses"]
    return TrainedStage(
        line.label,
        stage,
        f"{done} of {planned}",
        "; ".join(dict.fromkeys(t["end"] for t in runs)),
        f"{losses[0]:.4g} to {losses[-1]:.4g}" if losses else "none",
        tuple(_draw_curve(losses)),
    )


def _draw_curve(losses: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Yield the points of a curve between its least and its greatest finite loss."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    for i, loss in enumerate(losses):
        if math.isfinite(loss):
            yield i / max(1, len(losses) - 1), (high - loss) / ((high - low) or 1.0)
