"""Does a small board predict Stable Diffusion? Rank correlations with what was published, beside dumb predictors."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import kendalltau

from sa_bench.analysis.board import Line, seconds_spent
from sa_bench.analysis.published import load_numbers
from sa_bench.analysis.ranking import make_boards
from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.registry import list_entries
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import ResultRow

FEWEST = 4  # methods in common, below which no correlation is computed
FEWEST_RESAMPLED = 8
"""Methods in common, below which there is no interval: resampled, so few give intervals that collapse or miss."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Target:
    """A published measurement that a small board may predict, and what may predict it."""

    metric: str
    """As the published numbers name it."""
    title: str
    predictors: tuple[str, ...]
    """Metrics of the small board of which more should mean more; the first is the one that was named beforehand."""
    sign: int = 1
    """-1 where less of the published value means more of what the predictors measure."""


TARGETS = (
    Target(
        "attack_success[UnlearnDiffAtk]",
        "what the prompt attack UnlearnDiffAtk brings back",
        (
            "prompt_attack",
            "ring_a_bell",
            "recovery",
            "relearn",
            "resurgence",
            "stress",
            "probe_inversion",
            "forget_top1",
        ),
    ),
    Target("attack_success[none]", "what is still shown", ("forget_top1", "paraphrase_rate")),
    Target("inception_fid", "FID of the rest", ("kid", "denoising_loss", "retain_drift")),
    Target(
        "clip_score",
        "CLIP score of the rest, the lower the more",
        ("kid", "denoising_loss", "retain_drift"),
        sign=-1,
    ),
)
PREDICTORS = tuple(dict.fromkeys(name for target in TARGETS for name in target.predictors))
NULLS = {
    "weights_changed": "share of the weights that were changed",
    "distance": "how far the weights were moved",
    "seconds": "CPU time of forgetting",
    "year": "year of the method's paper",
}
"""Dumb predictors, which know nothing of what a model draws."""


@dataclass(frozen=True)
class Correlation:
    """Kendall's τ of a predictor's order of methods with a published one."""

    tau: float
    p: float
    """Probability of a |τ| so large if the two orders had nothing to do with each other; exact without ties."""
    low: float | None
    """95 % interval by resampling methods and bases; None with fewer than `FEWEST_RESAMPLED`."""
    high: float | None
    methods: tuple[str, ...]


def published_columns(metric: str) -> dict[str, dict[str, float]]:
    """Read a published metric by task and method."""
    columns: dict[str, dict[str, float]] = {}
    for number in load_numbers():
        if number.metric == metric:
            columns.setdefault(number.task, {}).setdefault(number.method, number.value)
    return columns


def format_predictors(rows: Sequence[ResultRow], task: str) -> str:
    """Format the predictors of a board's methods as CSV, a line for each run, as `read_predictor` reads them.

    References and controls are no methods and are left out. Of a method with several rows that of the most runs
    counts, then that whose label comes first.

    Raises:
        SaBenchError: the results hold no method on this task.
    """
    lines: dict[str, Line] = {}
    boards = [board for board in make_boards(rows) if board.task == task]
    every_line = [line for board in boards for line in board.lines if line.standing == "method"]
    for line in sorted(every_line, key=lambda line: (-len(line.cells), line.label)):
        if line.cells:
            lines.setdefault(line.method, line)
    if not lines:
        known = ", ".join(sorted({board.task for board in make_boards(rows)})) or "none"
        raise SaBenchError(f"these results hold no method on task {task!r}; their tasks: {known}")
    written = StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["method", "base", *PREDICTORS, *NULLS])
    for method, line in sorted(lines.items()):
        for cell in sorted(line.cells, key=lambda cell: (cell["base_seed"], cell["seed"])):
            values = [*_find_predictors(cell), *_find_nulls(cell, method)]
            texts = ["" if value is None else format(value, ".6g") for value in values]
            table.writerow([method, cell["base_seed"], *texts])
    return written.getvalue()


def _find_predictors(cell: ResultRow) -> list[float | None]:
    """Find the values of `PREDICTORS` of a run; None of one that was not measured."""
    found = {metric_of(m): m["value"] for m in cell["measurements"]}
    return [found.get(name) for name in PREDICTORS]


def _find_nulls(cell: ResultRow, method: str) -> list[float | None]:
    """Find the values of `NULLS` of a run, in their order; None of one that is not known."""
    changed = next((m for m in cell["measurements"] if metric_of(m) == "weights_changed"), None)
    return [
        None if changed is None else changed["value"],
        None if changed is None else (changed["extra"] or {}).get("distance"),
        seconds_spent(cell["cost"].get("forget", {})),
        find_year(method),
    ]


def find_year(method: str) -> int | None:
    """Find the year in which a method was published, as its first line names it; None if it names none."""
    summary = next((x.summary for x in list_entries("method") if x.name == method), "")
    found = re.search(r"\b20[0-2]\d\b", summary)
    return None if found is None else int(found[0])


