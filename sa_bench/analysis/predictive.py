"""Does a small board predict Stable Diffusion? Rank correlations with what was published, beside dumb predictors."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from sa_bench.analysis.board import Line, seconds_spent
from sa_bench.analysis.published import load_numbers
from sa_bench.analysis.ranking import make_boards, too_many_boards
from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.registry import get_method, list_entries
from sa_bench.results.rows import metric_of, version_of
from sa_bench.results.schema import ResultRow
from sa_bench.statistics.rank_correlation import (
    average_bases,
    average_taus,
    compute_interval,
    compute_taus,
    list_orders,
    resample,
)

FEWEST = 4  # methods in common, below which no correlation is computed
FEWEST_RESAMPLED = 6
"""Methods in common, below which there is no interval, and no pair of published concepts counts."""


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
    more_is_less: tuple[str, ...] = ("weights_changed", "distance", "seconds", "year")
    """Of the dumb predictors those of which more should mean less."""

    def sign_of(self, name: str) -> int:
        """Return the sign that a predictor's order has to have against the published one."""
        return -self.sign if name in self.more_is_less else self.sign


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
    Target(
        "inception_fid",
        "FID of the rest",
        ("kid", "denoising_loss", "retain_drift"),
        more_is_less=("year",),
    ),
    Target(
        "clip_score",
        "CLIP score of the rest, the lower the more",
        ("kid", "denoising_loss", "retain_drift"),
        sign=-1,
        more_is_less=("year",),
    ),
)
PREDICTORS = tuple(dict.fromkeys(name for target in TARGETS for name in target.predictors))
NULLS = {
    "weights_changed": "share of weights changed",
    "distance": "how far weights moved",
    "seconds": "CPU time of forgetting",
    "year": "year of the citation",
}
"""Dumb predictors, which know nothing of what a model draws."""
COLUMNS = ("method", "row", "base", "collapsed")


@dataclass(frozen=True)
class Predictors:
    """What one predictor says of each method, over base models."""

    methods: tuple[str, ...]
    bases: tuple[str, ...]
    values: np.ndarray
    """(bases, methods)."""
    left_out: tuple[str, ...] = ()
    """Methods that lack a base model which others have."""

    def choose(self, methods: Sequence[str]) -> np.ndarray:
        """Return the values of some methods, (bases, methods)."""
        return self.values[:, [self.methods.index(name) for name in methods]]


@dataclass(frozen=True)
class Correlation:
    """Kendall's τ-b of a predictor's order of methods with published ones, a mean over published concepts."""

    taus: dict[str, float]
    """By concept; those without differences are left out."""
    methods: tuple[str, ...]
    """Of any of these concepts."""
    p: float
    """One-sided: how often a τ at least so high comes about when the methods' names are shuffled on the small board."""
    low: float | None
    """95 % interval by resampling methods and base models; None with fewer than `FEWEST_RESAMPLED` methods."""
    high: float | None

    @property
    def tau(self) -> float:
        """The mean over concepts."""
        return fmean(self.taus.values())


def published_columns(metric: str) -> dict[str, dict[str, float]]:
    """Read a published metric by task and method; of methods alone, not of single settings of one."""
    columns: dict[str, dict[str, float]] = {}
    for number in load_numbers():
        if number.metric == metric and not number.fields:
            columns.setdefault(number.task, {}).setdefault(number.method, number.value)
    return columns


# ---- the file of predictors


def format_predictors(rows: Sequence[ResultRow], task: str, chosen_rows: Sequence[str] = ()) -> str:
    """Format the predictors of a board's methods as CSV, a line for each base model, as `read_predictor` reads them.

    References, controls and what came in bundles are left out. Of a method with several rows that of its newest version
    counts whose settings are the method's own where the rows differ.

    Args:
        rows: results.
        task: the board's.
        chosen_rows: names of rows, as boards print them, for methods of which none or several are such.

    Raises:
        SaBenchError: the results hold no method on this task, several boards of it, or rows among which nothing decides.
    """
    boards = [board for board in make_boards(rows) if board.task == task]
    if len(boards) > 1:
        raise too_many_boards(boards, "Predictors are of one board")
    by_method: dict[str, list[Line]] = {}
    for line in boards[0].lines if boards else ():
        if line.standing == "method" and line.cells and not line.origin:
            by_method.setdefault(line.method, []).append(line)
    if not by_method:
        known = ", ".join(sorted({row["task"] for row in rows})) or "none"
        raise SaBenchError(f"these results hold no method on task {task!r}; their tasks: {known}")
    labels = [line.label for lines in by_method.values() for line in lines]
    if unknown := [name for name in chosen_rows if name not in labels]:
        raise SaBenchError(f"no row is named {unknown[0]!r}; these are: {'; '.join(labels)}")
    written = StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow([*COLUMNS, *PREDICTORS, *NULLS])
    for method, line in _choose_lines(by_method, chosen_rows).items():
        for base in sorted({cell["base_seed"] for cell in line.cells}):
            cells = [cell for cell in line.cells if cell["base_seed"] == base]
            values = [_average(name, cells) for name in PREDICTORS]
            nulls = _find_nulls(cells, method)
            texts = ["" if value is None else repr(value) for value in (*values, *nulls)]
            collapsed = "yes" if line.collapsed else "no"
            table.writerow([method, line.label, base, collapsed, *texts])
    return written.getvalue()


