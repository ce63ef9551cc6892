"""`compare`: which two lines of results are meant, and whether they were made and measured alike. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line, Row
from sa_bench.analysis.pairwise import (
    Comparison,
    Scores,
    cells_by_run,
    compare_endpoint,
    differences_by_base,
    find_measurement,
    is_rate,
    paired_scores,
    shared_runs,
)
from sa_bench.analysis.ranking import make_boards
from sa_bench.contracts import Task, key_values
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.results.files import read_results
from sa_bench.statistics import ALPHA, clustered, components, holm, sampling
from sa_bench.statistics.clustered import Paired

SHORT = 60  # letters of a value in an error


@dataclass(frozen=True)
class Side:
    """One line of a board, and where it lies."""

    where: Path
    board: Board
    line: Line


def select_lines(folders: Sequence[Path], methods: str = "", task: str = "") -> tuple[Side, Side]:
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
    names = _names(
        methods, [line.label for _, found in there for b in found for line in b.lines], there
    )
    if len(folders) == 1:
        there *= 2
    left, right = (
        [*_named(where, found, name)] for (where, found), name in zip(there, names, strict=True)
    )
    pairs = [
        (a, b)
        for a in left
        for b in right
        if (
            a.board is b.board and a.line is not b.line
            if len(folders) == 1
            else not protocol_difference(a, b)
        )
    ]
    if not pairs:
        raise _no_pair(left, right, len(folders) == 1)
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
        raise unknown_name("method with a result here", (missing or names)[0], known)
    if len(fitting) > 1:
        boards_ = "; ".join(f"{b.task} · scale {b.scale}" for b in fitting)
        raise SaBenchError(
            f"{folders[0]} holds several boards of these methods; name one with --task: {boards_}."
        )
    return fitting[0], names


def protocol_difference(a: Side, b: Side) -> str:
    """The first thing in which the protocols of two lines differ, "" if they are one."""
    left, right = (next(iter((*s.line.cells, *s.line.failed))) for s in (a, b))
    for name, x, y in _facts(left, right):
        if x != y:
            return f"{name} is {_short(x)} in {a.where} and {_short(y)} in {b.where}"
    return ""


def _facts(left: Row, right: Row) -> Iterator[tuple[str, Any, Any]]:
    yield "task", left["task"], right["task"]
    yield "scale", left["scale"], right["scale"]
    values = [key_values(row["task_values"], Task) for row in (left, right)]
    for key in dict.fromkeys((*values[0], *values[1])):
        if key != "metrics":  # which others were taken changes no value
            yield f"task.{key}", values[0].get(key), values[1].get(key)
    for m in left["measurements"]:
        other = find_measurement(right, m["name"])
        if m["role"] == "primary" and other is not None:
            for key in dict.fromkeys((*m["fingerprint"], *other["fingerprint"])):
                yield (
                    f"{key} of {m['name']}",
                    m["fingerprint"].get(key),
                    other["fingerprint"].get(key),
                )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _boards(folder: Path, task: str) -> list[Board]:
    found = make_boards(read_results([folder]))
    kept = [board for board in found if task in ("", board.task)]
    if not kept:
        raise unknown_name(f"task of {folder}", task, {board.task for board in found})
    return kept


def _names(
    text: str, labels: Sequence[str], there: Sequence[tuple[Path, list[Board]]]
) -> tuple[str, str]:
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
    labels = dict.fromkeys(
        x.label for board in found for x in board.lines if x.standing == "method"
    )
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
    raise unknown_name(f"method of {where}", name, {line.label for _, line in lines})


def _no_pair(left: Sequence[Side], right: Sequence[Side], one_run: bool) -> SaBenchError:
    a, b = next(
        ((x, y) for x in left for y in right if x.board.task == y.board.task), (left[0], right[0])
    )
    if one_run and a.line is b.line:
        return SaBenchError(
            f"{a.line.label} cannot be compared with itself; name two lines: --methods a,b."
        )
    if why := protocol_difference(a, b):
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
        return SaBenchError(
            f"Several lines fit; name two of: {', '.join(labels)} (--methods 'a,b')."
        )
    boards_of = dict.fromkeys(f"{a.board.title}, scale {a.board.scale}" for a, _ in pairs)
    return SaBenchError(
        f"There are several boards of these: {'; '.join(boards_of)}. Give folders that hold one."
    )


pass

ROLES = ("forgetting", "recovery", "retention")


@dataclass(frozen=True)
class Spread:
    """Where one run's difference comes from, standard deviations in the endpoint's unit; None: it cannot be told."""

    base: float | None = None  # training of the base model
    seed: float | None = None  # forgetting seed, without what the drawing of images adds
    images: float | None = None  # drawing of images, of one run
    together: float | None = None  # base and seed, where every base has one run
    judges: Mapping[str, float] = field(default_factory=dict)
    """Each judge's own difference: no sampling error."""


