"""Numbers and claims published elsewhere, and what our results say of them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.pairwise import FEWEST, Comparison, compare_endpoint, format_difference_of
from sa_bench.contracts import flatten, key_values
from sa_bench.core import registry
from sa_bench.core.counts import describe_count
from sa_bench.core.fields import resolve_fields
from sa_bench.core.registry import component_folder
from sa_bench.results.format import format_number
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.statistics import ALPHA, holm, student

FEWEST_RUNS = 3  # below this number of runs, or of judges, a verdict is inconclusive


@dataclass(frozen=True)
class Published:
    """One published number; a number that is never compared may name a task or method unknown here."""

    task: str
    method: str
    fields: Mapping[str, float | str]  # of the method, where the publication states them
    metric: str
    value: float
    n: int  # number of images; 0 if the publication does not state it
    margin: float
    """Half-width of our interval above which the verdict is inconclusive; declared beforehand."""
    source: str
    protocol: str
    never: str = ""  # why no measurement of ours can be compared; "" if one can
    overrides: Mapping[str, float | str] = field(default_factory=dict)
    """Fields of the task that differ, such as another base model."""


@lru_cache(maxsize=1)
def load_numbers() -> tuple[Published, ...]:
    """Load all published numbers: the rows of tasks/published/*.csv except claims.csv."""
    numbers = []
    for path in sorted((component_folder("task") / "published").glob("*.csv")):
        if path.name == "claims.csv":  # orderings, not numbers: see `load_claims`
            continue
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                method, fields = parse_setting(f"{row['method']} {row['fields']}")
                overrides = {
                    k.removeprefix("task."): v for k, v in fields.items() if k.startswith("task.")
                }
                fields = {k: v for k, v in fields.items() if not k.startswith("task.")}
                numbers.append(
                    Published(
                        row["task"],
                        method,
                        fields,
                        row["metric"],
                        float(row["value"]),
                        int(row["n"]),
                        float(row["margin"]),
                        row["source"],
                        row["protocol"],
                        row.get("never") or "",
                        overrides,
                    )
                )
    return tuple(numbers)


@lru_cache(maxsize=1)
def _index_numbers() -> Mapping[tuple[str, str], list[Published]]:
    """Sort the published numbers by task and metric: a page asks for one of every measurement."""
    numbers: dict[tuple[str, str], list[Published]] = {}
    for number in load_numbers():
        numbers.setdefault((number.task, number.metric), []).append(number)
    return numbers


def parse_setting(setting: str) -> tuple[str, dict[str, float | str]]:
    """Parse a method and its fields: `sa lam=10` is ("sa", {"lam": 10.0})."""
    method, *pairs = setting.split(" ")
    return method, {
        k: _parse_value(v) for k, _, v in (pair.partition("=") for pair in pairs if pair)
    }


def _parse_value(text: str) -> float | str:
    """Parse a field's value: a number if it is one, else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def find_published(row: ResultRow, metric: str) -> Published | None:
    """Find the published number for a result's task, method, fields and metric.

    Returns:
        A number that can be compared, else one that never can, else None.
    """
    entries = [
        entry for entry in _index_numbers().get((row["task"], metric), ()) if is_of(entry, row)
    ]
    return min(entries, key=lambda entry: bool(entry.never), default=None)


def is_of(entry: Published, row: ResultRow) -> bool:
    """Tell whether a result has the published number's task, overrides, method and fields.

    Another concept or panel of judges is another task.
    """
    # results hold overrides as they were typed
    overrides = {
        k: _parse_value(str(v))
        for k, v in row["overrides"].items()
        if k not in ("n_forget", "sample_seed")
    }
    same_setting = (row["task"], row["method"], overrides) == (
        entry.task,
        entry.method,
        dict(entry.overrides),
    )
    return same_setting and all(row["fields"].get(k) == v for k, v in entry.fields.items())


NO_JUDGE = ""  # key of the value of a metric without judges


def values_by_judge(measurement: Measurement) -> dict[str, float]:
    """Map judges to their values; a metric without judges (FID) has one value, under `NO_JUDGE`."""
    if by_judge := {j["judge"]: j["value"] for j in measurement["judges"] or []}:
        return by_judge
    return {} if measurement["value"] is None else {NO_JUDGE: measurement["value"]}


def prediction_interval(values: np.ndarray) -> tuple[float, float]:
    """Compute (mean, half-width) of the 95 % prediction interval for one new run and one new judge.

    Two-way random effects by the method of moments; Student's t with min(runs, judges) − 1 degrees
    of freedom. Without judges only the runs vary, with runs − 1 degrees.

    Args:
        values: a run's value by one judge, shape (runs, judges), at least 2 x 2; without judges
            (runs, 1).
    """
    runs, judges = values.shape
    mean = float(values.mean())
    if judges == 1:
        spread = float(values.std(ddof=1)) * (1 + 1 / runs) ** 0.5
        return mean, student.compute_quantile(0.975, runs - 1) * spread
    run_means, judge_means = values.mean(1), values.mean(0)
    residuals = values - run_means[:, None] - judge_means[None] + mean
    noise = float((residuals**2).sum()) / ((runs - 1) * (judges - 1))
    run_variance = max(0.0, float(run_means.var(ddof=1)) - noise / judges)
    judge_variance = max(0.0, float(judge_means.var(ddof=1)) - noise / runs)
    variance = (
        run_variance * (1 + 1 / runs)
        + judge_variance * (1 + 1 / judges)
        + noise * (1 + 1 / (runs * judges))
    )
    return mean, student.compute_quantile(0.975, min(runs, judges) - 1) * variance**0.5


def find_departures(entry: Published, row: ResultRow) -> list[str]:
    """List how a result at scale `paper` departs from the published setting: fields, images, prompts.

    A field that the result lacks was added later and counts as its default.
    """
    task = registry.get_task(entry.task)
    task = replace(task, presets=task.scales.get("paper", {}).get("presets", task.presets))
    expected = flatten(key_values(resolve_fields(entry.method, task, "paper", {})))
    actual = flatten(key_values(asdict(registry.get_method(entry.method)()))) | flatten(
        key_values(row["fields"])
    )
    departures = [
        f"{k}={v} instead of {expected.get(k, 'a field that this version lacks')}"
        for k, v in actual.items()
        if k not in entry.fields and v != expected.get(k)
    ]
    n = task.scales.get("paper", {}).get("n_forget", task.n_forget)
    if row["task_values"]["n_forget"] != n:
        departures.append(f"n_forget={row['task_values']['n_forget']} instead of {n}")
    if (training := row["overrides"].get("train_precision", "fp32")) != "fp32":
        departures.append(f"train_precision={training} instead of fp32")
    used_files = (row["task_values"].get("prompts") or {}).get("files", {})
    expected_files = {} if task.prompts is None else task.prompts.files
    replaced_files = [
        name
        for role, name in expected_files.items()
        if used_files.get(role, "").partition("@")[0] != name
    ]
    return departures + (
        [f"our own prompts instead of {', '.join(replaced_files)}"] if replaced_files else []
    )


def verdict_on(row: ResultRow, measurement: Measurement) -> dict[str, Any] | None:
    """Judge one result's measurement against the number published for it.

    Returns:
        As `verdict_of_runs`; None if nothing was published for it, or it has no value.
    """
    entry = find_published(row, metric_of(measurement))
    if entry is None or measurement["value"] is None:
        return None
    return verdict_of_runs(entry, row, [values_by_judge(measurement)])


def verdict_of_runs(
    entry: Published, row: ResultRow, by_run: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Judge a published number by our runs, with the numbers behind the verdict.

    Args:
        entry: what was published.
        row: one of the runs' results; they share scale, fields and protocol.
        by_run: for each run, judge name to value.

    Returns:
        `verdict`: `consistent`, `differs`, `inconclusive ...` or `not comparable: why`. Beside it
        what was published, the number of runs and judges, and our interval.
    """
    scale = row["scale"]
    evidence: dict[str, Any] = {"published": entry.value, "source": entry.source, "n": entry.n}
    evidence |= {"margin": entry.margin, "runs": len(by_run)}
    if entry.never:
        return evidence | {"verdict": f"not comparable: {entry.never}"}
    if scale != "paper":
        return evidence | {
            "verdict": f"not comparable: scale {scale} is not the published protocol ({entry.protocol})"
        }
    if departures := find_departures(entry, row):
        return evidence | {"verdict": f"not comparable: {', '.join(departures)}"}
    judges = sorted(set.intersection(*(set(r) for r in by_run))) if by_run else []
    evidence["judges"] = len(judges)
    without_judges = judges == [NO_JUDGE]
    if len(by_run) < FEWEST_RUNS or (len(judges) < FEWEST_RUNS and not without_judges):
        if without_judges:
            return evidence | {
                "verdict": f"inconclusive ({describe_count(len(by_run), 'run')}; {FEWEST_RUNS} are needed)"
            }
        return evidence | {
            "verdict": f"inconclusive ({describe_count(len(by_run), 'run')} and "
            f"{describe_count(len(judges), 'judge')} of the published recipe; "
            f"{FEWEST_RUNS} of each are needed)"
        }
    mean, half_width = prediction_interval(
        np.array([[r[judge] for judge in judges] for r in by_run])
    )
    evidence |= {"mean": mean, "low": mean - half_width, "high": mean + half_width}
    if half_width > entry.margin:
        return evidence | {
            "verdict": f"inconclusive (too noisy: ± {half_width:.3g} against a margin of {entry.margin:g})"
        }
    consistent = mean - half_width <= entry.value <= mean + half_width
    return evidence | {"verdict": "consistent" if consistent else "differs"}


SAME_EXPERIMENT = ("train_precision", "recovery_judged")
"""Fields of a task of which another value leaves a claim about it as it is."""
RELATIONS = ("better", "above", "below")  # than another method; than a number


@dataclass(frozen=True)
class Claim:
    """One row of tasks/published/claims.csv."""

    task: str
    metric: str
    left: str  # a method, or one with fields: `sa lam=10`
    relation: str
    right: str  # the same, or a number
    claim: str
    source: str
    kind: str  # `stated` by the publication, or `implied` by its argument


@dataclass(frozen=True)
class Verdict:
    """A claim, and the verdict of a board on it."""

    claim: Claim
    verdict: str  # `holds`, `reversed`, `cannot be told`
    evidence: str


@lru_cache(maxsize=1)
def load_claims() -> tuple[Claim, ...]:
    """Load every claim of tasks/published/claims.csv."""
    path = component_folder("task") / "published" / "claims.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(Claim(**row) for row in csv.DictReader(file))


def claim_verdicts(board: Board) -> list[Verdict]:
    """Judge every claim about the board's task.

    At scale `quick`, or with a field of the task overridden that is not in `SAME_EXPERIMENT`, no claim is judged. An
    ordering holds or is reversed if the difference has p < .05, by Holm over all orderings that the board can judge.
    """
    changed = {name for line in board.lines for cell in line.cells for name in cell["overrides"]}
    if changed - set(SAME_EXPERIMENT):
        return []  # another concept or surrogate is another experiment
    thresholds, orderings = [], []
    for claim in load_claims() if board.scale != "quick" else ():
        if claim.task != board.task:
            continue
        for left in _lines_of(board, claim.left):
            name = _measurement_name(left, claim.metric)
            if left.known(name) is None:
                continue
            if claim.relation != "better":
                thresholds.append(Verdict(claim, *_judge_threshold(claim, left, name)))
            for right in _lines_of(board, claim.right):
                comparison = compare_endpoint(name, left, right)
                if comparison is not None:
                    orderings.append((claim, comparison))
    adjusted_p = holm([comparison.p for _, comparison in orderings])
    return thresholds + [
        Verdict(claim, *_judge_ordering(replace(comparison, p=p)))
        for (claim, comparison), p in zip(orderings, adjusted_p, strict=True)
    ]


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Count verdicts of each kind: `3 hold, 0 are reversed, 5 cannot be told`."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    held, turned, untold = (counts[word] for word in ("holds", "reversed", "cannot be told"))
    return (
        f"{held} {'holds' if held == 1 else 'hold'}, {turned} {'is' if turned == 1 else 'are'} reversed, "
        f"{untold} cannot be told"
    )


def _lines_of(board: Board, setting: str) -> list[Line]:
    """Find a method's lines with the fields of `setting` that have the most runs.

    Between a tuned and a default line the one that was studied more is meant. Lines from strangers'
    bundles count only where there is none of our own.
    """
    method, fields = parse_setting(setting)
    lines = [
        line
        for line in board.lines
        if line.method == method
        and line.cells
        and fields.items() <= line.cells[0]["fields"].items()
    ]
    lines = [line for line in lines if not line.origin] or lines
    most_runs = max((len(line.cells) for line in lines), default=0)
    return [line for line in lines if len(line.cells) == most_runs]


def _judge_ordering(comparison: Comparison) -> tuple[str, str]:
    """Judge a claim that one method is better than another: (verdict, evidence)."""
    sign = -1 if comparison.better == "lower" else 1
    text = f"{comparison.a} − {comparison.b}: {format_difference_of(comparison)}"
    if comparison.low is None or comparison.high is None:
        too_few = f"{comparison.runs} shared runs, {FEWEST} are needed"
        no_spread = (
            f"in all {comparison.runs} runs alike, and a spread that was not seen is not none"
        )
        return "cannot be told", f"{text}; {too_few if comparison.runs < FEWEST else no_spread}"
    text += f", {comparison.runs} runs on {describe_count(comparison.bases, 'base model')}"
    if comparison.p is not None:
        text += f", p = {comparison.p:.2g}"
    if comparison.p is None or comparison.p >= ALPHA:
        return "cannot be told", text
    return ("holds" if sign * comparison.difference > 0 else "reversed"), text


def _measurement_name(line: Line, metric: str) -> str:
    """Return the name of a metric's measurement: `kid[inception-v3-compat]` for `inception_kid`."""
    measurements = (m for cell in line.cells for m in cell["measurements"])
    return next((m["name"] for m in measurements if metric_of(m) == metric), metric)


def _judge_threshold(claim: Claim, line: Line, name: str) -> tuple[str, str]:
    """Judge a claim that a value lies above or below a number: (verdict, evidence)."""
    endpoint, limit = line.endpoints[name], float(claim.right)
    low, high = endpoint.bounds
    text = (
        f"{line.label}: {format_number(endpoint.value, endpoint.unit)}, for another base and seed "
    )
    text += f"{format_number(low, endpoint.unit)} to {format_number(high, endpoint.unit)}"
    text += f", against {format_number(limit, endpoint.unit)}"
    above, below = low > limit, high < limit
    if len(endpoint.points) < FEWEST or not (above or below):
        return "cannot be told", text
    return ("holds" if above == (claim.relation == "above") else "reversed"), text