def _choose_lines(
    by_method: Mapping[str, Sequence[Line]], chosen_rows: Sequence[str]
) -> dict[str, Line]:
    """Choose the row that speaks for each method."""
    chosen, open_choices = {}, []
    for method, lines in sorted(by_method.items()):
        candidates = _find_candidates(lines, chosen_rows)
        chosen[method] = candidates[0]
        if len(candidates) > 1:
            open_choices.append(f"{method} ({'; '.join(line.label for line in candidates)})")
    if open_choices:
        raise SaBenchError(
            "say with --row which row speaks for each of these, of which none or several have the method's "
            f"own settings: {', '.join(open_choices)}"
        )
    return chosen


def _find_candidates(lines: Sequence[Line], chosen_rows: Sequence[str]) -> Sequence[Line]:
    """Find the rows of one method that may speak for it: those that were named, else the newest with its own settings."""
    if named := [line for line in lines if line.label in chosen_rows]:
        return named
    newest = max(version_of(line.cells[0]) or 0 for line in lines)
    lines = [line for line in lines if (version_of(line.cells[0]) or 0) == newest]
    if len(lines) == 1:
        return lines
    defaults = vars(get_method(lines[0].method)())
    fields = [line.cells[0]["fields"] for line in lines]
    differing = [k for k in fields[0] if any(other.get(k) != fields[0][k] for other in fields)]
    own = [
        line
        for line in lines
        if all(line.cells[0]["fields"].get(k) == defaults.get(k) for k in differing)
    ]
    return own if len(own) == 1 else lines


def _average(name: str, cells: Sequence[ResultRow]) -> float | None:
    """Average a metric over the runs of one base model; None where it was not measured in each."""
    found = [m["value"] for cell in cells for m in cell["measurements"] if metric_of(m) == name]
    return _mean_of_all(found, len(cells))


def _mean_of_all(values: Sequence[float | None], n: int) -> float | None:
    """Average n values; None if there are fewer."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == n else None


def _find_nulls(cells: Sequence[ResultRow], method: str) -> list[float | None]:
    """Find the values of `NULLS` of one base model's runs, in their order; None of one that is not known."""
    changed = [
        m for cell in cells for m in cell["measurements"] if metric_of(m) == "weights_changed"
    ]
    distances = [(m["extra"] or {}).get("distance") for m in changed]
    seconds = [seconds_spent(cell["cost"].get("forget", {})) for cell in cells]
    return [
        _average("weights_changed", cells),
        _mean_of_all(distances, len(cells)),
        _mean_of_all(seconds, len(cells)),
        find_year(method),
    ]


def find_year(method: str) -> int | None:
    """Find the year under which a method is cited, as its first line names it; None if it names none."""
    summary = next((x.summary for x in list_entries("method") if x.name == method), "")
    found = re.search(r"\b20[0-2]\d\b", summary)
    return None if found is None else int(found[0])


def read_predictor(file: Path, name: str, with_collapsed: bool = True) -> Predictors:
    """Read what one predictor says of each method.

    Args:
        file: CSV with the columns method, base, and one for each predictor.
        name: of its column.
        with_collapsed: False leaves out methods whose rows collapsed.

    Raises:
        SaBenchError: the file cannot be read, lacks the column, or holds what is no finite number.
    """
    by_method: dict[str, dict[str, float]] = {}
    try:
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                if row[name] and (with_collapsed or row["collapsed"] != "yes"):
                    value = float(row[name])
                    if not math.isfinite(value):
                        raise ValueError(f"{name} of {row['method']} is {row[name]}")
                    by_method.setdefault(row["method"], {})[row["base"]] = value
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SaBenchError(f"cannot read {file}: {first_line(error)}") from None
    except KeyError as error:
        raise SaBenchError(
            f"{file} has no column {error.args[0]!r}; `correlate FILE RUN` writes one"
        ) from None
    bases = sorted({base for values in by_method.values() for base in values})
    methods = sorted(name for name, values in by_method.items() if len(values) == len(bases))
    values = np.array([[by_method[name][base] for name in methods] for base in bases])
    left_out = sorted(set(by_method) - set(methods))
    return Predictors(tuple(methods), tuple(bases), values, tuple(left_out))


