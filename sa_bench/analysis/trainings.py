"""What was trained for a row, in words: steps, the loss at both ends, why it ended. No torch."""

from __future__ import annotations

from collections.abc import Iterator

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