@dataclass(frozen=True)
class Answer:
    """One endpoint of two lines."""

    role: str
    row: Row  # a measurement of a, for its title, unit and direction
    a: float | None
    b: float | None
    pairs: int  # pairs of checkpoints with scores
    wins: tuple[int, int] = (0, 0)  # pairs in which a, and b, is better (p < .05)
    checkpoints: Paired | None = None
    effect: float | None = None  # Cohen's h of rates, else Cohen's d over images
    why: str = ""  # why checkpoints are not compared
    methods: Comparison | None = None
    standardised: float | None = None  # d_z
    points: tuple[float, ...] = ()  # the difference of every shared run
    spread: Spread = field(default_factory=Spread)


@dataclass(frozen=True)
class Versus:
    """Two lines, the pairs of runs that were compared, and the answers."""

    a: Side
    b: Side
    runs: tuple[tuple[Row, Row], ...]
    matched: bool  # whether pairs have one base model and one forgetting seed
    answers: tuple[Answer, ...]

    @property
    def same(self) -> int:
        """Pairs that are one and the same model."""
        models = [tuple(row["artifacts"].get("model") for row in pair) for pair in self.runs]
        return sum(x is not None and x == y for x, y in models)


def compare_lines(a: Side, b: Side) -> Versus:
    """The three endpoints of two lines of one protocol.

    Raises:
        SaBenchError: they share no run, and it is not one checkpoint against another either.
    """
    left, right = cells_by_run(a.line), cells_by_run(b.line)
    runs = tuple((left[key], right[key]) for key in shared_runs(a.line, b.line))
    matched = bool(runs)
    if not matched and len(left) == len(right) == 1:
        runs = ((a.line.cells[0], b.line.cells[0]),)
    if not runs:
        raise SaBenchError(
            f"{a.line.label} and {b.line.label} share no run: (base, seed) are {_keys(left)} and {_keys(right)}. Runs of "
            "one base model and one seed are compared; make them with --base-seed and --seed."
        )
    answers = [
        _answer(role, name, a, b, runs, matched)
        for role, name in zip(ROLES, a.board.primary, strict=False)
    ]
    found = (
        holm([x.checkpoints.p if x.checkpoints else None for x in answers]),
        holm([x.methods.p if x.methods else None for x in answers]),
    )
    answers = [_adjusted(x, p, q) for x, p, q in zip(answers, *found, strict=True)]
    return Versus(a, b, runs, matched, tuple(answers))


def _keys(cells: Mapping[tuple[int, int, int], Row]) -> str:
    """Runs for people; the seed of the images only where one is not 0."""
    parts = 3 if any(draw for *_, draw in cells) else 2
    return ", ".join(str(run[:parts]) for run in sorted(cells))


def _adjusted(answer: Answer, checkpoints: float | None, methods: float | None) -> Answer:
    changed = dict(vars(answer))
    if answer.checkpoints is not None and checkpoints is not None:
        changed["checkpoints"] = Paired(**{**vars(answer.checkpoints), "p": checkpoints})
    if answer.methods is not None:
        changed["methods"] = Comparison(**{**vars(answer.methods), "p": methods})
    return Answer(**changed)


def _answer(
    role: str, name: str, a: Side, b: Side, runs: Sequence[tuple[Row, Row]], matched: bool
) -> Answer:
    rows = [(find_measurement(x, name), find_measurement(y, name)) for x, y in runs]
    found = [(x, y) for x, y in rows if x is not None and y is not None]
    known = [(x, y) for x, y in found if x["value"] is not None and y["value"] is not None]
    if not known:
        facts = next((r for pair in rows for r in pair if r is not None), {"name": name})
        reason = next(
            (r["reason"] for pair in found for r in pair if r["value"] is None),
            "it was not measured",
        )
        return Answer(role, facts, None, None, 0, why=str(reason))
    facts, unit = known[0][0], known[0][0]["unit"]
    pairs, why = [], ""
    for x, y in runs:
        scores = paired_scores(x, y, name)
        if isinstance(scores, str):
            why = why or scores
        else:
            pairs.append(scores)
    if not pairs and str(facts["interval"]).startswith("jackknife"):
        why = "it is no mean over images, so nothing can be paired"
    each = [clustered.paired(s.a, s.b, s.prompts, is_rate(unit)) for s in pairs]
    lower = facts["better"] == "lower"
    for_a = sum(e.p < ALPHA and (e.difference < 0) == lower for e in each)
    for_b = sum(e.p < ALPHA for e in each) - for_a
    by_base = differences_by_base(name, a.line, b.line) if matched else {}
    between = compare_endpoint(name, a.line, b.line) if matched else None
    return Answer(
        role,
        facts,
        fmean(x["value"] for x, _ in known),
        fmean(y["value"] for _, y in known),
        len(pairs),
        (for_a, for_b),
        pool_pairs(pairs, is_rate(unit)) if pairs else None,
        _cohen(pairs, is_rate(unit)),
        why,
        between,
        _dz(by_base, between),
        tuple(d for ds in by_base.values() for d in ds),
        _spread(by_base, pairs, _by_judge(known)),
    )