# ---- Kendall's τ


def correlate(
    predictor: Predictors, columns: Mapping[str, Mapping[str, float]], sign: int = 1
) -> Correlation | None:
    """Compute Kendall's τ-b with published columns that share at least `FEWEST` methods; None if there is none.

    Args:
        predictor: its mean over base models gives the order of the methods.
        columns: published values by concept and method.
        sign: -1 turns the published orders around.
    """
    methods, published = _join(predictor.methods, columns, sign)
    if not published:
        return None
    order = average_bases(predictor.choose(methods)[None])
    taus = {name: float(average_taus(order, {name: y})[0]) for name, y in published.items()}
    taus = {name: tau for name, tau in taus.items() if not math.isnan(tau)}
    if not taus:
        return None
    published = {name: published[name] for name in taus}
    shuffled = average_taus(order[0][list_orders(len(methods))], published)
    reached = float(np.mean(shuffled >= fmean(taus.values()) - 1e-9))
    low = high = None
    if len(methods) >= FEWEST_RESAMPLED:
        drawn, weights = resample([predictor.choose(methods)])
        low, high = compute_interval(average_taus(drawn[0], published, weights))
    return Correlation(taus, methods, reached, low, high)


def difference(
    predictor: Predictors,
    null: Predictors,
    columns: Mapping[str, Mapping[str, float]],
    signs: tuple[int, int],
) -> tuple[float, float, float] | None:
    """Compute how much higher a predictor's mean τ is than a null's, on the methods of both, with its 95 % interval.

    Args:
        predictor: with the same base models as `null`.
        null: a dumb predictor.
        columns: published values by concept and method.
        signs: of the predictor, and of the null.

    Returns:
        None with fewer than `FEWEST_RESAMPLED` methods, other base models, or one side constant.
    """
    both = tuple(name for name in predictor.methods if name in null.methods)
    methods, published = _join(both, columns, 1)
    if len(methods) < FEWEST_RESAMPLED or predictor.bases != null.bases:
        return None
    sides = [predictor.choose(methods) * signs[0], null.choose(methods) * signs[1]]
    here = [float(average_taus(average_bases(side[None]), published)[0]) for side in sides]
    if not np.isfinite(here).all():
        return None
    drawn, weights = resample(sides)
    apart = average_taus(drawn[0], published, weights) - average_taus(drawn[1], published, weights)
    return (here[0] - here[1], *compute_interval(apart))


