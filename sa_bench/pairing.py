"""`compare`: which two lines of results are meant, and whether they were made and measured alike. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa_bench.board import Board, Line, Row
from sa_bench.comparing import measured
from sa_bench.contracts import Task
from sa_bench.errors import SaBenchError, unknown
from sa_bench.keys import plain
from sa_bench.ranking import boards
from sa_bench.results import read_results

SHORT = 60  # letters of a value in an error


@dataclass(frozen=True)
class Side:
    """One line of a board, and where it lies."""

    where: Path
    board: Board
    line: Line


def sides(folders: Sequence[Path], methods: str = "", task: str = "") -> tuple[Side, Side]:
    """The two lines that are meant: of one run by two labels (or names of methods), or one of each of two runs.

    Args:
        folders: one or two run folders, cell folders or packed files.
        methods: `a,b`; of two runs also `a` for both, or nothing where each holds a single method.
        task: only boards of this one.

    Raises:
        SaBenchError: results that cannot be read; a name that fits nothing or several lines; no finished result on
            a side; two protocols.
    """
    if len(folders) not in (1, 2):
        raise SaBenchError(f"compare takes one or two runs, got {len(folders)}.")
    there = [(folder, _boards(folder, task)) for folder in folders]
    names = _names(methods, [line.label for _, found in there for b in found for line in b.lines], there)
    if len(folders) == 1:
        there *= 2
    left, right = ([*_named(where, found, name)] for (where, found), name in zip(there, names, strict=True))
    pairs = [
        (a, b) for a in left for b in right
        if (a.board is b.board and a.line is not b.line if len(folders) == 1 else not difference(a, b))
    ]  # fmt: skip
    if not pairs:
        raise _no_pair(left, right, len(folders) == 1)
    if len(pairs) > 1:
        raise _too_many(pairs)
    for side in pairs[0]:
        if not side.line.cells:
            reason = side.line.failed[0]["error"] if side.line.failed else "nothing ran"
            raise SaBenchError(f"{side.line.label} has no finished result in {side.where}: {reason}")
    return pairs[0]


def sweeps(folders: Sequence[Path], methods: str, task: str = "") -> tuple[Board, list[str]]:
    """The one board of one run, and the two methods by name that are to be compared along their settings.

    Raises:
        SaBenchError: several runs or boards, or not two names of methods that stand on it.
    """
    if len(folders) != 1:
        raise SaBenchError(
            f"--at compares two methods of one run, got {len(folders)} runs; give them as one folder."
        )
    found = [board for board in _boards(folders[0], task)]
    names = [part.strip() for part in methods.split(",") if part.strip()]
    if len(names) != 2:
        raise SaBenchError(
            f"--at compares two methods along their settings: --methods a,b; got {methods or 'none'}."
        )
    fitting = [b for b in found if {line.method for line in b.lines} >= set(names)]
    if not fitting:
        known = {line.method for b in found for line in b.lines}
        missing = [name for name in names if name not in known]
        raise unknown("method with a result here", (missing or names)[0], known)
    if len(fitting) > 1:
        boards_ = "; ".join(f"{b.task} · scale {b.scale}" for b in fitting)
        raise SaBenchError(
            f"{folders[0]} holds several boards of these methods; name one with --task: {boards_}."
        )
    return fitting[0], names


def difference(a: Side, b: Side) -> str:
    """The first thing in which the protocols of two lines differ, "" if they are one."""
    left, right = (next(iter((*s.line.cells, *s.line.failed))) for s in (a, b))
    for name, x, y in _facts(left, right):
        if x != y:
            return f"{name} is {_short(x)} in {a.where} and {_short(y)} in {b.where}"
    return ""


def _facts(left: Row, right: Row) -> Iterator[tuple[str, Any, Any]]:
    yield "task", left["task"], right["task"]
    yield "scale", left["scale"], right["scale"]
    values = [plain(row["task_values"], Task) for row in (left, right)]
    for key in dict.fromkeys((*values[0], *values[1])):
        if key != "metrics":  # which others were taken changes no value
            yield f"task.{key}", values[0].get(key), values[1].get(key)
    for m in left["measurements"]:
        other = measured(right, m["name"])
        if m["role"] == "primary" and other is not None:
            for key in dict.fromkeys((*m["fingerprint"], *other["fingerprint"])):
                yield f"{key} of {m['name']}", m["fingerprint"].get(key), other["fingerprint"].get(key)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _boards(folder: Path, task: str) -> list[Board]:
    found = boards(read_results([folder]))
    kept = [board for board in found if task in ("", board.task)]
    if not kept:
        raise unknown(f"task of {folder}", task, {board.task for board in found})
    return kept


def _names(text: str, labels: Sequence[str], there: Sequence[tuple[Path, list[Board]]]) -> tuple[str, str]:
    """The two names in `a,b`; a label may hold a comma itself. "": the only method."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not text.strip():
        if len(there) == 1:
            return _only_two(*there[0])
        return "", ""
    cuts = [(", ".join(parts[:i]), ", ".join(parts[i:])) for i in range(1, len(parts))]
    known = [cut for cut in cuts if set(cut) <= set(labels)]
    if known or len(cuts) == 1:
        return (known or cuts)[0]
    if not cuts and len(there) == 2:
        return parts[0], parts[0]
    raise SaBenchError(
        f"--methods takes two names, a,b, got {text!r}. Here are: {', '.join(sorted(set(labels)))}."
    )