def pool_pairs(pairs: Sequence[Scores], bounded: bool) -> Paired:
    """The difference of all pairs' checkpoints, as they are, on other images (or prompts).

    With the same images in every pair an image's value is its mean over the pairs. Otherwise (images in which a face was
    found) prompts are the units, with as many images as each pair has.
    """
    if all(s.keys == pairs[0].keys for s in pairs):
        a, b = (np.mean([getattr(s, side) for s in pairs], axis=0) for side in ("a", "b"))
        return clustered.paired(a, b, pairs[0].prompts, bounded)
    a, b = (np.concatenate([getattr(s, side) for s in pairs]) for side in ("a", "b"))
    prompts = [s.prompts for s in pairs if s.prompts is not None]
    return clustered.paired(
        a, b, np.concatenate(prompts) if len(prompts) == len(pairs) else None, bounded
    )


def _cohen(pairs: Sequence[Scores], rates: bool) -> float | None:
    """Cohen's h of the two mean rates, or Cohen's d: the difference over the images' pooled standard deviation."""
    if not pairs:
        return None
    a, b = (float(np.mean([getattr(s, side).mean() for s in pairs])) for side in ("a", "b"))
    if rates:
        return 2 * float(
            np.arcsin(np.sqrt(np.clip(a, 0, 1))) - np.arcsin(np.sqrt(np.clip(b, 0, 1)))
        )
    spread = float(np.mean([(s.a.var(ddof=1) + s.b.var(ddof=1)) / 2 for s in pairs])) ** 0.5
    return (a - b) / spread if spread > 0 else None


def _dz(by_base: Mapping[int, Sequence[float]], found: Comparison | None) -> float | None:
    """The mean difference over its standard deviation between the units: base models or, of one base, runs."""
    if found is None or found.low is None:
        return None
    units = (
        [fmean(v) for v in by_base.values()] if len(by_base) > 1 else next(iter(by_base.values()))
    )
    spread = float(np.std(units, ddof=1))
    return found.difference / spread if spread > 0 else None


def _by_judge(rows: Sequence[tuple[Row, Row]]) -> dict[str, float]:
    """Each judge's own difference, the mean over the runs; judges that all runs have."""
    sides = [[{j["judge"]: j["value"] for j in m["judges"] or []} for m in pair] for pair in rows]
    names = [n for n in sides[0][0] if all(n in side for pair in sides for side in pair)]
    return {n: fmean(x[n] - y[n] for x, y in sides) for n in names}


def _spread(
    by_base: Mapping[int, Sequence[float]], pairs: Sequence[Scores], judges: Mapping[str, float]
) -> Spread:
    """The components that these runs can tell apart."""
    base = seed = both = None
    values = [list(v) for v in by_base.values()]
    if sum(len(v) > 1 for v in values) > 1:
        base, seed = components(by_base)
    elif len(values) > 1 and all(len(v) == 1 for v in values):
        both = float(np.std([v[0] for v in values], ddof=1))
    elif len(values) == 1 and len(values[0]) > 1:
        seed = float(np.std(values[0], ddof=1))
    shared_part, alone = _of_images(pairs)
    if seed is not None and alone is not None:
        seed = max(0.0, seed**2 - alone) ** 0.5
    images = None if shared_part is None or alone is None else (shared_part + alone) ** 0.5
    return Spread(base, seed, images, both, judges)


def _of_images(pairs: Sequence[Scores]) -> tuple[float | None, float | None]:
    """`statistics.sampling` of the pairs' differences, over images or prompts; None where these are not the same ones."""
    if not pairs or any(s.keys != pairs[0].keys for s in pairs):
        return None, None
    table = np.stack([s.a - s.b for s in pairs])
    if pairs[0].prompts is not None:
        number = np.unique(pairs[0].prompts, return_inverse=True)[1]
        if 1 < number.max() + 1 < table.shape[1]:
            table = np.stack(
                [np.bincount(number, weights=row) / np.bincount(number) for row in table]
            )
    return sampling(table)
