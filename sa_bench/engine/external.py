"""`evaluate`: measure images that somebody else made, under a task's protocol.

`sa_bench.engine.external_images` reads them, `sa_bench.engine.external_measure` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.locks import Busy, hold_lock, read_holder
from sa_bench.core.untrusted_text import read_json
from sa_bench.engine.cells import resolve_task, task_overrides, with_metrics
from sa_bench.engine.external_images import read_sets
from sa_bench.engine.validation import check_precision
from sa_bench.models.checkpoints import layouts
from sa_bench.models.family import get_family
from sa_bench.results.files import CLAIM
from sa_bench.results.schema import ResultRow

FILE_ENDINGS = {
    *(".json", ".jsonl", ".html", ".md", ".csv", ".parquet", ".npz", ".txt", ".xz", ".zip")
}
"""Endings that no folder has: `--out NAME.json` is taken for a mistake."""
LONGEST_NAME = 60  # characters of a line's name


def evaluate_images(
    path: Path,
    task_name: str,
    scale: str,
    sets: list[str],
    out: Path | None,
    report: Callable[[str, str, int, int], None],
    metrics: Sequence[str] = (),
    name: str = "",
    scores: Path | None = None,
) -> ResultRow:
    """Measure images from elsewhere and return a result like a cell's, with the method `external`.

    Metrics that need the model are n/a.

    Args:
        path: a folder or an NPZ.
        task_name: the task whose protocol is used, or the path of a plug-in.
        scale: full, paper or quick.
        sets: `task.field=value` overrides.
        out: folder for result.json and the scores of each image; None writes none.
        report: called with progress.
        metrics: further metrics.
        name: what its line is called on a board; "" calls it `external`.
        scores: a CSV file for what the judges say of each image; None writes none.

    Raises:
        SaBenchError: the images are unreadable or unsuitable; names the file and the problem.
    """
    overrides = task_overrides(sets, "evaluate")
    names = registry.register_all("task", [task_name])
    if len(names) > 1:
        raise SaBenchError(f"{task_name} defines {', '.join(names)}; evaluate takes one task.")
    further_metrics = registry.register_all("metric", metrics)
    task = with_metrics(resolve_task(names[0], scale, overrides), further_metrics)
    command = {
        "task": task.name,
        "fields": {"images": str(path)},
        "scale": scale,
        "overrides": overrides,
    }
    if not task.needs_weights:  # the base's images are made here
        check_precision(task, "cpu")
    if name:
        check_name(name)
        command["label"] = name
    if scores is not None and scores.suffix.lower() != ".csv":
        raise SaBenchError(f"--scores {scores}: give a file that ends in .csv.")
    with ExitStack() as claims:
        if out is not None:
            claims.enter_context(_hold_folder(out, command))
        external = read_sets(path, task)
        # only now torch is loaded, which takes seconds
        from sa_bench.engine.external_measure import measure_images

        return measure_images(path, task, command, external, out, scores, report)


def check_name(name: str) -> None:
    """Refuse a name that cannot stand in a table.

    Raises:
        SaBenchError: it is too long, or holds other than printable characters.
    """
    if len(name) > LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise SaBenchError(
            f"--name {name!r}: at most {LONGEST_NAME} printable characters, no space at either end."
        )


@contextmanager
def _hold_folder(out: Path, command: dict[str, Any]) -> Iterator[None]:
    """Hold `out` for this evaluation alone.

    Raises:
        SaBenchError: the folder cannot be written, holds the result of another command, or another
            process writes there.
    """
    if out.suffix.lower() in FILE_ENDINGS and not out.is_dir():
        raise SaBenchError(
            f"--out {out} looks like a file; give a folder, result.json is written into it."
        )
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise SaBenchError(f"--out {out}: {folder} is a file; give a folder.")
    lock, file = out / CLAIM, out / "result.json"
    try:
        with hold_lock(lock, f"the folder {out}", wait=False):
            if file.exists() and not _is_result_of(file, command):
                raise SaBenchError(
                    f"{out} holds another result. Choose another --out, or delete {file}."
                )
            yield
    except Busy:
        raise SaBenchError(
            f"{out}: {read_holder(lock)} writes there. Choose another --out."
        ) from None


def _is_result_of(file: Path, command: dict[str, Any]) -> bool:
    """True if a result.json was written by the same command."""
    try:
        result = read_json(file)
        if result["method"] != "external" or ("label" in result) != ("label" in command):
            return False
        return all(result[k] == v for k, v in command.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_checkpoint(path: Path, task_name: str) -> bool:
    """True if `path` holds the weights of a model and not images."""
    if any((path / name).exists() for name in ("forget", "retain")):
        return False
    if path.is_file():
        return path.suffix.lower() in layouts.SUFFIXES
    if not path.is_dir() or not any(
        p.suffix.lower() in layouts.SUFFIXES or p.name in ("model_index.json", "unet", "unet_ema")
        for p in path.iterdir()
    ):
        return False
    (name, *_) = registry.register("task", task_name)
    if not get_family(registry.get_task(name).family).opens_checkpoints:
        return (path / "model.safetensors").is_file()
    return bool(layouts.layout(str(path)))
