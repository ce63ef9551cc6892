"""`predictions` and `correlate`: what was expected of a board, and whether the board tells anything of large models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sa_bench.analysis import predictions, predictive
from sa_bench.analysis.ranking import make_boards
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import file_digest, write_atomic
from sa_bench.results.files import read_results
from sa_bench.results.untrusted import read_stranger_result


def judge_predictions(file: Path, folders: Sequence[Path]) -> str:
    """Tell which predicted orders of methods held, as a table in Markdown.

    Args:
        file: a TOML file of predictions, such as docs/predictions.toml.
        folders: runs or packed files; without any, the predictions are listed with the file's sha256.

    Raises:
        SaBenchError: the file or the results cannot be read.
    """
    predicted = predictions.load_predictions(file)
    if not folders:
        unknown = [f"Beware: {text}" for text in predictions.describe_unknown(predicted)]
        listed = [*unknown, *([""] if unknown else []), *predictions.describe_orders(predicted)]
        return "\n".join([f"sha256 {file_digest(file)}", "", *listed])
    results = read_results(folders)
    with read_stranger_result(results):
        return "\n".join(predictions.describe_judged(predicted, make_boards(results)))


def write_predictors(
    file: Path, folders: Sequence[Path], task: str | None, chosen_rows: Sequence[str] = ()
) -> str:
    """Write the predictors of a board's methods as a CSV, and return its line of sha256sum.

    No published number enters, so that the file can be frozen before anyone compares. A file that is there stays.

    Args:
        file: to be written.
        folders: runs or packed files.
        task: of the board; may be None where the results have one task alone.
        chosen_rows: names of the rows that speak for methods with several.

    Raises:
        SaBenchError: the results cannot be read, hold no such method or several boards, or nothing decides which row of a
            method counts, or the file is there and differs.
    """
    results = read_results(folders)
    with read_stranger_result(results):
        tasks = sorted({row["task"] for row in results})
        if task is None and len(tasks) > 1:
            raise SaBenchError(
                f"these results have several tasks: add --task with one of {', '.join(tasks)}"
            )
        text = predictive.format_predictors(results, task or tasks[0], chosen_rows).encode()
    if file.exists() and file.read_bytes() != text:
        raise SaBenchError(
            f"{file} is there and differs: predictors are written once; name another file"
        )
    write_atomic(file, text)
    return f"{file_digest(file)}  {file}"


def describe_correlations(file: Path) -> str:
    """Describe how far the order of the methods in a file of predictors agrees with published ones, in Markdown.

    Raises:
        SaBenchError: the file cannot be read or lacks a column.
    """
    return "\n".join(predictive.describe_correlations(file))
