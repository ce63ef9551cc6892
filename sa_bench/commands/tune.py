"""Choice of settings: from a declared space, by a declared objective, on concepts not reported.

Objective: forget as much as can be had for non-inferior retention. A try passes if c_f is forgotten on
every concept it was tried on (the upper bound of each run at most the gate; that of a board holds for another base
and seed too and is wider). Of the tries that keep the rest within a margin
(of the point estimates) of the best that passes, the one with the lowest rate of c_f wins; of those whose
rate cannot be told from it (95 % intervals over all images overlap), the one that keeps most. Where no
try of a method passes, its nearest is named: of those that leave less than half of c_f, the one that keeps most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from sa_bench.analysis.board import seconds_spent
from sa_bench.contracts import flatten
from sa_bench.core.counts import describe_count
from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import escape_markdown
from sa_bench.results.format import format_percent
from sa_bench.results.rows import code_of, metric_of
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.statistics import wilson

MARGINS = {"nats": 0.5, "bits/dim": 0.02, "mean squared error": 0.0005}
"""Unit of the retention endpoint to the margin of non-inferiority; 0 for other units."""
MOST = 12  # largest number of tries of a method for which every draw of k is enumerated


@dataclass(frozen=True)
class Try:
    """One setting of one method on one task, over all concepts and seeds that it was tried on."""

    task: str
    method: str
    fields: Mapping[str, Any]
    setting: str  # the fields in which it differs from the method's other settings
    concepts: tuple[str, ...]
    forget: float  # mean over cells of the forgetting endpoint
    bounds: tuple[float, float]  # its 95 % interval, all images together
    passes: bool
    keep: float  # mean over cells of the retention endpoint, larger is better
    seconds: float  # of forgetting: of CPU, on another device of wall time
    runs: int
    unit: str | None  # of `keep`


def collect_tries(results: Sequence[ResultRow]) -> list[Try]:
    """Collect every setting in `results`.

    Raises:
        SaBenchError: a result failed, an endpoint is missing, two results differ in more than
            concept, seed and setting, or not all settings of a method were tried on the same
            concepts and seeds, so that its gaps would decide the search.
    """
    groups: dict[tuple[str, str, str], dict[str, ResultRow]] = {}
    protocols: dict[str, tuple[str, ResultRow]] = {}
    for row in sorted(results, key=lambda row: row.get("task_values", {}).get("concept", 0)):
        if row["status"] != "done":
            raise SaBenchError(
                f"{row.get('folder') or row['cell']}: this run failed ({row['error']}); a search needs all of its tries."
            )
        if row["standing"] != "method":
            continue
        first = protocols.setdefault(row["task"], (_protocol_key(row), row))
        if first[0] != _protocol_key(row):
            one, two = (r.get("folder") or r["cell"] for r in (row, first[1]))
            raise SaBenchError(
                f"{one} and {two} differ in scale or in a field of the task besides the concept; "
                "give the folders of one search."
            )
        concept_and_seeds = json.dumps([row["concept"], row["base_seed"], row["seed"]])
        method = row["method"] + (f" code {code[:8]}" if (code := code_of(row)) else "")
        groups.setdefault((row["task"], method, _to_key(row["fields"])), {})[concept_and_seeds] = (
            row
        )
    if not groups:
        raise SaBenchError(
            "No method's runs are among these results: a search compares settings of methods."
        )
    tries = []
    for (task, method, _), rows in groups.items():
        siblings = [other_rows for key, other_rows in groups.items() if key[:2] == (task, method)]
        if len({frozenset(s) for s in siblings}) > 1:
            raise SaBenchError(
                f"{task}, {method}: {_describe_gap(siblings)}. A search tries every setting on the same concepts, bases "
                "and seeds; where a run was stopped, the same command goes on. A finished board is no search."
            )
        tries.append(
            _make_try(task, method, list(rows.values()), [next(iter(s.values())) for s in siblings])
        )
    return sorted(
        tries,
        key=lambda t: (
            t.task,
            t.method,
            *(v for v in t.fields.values() if type(v) in (int, float)),
        ),
    )


def _describe_gap(siblings: Sequence[Mapping[str, ResultRow]]) -> str:
    """Describe the setting of the fewest runs: `lam=1.5 has 3 runs, others up to 9`."""
    fewest = min(siblings, key=len)
    fields = [flatten(next(iter(rows.values()))["fields"]) for rows in siblings]
    own = flatten(next(iter(fewest.values()))["fields"])
    differing = [k for k in own if any(other.get(k) != own[k] for other in fields)]
    setting = ", ".join(f"{k}={own[k]}" for k in differing) or "a setting"
    runs = f"{describe_count(len(fewest), 'run')}, others up to {max(map(len, siblings))}"
    return f"{setting} has {runs}, or on other concepts or seeds"


def _to_key(value: Any) -> str:
    """Turn a JSON value into a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)


def _protocol_key(row: ResultRow) -> str:
    """Return a key of all that the results of one search must have in common."""
    ignored = ("concept", "relabel_to", "metrics")
    return _to_key(
        [row["scale"], {k: v for k, v in row["task_values"].items() if k not in ignored}]
    )


