"""`compare`: which two lines are meant, and how they differ on the three endpoints. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.pairwise import (
    Comparison,
    Scores,
    cells_by_run,
    compare_endpoint,
    differences_by_base,
    find_measurement,
    paired_scores,
    shared_runs,
)
from sa_bench.analysis.ranking import make_boards, too_many_boards
from sa_bench.contracts import Task, key_values
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.results.files import read_results
from sa_bench.results.format import is_rate
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.statistics import ALPHA, clustered, components, holm, sampling
from sa_bench.statistics.clustered import Paired

SHORT = 60  # maximal number of letters of a value in an error


@dataclass(frozen=True)
class Side:
    """One line of a board, and the folder or file that it comes from."""

    where: Path
    board: Board
    line: Line


def select_lines(folders: Sequence[Path], methods: str = "", task: str = "") -> tuple[Side, Side]:
    """Select the two lines to compare: two labels within one run, or one line from each of two runs.

    Args:
        folders: one or two run folders, cell folders or packed files.
        methods: labels or names of methods, `a,b`. For two runs also `a` for both, or nothing if
            each run holds a single method.
        task: use only boards of this task; "" means any.

    Raises:
        SaBenchError: results cannot be read; a name fits no line or several; a side has no
            finished result; the protocols differ.
    """
    if len(folders) not in (1, 2):
        raise SaBenchError(f"compare takes one or two runs, got {len(folders)}.")
    one_run = len(folders) == 1
    runs = [(folder, _read_boards(folder, task)) for folder in folders]
    labels = [line.label for _, boards in runs for board in boards for line in board.lines]
    names = _split_names(methods, labels, runs)
    if one_run:
        runs *= 2
    left, right = (
        [*_find_sides(where, boards, name)]
        for (where, boards), name in zip(runs, names, strict=True)
    )

    def comparable(a: Side, b: Side) -> bool:
        if one_run:
            return a.board is b.board and a.line is not b.line
        return not protocol_difference(a, b)

    pairs = [(a, b) for a in left for b in right if comparable(a, b)]
    if not pairs:
        raise _no_pair(left, right, one_run)
    if len(pairs) > 1:
        raise _too_many(pairs)
    for side in pairs[0]:
        if not side.line.cells:
            reason = side.line.failed[0]["error"] if side.line.failed else "nothing ran"
            raise SaBenchError(
                f"{side.line.label} has no finished result in {side.where}: {reason}"
            )
    return pairs[0]


def select_sweeps(folders: Sequence[Path], methods: str, task: str = "") -> tuple[Board, list[str]]:
    """Select the board and the names of two methods whose settings are compared (`--at`).

    Raises:
        SaBenchError: there are several runs or boards, or not two names of methods on the board.
    """
    if len(folders) != 1:
        raise SaBenchError(
            f"--at compares two methods of one run, got {len(folders)} runs; give them as one folder."
        )
    boards = _read_boards(folders[0], task)
    names = [part.strip() for part in methods.split(",") if part.strip()]
    if len(names) != 2:
        raise SaBenchError(
            f"--at compares two methods along their settings: --methods a,b; got {methods or 'none'}."
        )
    matching_boards = [b for b in boards if {line.method for line in b.lines} >= set(names)]
    if not matching_boards:
        known_methods = {line.method for b in boards for line in b.lines}
        missing_methods = [name for name in names if name not in known_methods]
        raise unknown_name(
            "method with a result here", (missing_methods or names)[0], known_methods
        )
    if len(matching_boards) > 1:
        raise too_many_boards(matching_boards, "--at compares on one board")
    return matching_boards[0], names


def protocol_difference(a: Side, b: Side) -> str:
    """Describe the first difference between the protocols of two lines; "" if they are the same."""
    left, right = (next(iter((*s.line.cells, *s.line.failed))) for s in (a, b))
    for name, x, y in _protocol_entries(left, right):
        if x != y:
            return f"{name} is {_shorten(x)} in {a.where} and {_shorten(y)} in {b.where}"
    return ""


def _protocol_entries(left: ResultRow, right: ResultRow) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, left value, right value) of all that belongs to the protocol of two results."""
    yield "task", left["task"], right["task"]
    yield "scale", left["scale"], right["scale"]
    values = [key_values(row["task_values"], Task) for row in (left, right)]
    for key in dict.fromkeys((*values[0], *values[1])):
        if key != "metrics":  # a further metric changes no other value
            yield f"task.{key}", values[0].get(key), values[1].get(key)
    for measurement in left["measurements"]:
        other = find_measurement(right, measurement["name"])
        if measurement["role"] == "primary" and other is not None:
            for key in dict.fromkeys((*measurement["fingerprint"], *other["fingerprint"])):
                yield (
                    f"{key} of {measurement['name']}",
                    measurement["fingerprint"].get(key),
                    other["fingerprint"].get(key),
                )


