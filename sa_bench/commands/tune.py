"""How settings are chosen: from a declared space, by a declared objective, on concepts that are not reported.

Objective: forget as much as can be had for non-inferior retention. A try passes if c_f is forgotten on
every concept it was tried on (upper bound at most chance). Of the tries that keep the rest within a margin
(of the point estimates) of the best that passes, the one with the lowest rate of c_f wins; of those whose
rate cannot be told from it (95 % intervals over all images overlap), the one that keeps most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from sa_bench.contracts import flatten
from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import escape_markdown
from sa_bench.results.format import format_percent
from sa_bench.results.rows import code_of, metric_of
from sa_bench.statistics import wilson

MARGINS = {
    "nats": 0.5,
    "bits/dim": 0.02,
    "mean squared error": 0.0005,
}  # by the retention endpoint's unit; of others, 0
MOST = 12  # tries of a method up to which every draw of k is enumerated


@dataclass(frozen=True)
class Try:
    """One setting of one method on one task, over all concepts and seeds that it was tried on."""

    task: str
    method: str
    fields: Mapping[str, Any]
    setting: str  # the fields in which it differs from its siblings
    concepts: tuple[str, ...]
    forget: float  # mean over cells of the forgetting endpoint
    bounds: tuple[float, float]  # its 95 % interval, all images together
    passes: bool
    keep: float  # mean over cells of the retention endpoint, larger is better
    seconds: float  # CPU, forgetting
    runs: int
    unit: str | None  # of `keep`


def collect_tries(results: Sequence[Mapping[str, Any]]) -> list[Try]:
    """Every setting in `results`.

    Raises:
        SaBenchError: a result failed, an endpoint is missing, two results differ in more than concept, seed and
            setting, or a setting was not tried on all that its siblings were: a search with holes chooses by them.
    """
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    protocols: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for row in sorted(results, key=lambda row: row.get("task_values", {}).get("concept", 0)):
        if row["status"] != "done":
            raise SaBenchError(
                f"{row['folder'] or row['cell']}: this run failed ({row['error']}); a search needs all of its tries."
            )
        if row["standing"] != "method":
            continue
        first = protocols.setdefault(row["task"], (_protocol(row), row))
        if first[0] != _protocol(row):
            one, two = (r["folder"] or r["cell"] for r in (row, first[1]))
            raise SaBenchError(
                f"{one} and {two} differ in scale or in a field of the task besides the concept; "
                "give the folders of one search."
            )
        where = json.dumps([row["concept"], row["base_seed"], row["seed"]])
        method = row["method"] + (f" code {code[:8]}" if (code := code_of(row)) else "")
        groups.setdefault((row["task"], method, _text(row["fields"])), {})[where] = row
    if not groups:
        raise SaBenchError(
            "No method's runs are in there: a search compares the settings of methods."
        )
    found = []
    for (task, method, _), rows in groups.items():
        siblings = [rows_ for key, rows_ in groups.items() if key[:2] == (task, method)]
        if len({frozenset(s) for s in siblings}) > 1:
            raise SaBenchError(
                f"{task}, {method}: not every setting was tried on the same concepts and seeds; finish the search first "
                "(the same `run` command goes on)."
            )
        found.append(
            _try(task, method, list(rows.values()), [next(iter(s.values())) for s in siblings])
        )
    return sorted(
        found,
        key=lambda t: (
            t.task,
            t.method,
            *(v for v in t.fields.values() if type(v) in (int, float)),
        ),
    )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _protocol(row: Mapping[str, Any]) -> str:
    """All that the results of one search must have in common."""
    apart = ("concept", "relabel_to", "metrics")
    return _text([row["scale"], {k: v for k, v in row["task_values"].items() if k not in apart}])


def _try(
    task: str, method: str, rows: Sequence[Mapping[str, Any]], siblings: Sequence[Mapping[str, Any]]
) -> Try:
    fields, others = flatten(rows[0]["fields"]), [flatten(s["fields"]) for s in siblings]
    differing = [k for k in fields if any(other.get(k) != fields[k] for other in others)]
    forget, keep = (_values(rows, i) for i in (0, 2))
    sign = -1 if keep[0]["better"] == "lower" else 1
    values = rows[0]["task_values"]
    chance, n = values.get("gate") or 1 / len(values["classes"]), sum(m["n"] for m in forget)
    rate = sum(m["value"] * m["n"] for m in forget) / n
    return Try(
        task,
        method,
        fields,
        ", ".join(f"{k}={str(fields[k]).removesuffix('.0')}" for k in differing) or "no setting",
        tuple(dict.fromkeys(r["concept"] for r in rows)),
        rate,
        wilson(rate * n, n),
        all(m["high"] <= chance for m in forget),
        sign * fmean(m["value"] for m in keep),
        sum(r["cost"].get("forget", {}).get("cpu_s", 0.0) for r in rows),
        len(rows),
        keep[0]["unit"],
    )


def _values(rows: Sequence[Mapping[str, Any]], which: int) -> list[Mapping[str, Any]]:
    found = []
    for row in rows:
        name = row["task_values"]["primary"][which]
        m = next((m for m in row["measurements"] if metric_of(m) == name), None)
        if m is None or m["value"] is None:
            raise SaBenchError(
                f"{row['folder']}: {name} was not measured; a search needs both endpoints."
            )
        found.append(m)
    return found


def choose(options: Sequence[Try]) -> Try | None:
    """The winner by the objective above; None if no try passes."""
    able = [t for t in options if t.passes]
    if not able:
        return None
    best = max(t.keep for t in able)
    near = [t for t in able if t.keep >= best - MARGINS.get(able[0].unit or "", 0.0)]
    lowest = min(near, key=lambda t: t.forget)
    return max((t for t in near if t.bounds[0] <= lowest.bounds[1]), key=lambda t: t.keep)


def expected_best(options: Sequence[Try]) -> list[float | None]:
    """For k = 1 … n: the retention to expect of the winner of k tries drawn at random from `options`.

    A draw in which no try passes has no winner; the mean is over the draws that have one, None if none has.
    """
    out: list[float | None] = []
    for k in range(1, len(options) + 1):
        winners = [w for draw in combinations(options, k) if (w := choose(draw)) is not None]
        out.append(fmean(w.keep for w in winners) if winners else None)
    return out


def report(found: Sequence[Try]) -> str:
    """Markdown: every try, the winner of each method, the budget and the expected best of k."""
    unit = found[0].unit or ""
    margin, digits = MARGINS.get(unit, 0.0), {"bits/dim": 4, "mean squared error": 5}.get(unit, 2)
    lines = [
        "# The search",
        "",
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()).replace(
            "a margin", f"{margin} {unit}"
        ),
        "",
    ]
    for task in dict.fromkeys(t.task for t in found):
        mine = [t for t in found if t.task == task]
        lines += [
            f"## {escape_markdown(task)}: tried on {escape_markdown(', '.join(mine[0].concepts))}",
            "",
        ]
        lines += [
            "| method | setting | still judged c_f | passes | retention | CPU s | |",
            "|" + " --- |" * 7,
        ]
        curves = []
        for method in dict.fromkeys(t.method for t in mine):
            options = [t for t in mine if t.method == method]
            winner = choose(options) if len(options) > 1 else None
            for t in options:
                mark = "**chosen**" if t is winner else ""
                passes, keep = "yes" if t.passes else "no", f"{t.keep:.{digits}f}"
                lines.append(
                    f"| {escape_markdown(method)} | {escape_markdown(t.setting)} | {format_percent(t.forget)} | "
                    f"{passes} | {keep} | {t.seconds:.0f} | {mark} |"
                )
            if 1 < len(options) <= MOST:
                best = [("–" if v is None else f"{v:.{digits}f}") for v in expected_best(options)]
                spent = sum(t.seconds for t in options)
                curves.append(
                    f"| {escape_markdown(method)} | {len(options)} tries, {spent:.0f} s | {' | '.join(best)} |"
                )
        if curves:
            wide = max(c.count("|") for c in curves) - 3
            head = f"| method | budget | {' | '.join(f'k = {k + 1}' for k in range(wide))} |"
            lines += [
                "",
                "Expected retention of the winner of k tries (over the draws in which one passes):",
                "",
                head,
                "|" + " --- |" * (wide + 2),
                *curves,
            ]
        lines.append("")
    return "\n".join(lines)