def _make_try(
    task: str, method: str, rows: Sequence[ResultRow], siblings: Sequence[ResultRow]
) -> Try:
    """Make the try of one setting from its results; `siblings` are one result per setting."""
    fields, others = flatten(rows[0]["fields"]), [flatten(s["fields"]) for s in siblings]
    differing = [k for k in fields if any(other.get(k) != fields[k] for other in others)]
    forget, keep = (_primary_measurements(rows, i) for i in (0, 2))
    sign = -1 if keep[0][1]["better"] == "lower" else 1
    values = rows[0]["task_values"]
    chance, n = (
        values.get("gate") or 1 / len(values["classes"]),
        sum(m["n"] or 0 for _, m in forget),
    )
    rate = sum(value * (m["n"] or 0) for value, m in forget) / n
    return Try(
        task,
        method,
        fields,
        ", ".join(f"{k}={str(fields[k]).removesuffix('.0')}" for k in differing) or "no setting",
        tuple(dict.fromkeys(r["concept"] for r in rows)),
        rate,
        wilson(rate * n, n),
        all(m["high"] is not None and m["high"] <= chance for _, m in forget),
        sign * fmean(value for value, _ in keep),
        sum(seconds_spent(r["cost"].get("forget", {})) or 0.0 for r in rows),
        len(rows),
        keep[0][1]["unit"],
    )


def _primary_measurements(rows: Sequence[ResultRow], which: int) -> list[tuple[float, Measurement]]:
    """Return value and measurement of primary endpoint number `which` (0 to 2) of every result."""
    measurements = []
    for row in rows:
        name = row["task_values"]["primary"][which]
        m = next((m for m in row["measurements"] if metric_of(m) == name), None)
        if m is None or m["value"] is None:
            raise SaBenchError(
                f"{row.get('folder', '')}: {name} was not measured; a search needs both endpoints."
            )
        measurements.append((m["value"], m))
    return measurements


def choose(options: Sequence[Try]) -> Try | None:
    """Choose the winner by the objective above; None if no try passes."""
    passing = [t for t in options if t.passes]
    if not passing:
        return None
    best = max(t.keep for t in passing)
    non_inferior = [t for t in passing if t.keep >= best - MARGINS.get(passing[0].unit or "", 0.0)]
    lowest = min(non_inferior, key=lambda t: t.forget)
    return max((t for t in non_inferior if t.bounds[0] <= lowest.bounds[1]), key=lambda t: t.keep)


def find_nearest(options: Sequence[Try]) -> Try | None:
    """Find, where no try passes, the one that keeps most of those that leave less than half of c_f; None if none does."""
    near = [t for t in options if t.forget < 0.5]
    return max(near, key=lambda t: t.keep, default=None)


def expected_best(options: Sequence[Try]) -> list[float | None]:
    """Compute, for k = 1 … n, the expected retention of the winner of k tries drawn from `options`.

    A draw in which no try passes has no winner. The mean is over the draws that have one; it is None
    if none has.
    """
    expected: list[float | None] = []
    for k in range(1, len(options) + 1):
        winners = [w for draw in combinations(options, k) if (w := choose(draw)) is not None]
        expected.append(fmean(w.keep for w in winners) if winners else None)
    return expected


def report(tries: Sequence[Try]) -> str:
    """Write in Markdown every try, each method's winner, the budget and the expected best of k."""
    unit = tries[0].unit or ""
    margin, digits = MARGINS.get(unit, 0.0), {"bits/dim": 4, "mean squared error": 5}.get(unit, 2)
    lines = [
        "# The search",
        "",
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()).replace(
            "a margin", f"{margin} {unit}"
        ),
        "",
    ]
    for task in dict.fromkeys(t.task for t in tries):
        task_tries = [t for t in tries if t.task == task]
        lines += [
            f"## {escape_markdown(task)}: tried on {escape_markdown(', '.join(task_tries[0].concepts))}",
            "",
        ]
        lines += [
            "| method | setting | still judged c_f | passes | retention | s to forget | |",
            "|" + " --- |" * 7,
        ]
        curves = []
        for method in dict.fromkeys(t.method for t in task_tries):
            options = [t for t in task_tries if t.method == method]
            winner = choose(options) if len(options) > 1 else None
            nearest = find_nearest(options) if len(options) > 1 and winner is None else None
            for t in options:
                mark = "**chosen**" if t is winner else "nearest" if t is nearest else ""
                passes, keep = "yes" if t.passes else "no", f"{t.keep:.{digits}f}"
                lines.append(
                    f"| {escape_markdown(method)} | {escape_markdown(t.setting)} | {format_percent(t.forget)} | "
                    f"{passes} | {keep} | {t.seconds:.0f} | {mark} |"
                )
            if 1 < len(options) <= MOST:
                best = [("–" if v is None else f"{v:.{digits}f}") for v in expected_best(options)]
                seconds = sum(t.seconds for t in options)
                curves.append(
                    f"| {escape_markdown(method)} | {len(options)} tries, {seconds:.0f} s | {' | '.join(best)} |"
                )
        if curves:
            columns = max(c.count("|") for c in curves) - 3
            head = f"| method | budget | {' | '.join(f'k = {k + 1}' for k in range(columns))} |"
            lines += [
                "",
                "Expected retention of the winner of k tries (over the draws in which one passes):",
                "",
                head,
                "|" + " --- |" * (columns + 2),
                *curves,
            ]
        lines.append("")
    return "\n".join(lines)
