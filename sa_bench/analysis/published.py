"""Numbers and claims published elsewhere, and what our results say of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.pairwise import FEWEST, Comparison, compare_endpoint, format_difference_of
from sa_bench.contracts import flatten, key_values
from sa_bench.core import registry
from sa_bench.core.fields import resolve_fields
from sa_bench.core.registry import component_folder
from sa_bench.results.format import format_number
from sa_bench.results.rows import metric_of

FEWEST_RUNS = 3  # runs, and judges


@dataclass(frozen=True)
class Published:
    """One published number. Task and method may be ones that this suite lacks where ours never stands beside it."""

    task: str
    method: str
    fields: Mapping[str, float | str]  # of the method, where the publication states them
    metric: str
    value: float
    n: int  # 0: not stated
    margin: (
        float  # half-width of our interval above which nothing can be said; declared before looking
    )
    source: str
    protocol: str
    never: str = ""  # why no measurement of ours can be compared, where that is so
    overrides: Mapping[str, float | str] = field(default_factory=dict)
    """Of the task: another base model."""


@lru_cache(maxsize=1)
def load_numbers() -> tuple[Published, ...]:
    """All published numbers: the rows of tasks/published/*.csv but claims.csv."""
    found = []
    for path in sorted((component_folder("task") / "published").glob("*.csv")):
        if path.name == "claims.csv":  # orderings, not numbers: sa_bench.analysis.published
            continue
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                method, fields = parse_setting(f"{row['method']} {row['fields']}")
                overrides = {
                    k.removeprefix("task."): v for k, v in fields.items() if k.startswith("task.")
                }
                fields = {k: v for k, v in fields.items() if not k.startswith("task.")}
                found.append(
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
    return tuple(found)


def parse_setting(text: str) -> tuple[str, dict[str, float | str]]:
    """A method and its fields: `sa lam=10` is ("sa", {"lam": 10.0})."""
    method, *pairs = text.split(" ")
    return method, {
        k: _published_value(v) for k, _, v in (pair.partition("=") for pair in pairs if pair)
    }


def _published_value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def find_published(row: Mapping[str, Any], metric: str) -> Published | None:
    """What was published for a result's task, method, fields and metric, if it can be what can be compared; else None."""
    found = [entry for entry in load_numbers() if entry.metric == metric and is_of(entry, row)]
    return min(found, key=lambda entry: bool(entry.never), default=None)


def is_of(entry: Published, row: Mapping[str, Any]) -> bool:
    """Whether a result is of the published number's task, method and fields; another concept or panel is another task."""
    changed = {
        k: _published_value(str(v))
        for k, v in row["overrides"].items()
        if k not in ("n_forget", "sample_seed")
    }  # as they were typed
    same = (row["task"], row["method"], changed) == (
        entry.task,
        entry.method,
        dict(entry.overrides),
    )
    return same and all(row["fields"].get(k) == v for k, v in entry.fields.items())


NO_JUDGE = ""


def values_by_judge(measurement: Mapping[str, Any]) -> dict[str, float]:
    """Judge to value; a metric that needs none (FID) has one value, under `NO_JUDGE`."""
    return {j["judge"]: j["value"] for j in measurement["judges"] or []} or {
        NO_JUDGE: measurement["value"]
    }


def prediction_interval(values: np.ndarray) -> tuple[float, float]:
    """(mean, half-width) of the 95 % prediction interval for one new run and one new judge.

    Args:
        values: (runs, judges), each a run's value by one judge; at least 2 x 2, or (runs, 1) where none judges.

    Two-way random effects by the method of moments; Student's t with min(runs, judges) − 1 degrees. Without
    judges the runs alone, with runs − 1.
    """
    from scipy import stats

    runs, judges = values.shape
    mean = float(values.mean())
    if judges == 1:
        spread = float(values.std(ddof=1)) * (1 + 1 / runs) ** 0.5
        return mean, float(stats.t.ppf(0.975, runs - 1)) * spread
    rows, columns = values.mean(1), values.mean(0)
    rest = values - rows[:, None] - columns[None] + mean
    noise = float((rest**2).sum()) / ((runs - 1) * (judges - 1))
    of_runs = max(0.0, float(rows.var(ddof=1)) - noise / judges)
    of_judges = max(0.0, float(columns.var(ddof=1)) - noise / runs)
    variance = (
        of_runs * (1 + 1 / runs) + of_judges * (1 + 1 / judges) + noise * (1 + 1 / (runs * judges))
    )
    return mean, float(stats.t.ppf(0.975, min(runs, judges) - 1)) * variance**0.5


def find_departures(entry: Published, row: Mapping[str, Any]) -> list[str]:
    """In what a result at scale `paper` was not made as the published number was: its method's fields, images, prompts.

    A field that the result lacks came after it and counts as its default.
    """
    task = registry.get_task(entry.task)
    task = replace(task, presets=task.scales.get("paper", {}).get("presets", task.presets))
    wanted = flatten(key_values(resolve_fields(entry.method, task, "paper", {})))
    had = flatten(key_values(asdict(registry.get_method(entry.method)()))) | flatten(
        key_values(row["fields"])
    )
    found = [
        f"{k}={v} instead of {wanted.get(k, 'a field that this version lacks')}"
        for k, v in had.items()
        if k not in entry.fields and v != wanted.get(k)
    ]
    n = task.scales.get("paper", {}).get("n_forget", task.n_forget)
    if row["task_values"]["n_forget"] != n:
        found.append(f"n_forget={row['task_values']['n_forget']} instead of {n}")
    if (training := row["overrides"].get("train_precision", "fp32")) != "fp32":
        found.append(f"train_precision={training} instead of fp32")
    used = (row["task_values"].get("prompts") or {}).get("files", {})
    files = {} if task.prompts is None else task.prompts.files
    own = [name for role, name in files.items() if used.get(role, "").partition("@")[0] != name]
    return found + ([f"our own prompts instead of {', '.join(own)}"] if own else [])


def verdict_on(row: Mapping[str, Any], measurement: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say what one result's measurement tells of the number published for it.

    Returns:
        As `verdict`; None if nothing was published for it, or it has no value.
    """
    entry = find_published(row, metric_of(measurement))
    if entry is None or measurement["value"] is None:
        return None
    return verdict_of_runs(entry, row, [values_by_judge(measurement)])


def verdict_of_runs(
    entry: Published, row: Mapping[str, Any], by_run: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """`consistent`, `differs`, `inconclusive ...` or `not comparable: why`, with the numbers behind it.

    Args:
        entry: what was published.
        row: one of the runs' results; they share scale, fields and protocol.
        by_run: for each run, judge name to value.
    """
    scale = row["scale"]
    facts: dict[str, Any] = {"published": entry.value, "source": entry.source, "n": entry.n}
    facts |= {"margin": entry.margin, "runs": len(by_run)}
    if entry.never:
        return facts | {"verdict": f"not comparable: {entry.never}"}
    if scale != "paper":
        return facts | {
            "verdict": f"not comparable: scale {scale} is not the published protocol ({entry.protocol})"
        }
    if other := find_departures(entry, row):
        return facts | {"verdict": f"not comparable: {', '.join(other)}"}
    names = sorted(set.intersection(*(set(r) for r in by_run))) if by_run else []
    facts["judges"] = len(names)
    unjudged = names == [NO_JUDGE]
    if len(by_run) < FEWEST_RUNS or (len(names) < FEWEST_RUNS and not unjudged):
        if unjudged:
            return facts | {
                "verdict": f"inconclusive ({len(by_run)} run(s); {FEWEST_RUNS} are needed)"
            }
        return facts | {
            "verdict": f"inconclusive ({len(by_run)} run(s) and {len(names)} judge(s) of the published recipe; "
            f"{FEWEST_RUNS} of each are needed)"
        }
    mean, half = prediction_interval(np.array([[r[name] for name in names] for r in by_run]))
    facts |= {"mean": mean, "low": mean - half, "high": mean + half}
    if half > entry.margin:
        return facts | {
            "verdict": f"inconclusive (too noisy: ± {half:.3g} against a margin of {entry.margin:g})"
        }
    inside = mean - half <= entry.value <= mean + half
    return facts | {"verdict": "consistent" if inside else "differs"}


pass

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
    """A claim and what the board says of it."""

    claim: Claim
    verdict: str  # `holds`, `reversed`, `cannot be told`
    evidence: str


@lru_cache(maxsize=1)
def load_claims() -> tuple[Claim, ...]:
    """Every claim."""
    path = component_folder("task") / "published" / "claims.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(Claim(**row) for row in csv.DictReader(file))


def claim_verdicts(board: Board) -> list[Verdict]:
    """What `board` says of every claim about its task; nothing at scale `quick` or with a task's field overridden."""
    if any(cell["overrides"] for line in board.lines for cell in line.cells):
        return []  # another concept or surrogate is another experiment
    found = []
    for claim in load_claims() if board.scale != "quick" else ():
        if claim.task != board.task:
            continue
        for left in _lines(board, claim.left):
            name = _measured(left, claim.metric)
            if left.known(name) is None:
                continue
            if claim.relation != "better":
                found.append(Verdict(claim, *_threshold(claim, left, name)))
            for right in _lines(board, claim.right):
                row = compare_endpoint(name, left, right)
                if row is not None:
                    found.append(Verdict(claim, *_ordering(row)))
    return found


def _lines(board: Board, asked: str) -> list[Line]:
    """A method's lines, with the fields asked for, of the most runs: of a tuned and a default row, the one studied."""
    method, fields = parse_setting(asked)
    lines = [
        line
        for line in board.lines
        if line.method == method
        and line.cells
        and fields.items() <= line.cells[0]["fields"].items()
    ]
    lines = [
        line for line in lines if not line.origin
    ] or lines  # strangers' only where there are none of ours
    most = max((len(line.cells) for line in lines), default=0)
    return [line for line in lines if len(line.cells) == most]


def _ordering(row: Comparison) -> tuple[str, str]:
    sign = -1 if row.better == "lower" else 1
    text = f"{row.a} − {row.b}: {format_difference_of(row)}"
    if row.low is None or row.high is None:
        few = f"{row.runs} shared runs, {FEWEST} are needed"
        same = f"in all {row.runs} runs alike, and a spread that was not seen is not none"
        return "cannot be told", f"{text}; {few if row.runs < FEWEST else same}"
    text += f", {row.runs} runs on {row.bases} base model(s)"
    if row.low <= 0 <= row.high:
        return "cannot be told", text
    return ("holds" if sign * row.difference > 0 else "reversed"), text


def _measured(line: Line, metric: str) -> str:
    """What a metric's measurement is called: `inception_kid` is measured as `kid[inception-v3-compat]`."""
    rows = (m for cell in line.cells for m in cell["measurements"])
    return next((m["name"] for m in rows if metric_of(m) == metric), metric)


def _threshold(claim: Claim, line: Line, name: str) -> tuple[str, str]:
    found, limit = line.endpoints[name], float(claim.right)
    low, high = found.bounds
    text = f"{line.label}: {format_number(found.value, found.unit)}, for another base and seed "
    text += f"{format_number(low, found.unit)} to {format_number(high, found.unit)}"
    text += f", against {format_number(limit, found.unit)}"
    above, below = low > limit, high < limit
    if len(found.points) < FEWEST or not (above or below):
        return "cannot be told", text
    return ("holds" if above == (claim.relation == "above") else "reversed"), text