def _shorten(value: Any) -> str:
    """Write a value as JSON, cut to `SHORT` letters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _read_boards(folder: Path, task: str) -> list[Board]:
    """Read the boards of a folder or file, of one task if given."""
    boards = make_boards(read_results([folder]))
    of_task = [board for board in boards if task in ("", board.task)]
    if not of_task:
        raise unknown_name(f"task of {folder}", task, {board.task for board in boards})
    return of_task


def _split_names(
    methods: str, labels: Sequence[str], runs: Sequence[tuple[Path, list[Board]]]
) -> tuple[str, str]:
    """Split `a,b` into two names; a label may hold a comma itself. Two empty names mean the only method."""
    words = [part.strip() for part in methods.split(",") if part.strip()]
    if not methods.strip():
        if len(runs) == 1:
            return _only_two(*runs[0])
        return "", ""
    splits = [(", ".join(words[:i]), ", ".join(words[i:])) for i in range(1, len(words))]
    known_splits = [split for split in splits if set(split) <= set(labels)]
    if known_splits or len(splits) == 1:
        return (known_splits or splits)[0]
    if not splits and len(runs) == 2:
        return words[0], words[0]
    raise SaBenchError(
        f"--methods takes two names, a,b, got {methods!r}. Known are: {', '.join(sorted(set(labels)))}."
    )


def _only_two(where: Path, boards: Sequence[Board]) -> tuple[str, str]:
    """Return the labels of the two methods of a run that holds exactly two."""
    labels = dict.fromkeys(
        x.label for board in boards for x in board.lines if x.standing == "method"
    )
    if len(labels) == 2:
        first, second = labels
        return first, second
    all_labels = ", ".join(dict.fromkeys(line.label for board in boards for line in board.lines))
    raise SaBenchError(
        f"{where} holds {len(labels)} methods; say which two: --methods a,b. Known are: {all_labels}."
    )


def _find_sides(where: Path, boards: Sequence[Board], name: str) -> Iterator[Side]:
    """Yield every line with that label, or else of that method; an empty name means every method's line.

    Where the name is empty and no line is a method's, every line is meant.
    """
    lines = [(board, line) for board in boards for line in board.lines]
    for fits in (
        lambda line: line.label == name,
        lambda line: line.method == name,
        lambda line: not name and line.standing == "method",
        lambda line: not name,
    ):
        if sides := [Side(where, board, line) for board, line in lines if fits(line)]:
            yield from sides
            return
    raise unknown_name(f"method of {where}", name, {line.label for _, line in lines})


def _no_pair(left: Sequence[Side], right: Sequence[Side], one_run: bool) -> SaBenchError:
    """Build the error that says why no line of the left side can be compared with one of the right."""
    a, b = next(
        ((x, y) for x in left for y in right if x.board.task == y.board.task), (left[0], right[0])
    )
    if one_run and a.line is b.line:
        return SaBenchError(
            f"{a.line.label} cannot be compared with itself; name two rows: --methods a,b."
        )
    if why := protocol_difference(a, b):
        return SaBenchError(
            f"{a.line.label} and {b.line.label} were not made or measured alike: {why}. Compare results of one protocol."
        )
    return SaBenchError(
        f"{a.line.label} and {b.line.label} of {a.where} stand on different boards: their fingerprints differ."
    )


def _too_many(pairs: Sequence[tuple[Side, Side]]) -> SaBenchError:
    """Build the error that says how to choose among several pairs."""
    sides = [{id(pair[i].board): pair[i].board for pair in pairs} for i in (0, 1)]
    boards = list(max(sides, key=len).values())
    if len({board.task for board in boards}) > 1:
        return too_many_boards(boards, "Rows are compared on one board")
    labels = dict.fromkeys(side.line.label for pair in pairs for side in pair)
    if len(labels) > 1:
        return SaBenchError(
            f"Several rows fit; name two of: {', '.join(labels)} (--methods 'a,b')."
        )
    return too_many_boards(boards, "Rows are compared on one board")


ROLES = ("forgetting", "recovery", "retention")


@dataclass(frozen=True)
class Spread:
    """Sources of one run's difference: standard deviations in the endpoint's unit, None if unknown."""

    base: float | None = None  # training of the base model
    seed: float | None = None  # forgetting seed, without what the drawing of images adds
    images: float | None = None  # drawing of the images of one run
    together: float | None = None  # base and seed together, where every base has a single run
    judges: Mapping[str, float] = field(default_factory=dict)
    """Each judge's own difference: not a sampling error."""