def describe_correlations(file: Path) -> list[str]:
    """Describe τ of every predictor with every published concept, a table in Markdown for each of `TARGETS`.

    The last row of a table is what the published concepts reach among themselves.

    Raises:
        SaBenchError: the file cannot be read, lacks a column, or has too few methods in common with what was published.
    """
    names = (*PREDICTORS, *NULLS)
    predictors = {name: read_predictor(file, name) for name in names}
    methods = {method for values in predictors.values() for method in values}
    text = []
    for target in TARGETS:
        columns = published_columns(target.metric)
        tasks = [task for task in columns if len(methods & set(columns[task])) >= FEWEST]
        if not tasks:
            continue
        heads = [f"{task} ({len(methods & set(columns[task]))} methods)" for task in tasks]
        text += ["", f"Kendall's τ with {target.title}:", "", f"| | {' | '.join(heads)} |"]
        text += ["|" + "---|" * (1 + len(tasks))]
        for name in (*target.predictors, *NULLS):
            cells = [
                _describe_correlation(correlate(predictors[name], columns[task], target.sign))
                for task in tasks
            ]
            text += [f"| {NULLS.get(name, f'`{name}`')} | {' | '.join(cells)} |"]
        text += [
            f"| another concept of Stable Diffusion | {' | '.join(_ceilings(columns, tasks))} |"
        ]
    if not text:
        named = ", ".join(sorted(methods)) or "none"
        raise SaBenchError(
            f"no published table has {FEWEST} methods in common with {file}, whose methods are: {named}"
        )
    return text[1:]


def _ceilings(columns: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> list[str]:
    """Describe the mean τ of each task's published column with all others."""
    described = []
    for task in tasks:
        pairs = [{task: columns[task], x: columns[x]} for x in columns if x != task]
        taus = [tau for pair in pairs for tau in find_ceiling(pair)]
        described.append(f"{fmean(taus):.2f}" if taus else "–")
    return described


def _describe_correlation(found: Correlation | None) -> str:
    """Describe it as `0.41 (-0.20 to 0.86), p = 0.12`; "–" where there is none, as with a constant predictor."""
    if found is None:
        return "–"
    interval = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.tau:.2f}{interval}, p = {found.p:.2f}"


def read_predictor(file: Path, name: str) -> dict[str, list[float]]:
    """Read the values of one predictor, of each base model in turn, by method.

    Args:
        file: CSV with the columns method, base, and one for each predictor.
        name: of its column.

    Raises:
        SaBenchError: the file cannot be read, lacks the column, or holds what is no number.
    """
    values: dict[str, list[float]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                if row[name]:
                    values.setdefault(row["method"], []).append(float(row[name]))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SaBenchError(f"cannot read {file}: {first_line(error)}") from None
    except KeyError:
        raise SaBenchError(
            f"{file} has no column {name!r}; `correlate FILE RUN` writes one"
        ) from None
    return values


def correlate(
    predictor: Mapping[str, Sequence[float]], published: Mapping[str, float], sign: int = 1
) -> Correlation | None:
    """Compute Kendall's τ-b over the methods that both have; None with fewer than `FEWEST` or without differences.

    Args:
        predictor: values of each base model, by method; their mean gives the order.
        published: one value a method.
        sign: -1 turns the published order around.
    """
    methods = tuple(sorted(set(predictor) & set(published)))
    if len(methods) < FEWEST:
        return None
    theirs = sign * np.array([published[name] for name in methods])
    found = kendalltau([fmean(predictor[name]) for name in methods], theirs)
    tau, p = float(found.statistic), float(found.pvalue)
    if np.isnan(tau):
        return None
    if len(methods) < FEWEST_RESAMPLED:
        return Correlation(tau, p, None, None, methods)
    rng, taus = np.random.default_rng(0), []
    most_bases = max(len(predictor[name]) for name in methods)
    for _ in range(RESAMPLES):
        rows, bases = rng.integers(len(methods), size=len(methods)), rng.random(most_bases)
        drawn = [_mean_over(predictor[methods[i]], bases) for i in rows]
        if len(set(rows.tolist())) > 2:
            taus.append(_tau(np.array(drawn), theirs[rows]))
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return Correlation(tau, p, float(low), float(high), methods)


def _mean_over(values: Sequence[float], drawn: np.ndarray) -> float:
    """Average the values of drawn base models; `drawn` holds their places in [0, 1), for every method."""
    return fmean(values[int(place * len(values))] for place in drawn[: len(values)])


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Kendall's τ-b; NaN where either side is constant."""
    return float(kendalltau(a, b).statistic)


def find_ceiling(columns: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Compute τ between every two published concepts: what a perfect small model could reach."""
    taus = []
    for a, b in combinations(columns.values(), 2):
        methods = sorted(set(a) & set(b))
        if len(methods) >= FEWEST:
            taus.append(_tau(*(np.array([side[m] for m in methods]) for side in (a, b))))
    return taus