def _join(
    methods: Sequence[str], columns: Mapping[str, Mapping[str, float]], sign: int
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Join methods with the published columns that share at least `FEWEST` of them."""
    shared = {
        concept: values
        for concept, values in columns.items()
        if len(set(methods) & set(values)) >= FEWEST
    }
    joined = tuple(sorted({name for values in shared.values() for name in values} & set(methods)))
    return joined, {
        concept: sign * np.array([values.get(name, math.nan) for name in joined])
        for concept, values in shared.items()
    }


def find_ceiling(
    columns: Mapping[str, Mapping[str, float]], methods: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Compute τ-b of every two published concepts over those of these methods that both have.

    Only pairs with at least `FEWEST_RESAMPLED` such methods count.
    """
    taus = {}
    for a, b in combinations(columns, 2):
        shared = sorted(set(columns[a]) & set(columns[b]) & set(methods))
        if len(shared) >= FEWEST_RESAMPLED:
            x, y = (np.array([columns[side][name] for name in shared]) for side in (a, b))
            tau = float(compute_taus(x[None], y)[0])
            if not math.isnan(tau):
                taus[a, b] = tau
    return taus


# ---- the page


def describe_correlations(file: Path) -> list[str]:
    """Describe how well predictors agree with what was published, in Markdown, by each of `TARGETS`.

    Raises:
        SaBenchError: the file cannot be read, lacks a column, or has too few methods in common with what was published.
    """
    predictors = {name: read_predictor(file, name) for name in (*PREDICTORS, *NULLS)}
    text: list[str] = []
    for target in TARGETS:
        text += _describe_target(file, target, predictors)
    if not text:
        named = ", ".join(sorted({m for p in predictors.values() for m in p.methods})) or "none"
        raise SaBenchError(
            f"no published table has {FEWEST} methods in common with {file}, whose methods are: {named}"
        )
    dropped = {m: None for p in predictors.values() for m in p.left_out}
    if dropped:
        text += ["", f"Left out where a base model is missing: {', '.join(dropped)}."]
    return text[1:]


def _describe_target(file: Path, target: Target, predictors: Mapping[str, Predictors]) -> list[str]:
    """Describe one published measurement: by concept, by predictor, and beside the dumb ones."""
    columns = published_columns(target.metric)
    found = {
        name: correlate(predictors[name], columns, target.sign_of(name))
        for name in (*target.predictors, *NULLS)
    }
    if all(correlation is None for correlation in found.values()):
        return []
    main = target.predictors[0]
    text = ["", f"### {target.title[0].upper()}{target.title[1:]}", ""]
    if (named := found[main]) is not None:
        text += _describe_concepts(main, predictors[main], columns, target.sign, named)
        text += [""]
    text += ["| predictor | methods | mean τ | lowest | highest | p |", "|---|---|---|---|---|---|"]
    for name, correlation in found.items():
        turned = ", reversed" if name in target.more_is_less else ""
        title = f"{NULLS[name]}{turned}" if name in NULLS else f"`{name}`"
        text += [f"| {title} | {_describe_row(correlation)} |"]
    text += [""]
    for null in NULLS:
        signs = (target.sign, target.sign_of(null))
        apart = difference(predictors[main], predictors[null], columns, signs)
        if apart is not None:
            text += [
                f"- `{main}` less {NULLS[null]}: {apart[0]:.2f} ({apart[1]:.2f} to {apart[2]:.2f})"
            ]
    without = read_predictor(file, main, with_collapsed=False)
    if len(without.methods) < len(predictors[main].methods):
        rest = correlate(without, columns, target.sign)
        text += [f"- `{main}` without collapsed rows: {_describe_tau(rest)}"]
    return text


def _describe_concepts(
    name: str,
    predictor: Predictors,
    columns: Mapping[str, Mapping[str, float]],
    sign: int,
    found: Correlation,
) -> list[str]:
    """Describe a predictor's τ with each concept, beside what other concepts reach, and their mean."""
    ceiling = find_ceiling({k: columns[k] for k in found.taus}, found.methods)
    text = ["| concept | methods | τ | 95 % | p | another concept |", "|---|---|---|---|---|---|"]
    for concept in found.taus:
        alone = correlate(predictor, {concept: columns[concept]}, sign)
        others = [tau for pair, tau in ceiling.items() if concept in pair]
        reached = f"{fmean(others):.2f} ({len(others)})" if others else "–"
        if alone is not None:
            interval = _describe_interval(alone)
            text += [
                f"| {concept} | {len(alone.methods)} | {alone.tau:.2f} | {interval} "
                f"| {_describe_p(alone.p)} | {reached} |"
            ]
    text += ["", f"`{name}`, mean over the concepts: {_describe_tau(found)}."]
    if ceiling:
        taus = list(ceiling.values())
        text += [
            f"Two published concepts: {fmean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f}; {len(taus)} pairs)."
        ]
    return text


def _describe_row(found: Correlation | None) -> str:
    """Describe a predictor's cells of the table: methods, mean τ, lowest, highest, p."""
    if found is None:
        return "– | – | – | – | –"
    low, high = min(found.taus.values()), max(found.taus.values())
    return (
        f"{len(found.methods)} | {found.tau:.2f} | {low:.2f} | {high:.2f} | {_describe_p(found.p)}"
    )


def _describe_tau(found: Correlation | None) -> str:
    """Describe it as `0.41 (-0.20 to 0.86), p = 0.12`; "–" where there is none."""
    if found is None:
        return "–"
    p = _describe_p(found.p)
    return (
        f"{found.tau:.2f} ({_describe_interval(found)}), p {p if p.startswith('<') else f'= {p}'}"
    )


def _describe_interval(found: Correlation) -> str:
    """Describe an interval; "–" where there is none."""
    return "–" if found.low is None else f"{found.low:.2f} to {found.high:.2f}"


def _describe_p(p: float) -> str:
    """Describe a probability, to two decimals."""
    return "< 0.01" if p < 0.01 else f"{p:.2f}"