def _only_two(where: Path, found: Sequence[Board]) -> tuple[str, str]:
    labels = dict.fromkeys(x.label for board in found for x in board.lines if x.standing == "method")
    if len(labels) == 2:
        first, second = labels
        return first, second
    every = ", ".join(dict.fromkeys(line.label for board in found for line in board.lines))
    raise SaBenchError(
        f"{where} holds {len(labels)} methods; say which two: --methods a,b. Here are: {every}."
    )


def _named(where: Path, found: Sequence[Board], name: str) -> Iterator[Side]:
    """Every line of that label, else of that method; "": every method or, where there is none, every line."""
    lines = [(board, line) for board in found for line in board.lines]
    for fits in (
        lambda line: line.label == name,
        lambda line: line.method == name,
        lambda line: not name and line.standing == "method",
        lambda line: not name,
    ):
        if chosen := [Side(where, board, line) for board, line in lines if fits(line)]:
            yield from chosen
            return
    raise unknown(f"method of {where}", name, {line.label for _, line in lines})


def _no_pair(left: Sequence[Side], right: Sequence[Side], one_run: bool) -> SaBenchError:
    a, b = next(((x, y) for x in left for y in right if x.board.task == y.board.task), (left[0], right[0]))
    if one_run and a.line is b.line:
        return SaBenchError(f"{a.line.label} cannot be compared with itself; name two lines: --methods a,b.")
    if why := difference(a, b):
        return SaBenchError(
            f"{a.line.label} and {b.line.label} were not made or measured alike: {why}. Compare results of one protocol."
        )
    return SaBenchError(
        f"{a.line.label} and {b.line.label} of {a.where} stand on different boards: other fingerprints."
    )


def _too_many(pairs: Sequence[tuple[Side, Side]]) -> SaBenchError:
    tasks = dict.fromkeys(a.board.task for a, _ in pairs)
    if len(tasks) > 1:
        return SaBenchError(
            f"There are several boards of these; say which: --task {' or --task '.join(tasks)}."
        )
    labels = dict.fromkeys(side.line.label for pair in pairs for side in pair)
    if len(labels) > 1:
        return SaBenchError(f"Several lines fit; name two of: {', '.join(labels)} (--methods 'a,b').")
    boards_of = dict.fromkeys(f"{a.board.title}, scale {a.board.scale}" for a, _ in pairs)
    return SaBenchError(
        f"There are several boards of these: {'; '.join(boards_of)}. Give folders that hold one."
    )