@dataclass(frozen=True)
class Answer:
    """Comparison of two lines on one endpoint."""

    role: str
    name: str  # of the measurement
    title: str
    unit: str | None
    better: str | None
    a: float | None
    b: float | None
    pairs: int  # pairs of checkpoints with scores
    wins: tuple[int, int] = (0, 0)  # pairs in which a is better, and in which b is (p < .05)
    checkpoints: Paired | None = None
    effect: float | None = None  # Cohen's h of rates, else Cohen's d over images
    why: str = ""  # why the checkpoints are not compared
    methods: Comparison | None = None
    standardised: float | None = None  # d_z
    points: tuple[float, ...] = ()  # the difference of every shared run
    spread: Spread = field(default_factory=Spread)


@dataclass(frozen=True)
class Versus:
    """Two lines, the pairs of runs that were compared, and an answer per endpoint."""

    a: Side
    b: Side
    runs: tuple[tuple[ResultRow, ResultRow], ...]
    matched: bool  # whether the two of a pair have the same base model and forgetting seed
    answers: tuple[Answer, ...]

    @property
    def same(self) -> int:
        """Number of pairs in which both sides are the same model."""
        models = [tuple(row["artifacts"].get("model") for row in pair) for pair in self.runs]
        return sum(x is not None and x == y for x, y in models)


def compare_lines(a: Side, b: Side) -> Versus:
    """Compare two lines of one protocol on the three endpoints.

    Raises:
        SaBenchError: the lines share no run, and they are not two single checkpoints either.
    """
    left, right = cells_by_run(a.line), cells_by_run(b.line)
    runs = tuple((left[key], right[key]) for key in shared_runs(a.line, b.line))
    matched = bool(runs)
    if not matched and len(left) == len(right) == 1:
        runs = ((a.line.cells[0], b.line.cells[0]),)
    if not runs:
        raise SaBenchError(
            f"{a.line.label} and {b.line.label} share no run: (base, seed) are {_format_runs(left)} and "
            f"{_format_runs(right)}. Runs of one base model and one seed are compared; make them with "
            "--base-seed and --seed."
        )
    answers = [
        _compare_on_endpoint(role, name, a, b, runs, matched)
        for role, name in zip(ROLES, a.board.primary, strict=False)
    ]
    adjusted_p = (
        holm([x.checkpoints.p if x.checkpoints else None for x in answers]),
        holm([x.methods.p if x.methods else None for x in answers]),
    )
    answers = [_with_adjusted_p(x, p, q) for x, p, q in zip(answers, *adjusted_p, strict=True)]
    return Versus(a, b, runs, matched, tuple(answers))


def _format_runs(cells: Mapping[tuple[int, int, int], ResultRow]) -> str:
    """Format runs as (base, seed), with the seed of the images if one of them is not 0."""
    shown = 3 if any(draw for *_, draw in cells) else 2
    return ", ".join(str(run[:shown]) for run in sorted(cells))


def _with_adjusted_p(answer: Answer, checkpoints: float | None, methods: float | None) -> Answer:
    """Copy an answer with p values that are adjusted over the endpoints."""
    if answer.checkpoints is not None and checkpoints is not None:
        answer = replace(answer, checkpoints=replace(answer.checkpoints, p=checkpoints))
    if answer.methods is not None:
        answer = replace(answer, methods=replace(answer.methods, p=methods))
    return answer


def _compare_on_endpoint(
    role: str,
    name: str,
    a: Side,
    b: Side,
    runs: Sequence[tuple[ResultRow, ResultRow]],
    matched: bool,
) -> Answer:
    """Answer how two lines differ on one endpoint, over the given pairs of results."""
    pairs_of_measurements = [
        (find_measurement(x, name), find_measurement(y, name)) for x, y in runs
    ]
    complete_pairs = [(x, y) for x, y in pairs_of_measurements if x is not None and y is not None]
    valued_pairs = [
        (x, y) for x, y in complete_pairs if x["value"] is not None and y["value"] is not None
    ]
    if not valued_pairs:
        measured = (m for pair in pairs_of_measurements for m in pair if m is not None)
        words = _describe_measurement(name, next(measured, None))
        reason = next(
            (m["reason"] for pair in complete_pairs for m in pair if m["value"] is None),
            "it was not measured",
        )
        return Answer(role, *words, None, None, 0, why=str(reason))
    measurement, unit = valued_pairs[0][0], valued_pairs[0][0]["unit"]
    scores_of_pairs, why = [], ""
    for x, y in runs:
        scores = paired_scores(x, y, name)
        if isinstance(scores, str):
            why = why or scores
        else:
            scores_of_pairs.append(scores)
    if not scores_of_pairs and str(measurement["interval"]).startswith("jackknife"):
        why = "it is not a mean over images, so images cannot be paired"
    paired_tests = [clustered.paired(s.a, s.b, s.prompts, is_rate(unit)) for s in scores_of_pairs]
    lower = measurement["better"] == "lower"
    for_a = sum(e.p < ALPHA and (e.difference < 0) == lower for e in paired_tests)
    for_b = sum(e.p < ALPHA for e in paired_tests) - for_a
    by_base = differences_by_base(name, a.line, b.line) if matched else {}
    between = compare_endpoint(name, a.line, b.line) if matched else None
    return Answer(
        role,
        *_describe_measurement(name, measurement),
        fmean(m["value"] for m, _ in valued_pairs if m["value"] is not None),
        fmean(m["value"] for _, m in valued_pairs if m["value"] is not None),
        len(scores_of_pairs),
        (for_a, for_b),
        pool_pairs(scores_of_pairs, is_rate(unit)) if scores_of_pairs else None,
        _cohen(scores_of_pairs, is_rate(unit)),
        why,
        between,
        _standardise(by_base, between),
        tuple(d for ds in by_base.values() for d in ds),
        _split_spread(by_base, scores_of_pairs, _differences_by_judge(valued_pairs)),
    )


def _describe_measurement(
    name: str, measurement: Measurement | None
) -> tuple[str, str, str | None, str | None]:
    """Return a measurement's name, title, unit and direction; its name alone if it was not measured."""
    if measurement is None:
        return name, name, None, None
    return name, measurement["title"], measurement["unit"], measurement["better"]


def pool_pairs(pairs: Sequence[Scores], bounded: bool) -> Paired:
    """Test the difference of all pairs' checkpoints as they are, for other images (or prompts).

    If every pair has the same images, an image's value is its mean over the pairs. Otherwise (such as
    images in which a face was found) prompts are the units, with as many images as each pair has.
    """
    if all(scores.keys == pairs[0].keys for scores in pairs):
        a, b = (np.mean([getattr(scores, side) for scores in pairs], axis=0) for side in ("a", "b"))
        return clustered.paired(a, b, pairs[0].prompts, bounded)
    a, b = (np.concatenate([getattr(scores, side) for scores in pairs]) for side in ("a", "b"))
    prompts = [scores.prompts for scores in pairs if scores.prompts is not None]
    return clustered.paired(
        a, b, np.concatenate(prompts) if len(prompts) == len(pairs) else None, bounded
    )


def _cohen(pairs: Sequence[Scores], rates: bool) -> float | None:
    """Compute Cohen's h of the two mean rates, or Cohen's d: over the images' pooled standard deviation."""
    if not pairs:
        return None
    a, b = (
        float(np.mean([getattr(scores, side).mean() for scores in pairs])) for side in ("a", "b")
    )
    if rates:
        return 2 * float(
            np.arcsin(np.sqrt(np.clip(a, 0, 1))) - np.arcsin(np.sqrt(np.clip(b, 0, 1)))
        )
    spread = (
        float(np.mean([(scores.a.var(ddof=1) + scores.b.var(ddof=1)) / 2 for scores in pairs]))
        ** 0.5
    )
    return (a - b) / spread if spread > 0 else None


def _standardise(
    by_base: Mapping[int, Sequence[float]], comparison: Comparison | None
) -> float | None:
    """Compute d_z: the mean difference over its standard deviation between base models (one base: runs)."""
    if comparison is None or comparison.low is None:
        return None
    units = (
        [fmean(v) for v in by_base.values()] if len(by_base) > 1 else next(iter(by_base.values()))
    )
    spread = float(np.std(units, ddof=1))
    return comparison.difference / spread if spread > 0 else None


def _differences_by_judge(pairs: Sequence[tuple[Measurement, Measurement]]) -> dict[str, float]:
    """Map judges that all runs have to their own difference, the mean over the runs."""
    sides = [[{j["judge"]: j["value"] for j in m["judges"] or []} for m in pair] for pair in pairs]
    names = [n for n in sides[0][0] if all(n in side for pair in sides for side in pair)]
    return {n: fmean(x[n] - y[n] for x, y in sides) for n in names}


def _split_spread(
    by_base: Mapping[int, Sequence[float]], pairs: Sequence[Scores], judges: Mapping[str, float]
) -> Spread:
    """Split the spread into the components that these runs can tell apart."""
    base = seed = base_and_seed = None
    values = [list(v) for v in by_base.values()]
    if sum(len(v) > 1 for v in values) > 1:
        base, seed = components(by_base)
    elif len(values) > 1 and all(len(v) == 1 for v in values):
        base_and_seed = float(np.std([v[0] for v in values], ddof=1))
    elif len(values) == 1 and len(values[0]) > 1:
        seed = float(np.std(values[0], ddof=1))
    shared_part, alone = _image_components(pairs)
    if seed is not None and alone is not None:
        seed = max(0.0, seed**2 - alone) ** 0.5
    images = None if shared_part is None or alone is None else (shared_part + alone) ** 0.5
    return Spread(base, seed, images, base_and_seed, judges)


def _image_components(pairs: Sequence[Scores]) -> tuple[float | None, float | None]:
    """Split the variance from drawing images (or prompts) into `statistics.sampling`'s two components.

    Returns:
        (None, None) if the pairs were not scored on the same images.
    """
    if not pairs or any(scores.keys != pairs[0].keys for scores in pairs):
        return None, None
    table = np.stack([scores.a - scores.b for scores in pairs])
    if pairs[0].prompts is not None:
        prompt_numbers = np.unique(pairs[0].prompts, return_inverse=True)[1]
        if 1 < prompt_numbers.max() + 1 < table.shape[1]:
            table = np.stack(
                [
                    np.bincount(prompt_numbers, weights=differences) / np.bincount(prompt_numbers)
                    for differences in table
                ]
            )
    return sampling(table)
