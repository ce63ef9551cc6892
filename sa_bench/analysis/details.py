"""What metrics report beside their value: the small tables of `extra` as rows for people. No torch.

Each metric declares the words of its own (`Metric.extras`), which are read from its source. Other
keys are not shown: curves and grids have their own places, and a stranger's metric may put anything
there. Nor is what a judge, a data set or the guard adds, the same in every row: their
cards show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sa_bench.analysis.board import Board
from sa_bench.contracts import Extra
from sa_bench.core.declarations import list_extras
from sa_bench.results.format import format_number, format_unit
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import Measurement, ResultRow

SAME, COUNT = "the metric's", "count"  # units: that of the metric's value; a whole number
FURTHER = {  # further numbers of an entry: key -> words, unit
    "std": ("standard deviation", SAME),
    "accepted": ("above the threshold", "rate"),
    "value_at_50": ("at K = 50", SAME),
}


class Fact(NamedTuple):
    """One number beside a value."""

    key: str  # of `extra`
    words: str
    name: str  # name within the key's table; "" for a single number
    value: float
    unit: str | None
    n: int | None = None  # number of images

    @property
    def label(self) -> str:
        """Description of the number."""
        return f"{self.words}: {self.name}" if self.name else self.words

    @property
    def measure(self) -> str:
        """Unit to print behind the number or its label; rates include their % themselves."""
        return "" if self.unit == COUNT else format_unit(self.unit).strip()

    def text(self) -> str:
        """Format the number without its unit."""
        if self.unit == COUNT:
            return f"{self.value:,.1f}".removesuffix(".0")
        return format_number(self.value, self.unit)


class Row(NamedTuple):
    """One kind of fact for every line of a board."""

    metric: str
    label: str
    cells: tuple[tuple[str, str], ...]  # (number, small print) per line; "" where the line lacks it


def find_extras(m: Measurement, row: ResultRow | None = None) -> Mapping[str, Extra]:
    """Find what a measurement's metric declares to stand beside its value, by key of `extra`.

    A plug-in that this process does not know is read from the file that our own `row` names.
    """
    return list_extras(metric_of(m), _file_of(m, row))


def _file_of(m: Measurement, row: ResultRow | None) -> str:
    """Return the file of a plug-in metric that our own `row` names; "" for any other metric."""
    if row is None or row.get("origin"):  # a bundle names files of other machines
        return ""
    code = (row["provenance"].get("plug_ins") or {}).get(f"metric {metric_of(m)}") or {}
    return str(code.get("path") or "")


def extra_numbers(
    m: Measurement, row: ResultRow | None = None, extras: Mapping[str, Extra] | None = None
) -> list[Fact]:
    """List the declared numbers of a measurement's `extra`, in its order.

    `row` is the result that it stands in, whose task names the classes. `extras` is what `find_extras`
    finds, where it is known.
    """
    facts, extras = [], find_extras(m, row) if extras is None else extras
    classes = row["task_values"]["classes"] if row is not None else ()
    for key, value in (m.get("extra") or {}).items():
        if key in extras:
            words, unit, form = extras[key]
            named = _name_numbers(form, value, classes)
            for name, number, number_unit, n in _list_numbers(named, unit):
                shown_unit = m["unit"] if number_unit == SAME else number_unit
                facts.append(Fact(key, words, name, number, shown_unit, n))
    return facts


def describe_extra(m: Measurement, key: str, row: ResultRow | None = None) -> str:
    """Describe the declared numbers under one key of `extra`: `prompts: synonym 1.0 % (n = 40), …`.

    Returns:
        "" if there are none.
    """
    facts = [fact for fact in extra_numbers(m, row) if fact.key == key]
    texts = [
        " ".join(filter(None, (f.name, f.text(), f.measure)))
        + (f" (n = {f.n:,})" if f.n is not None else "")
        for f in facts
    ]
    return f"{facts[0].words}: {', '.join(texts)}" if facts else ""


def details_table(board: Board) -> list[Row]:
    """Tabulate every fact of a board by line: means over the runs that have it, the smallest n."""
    facts: dict[tuple[str, str], dict[int, list[Fact]]] = {}
    runs = [len(line.cells) for line in board.lines]
    known: dict[tuple[str, str], Mapping[str, Extra]] = {}  # thousands of rows name a few metrics
    for i, line in enumerate(board.lines):
        for cell in line.cells:
            for m in cell["measurements"]:
                key = metric_of(m), _file_of(m, cell)
                if key not in known:
                    known[key] = list_extras(*key)
                for fact in extra_numbers(m, cell, known[key]):
                    label = fact.label + (f" ({fact.measure})" if fact.measure else "")
                    facts.setdefault((m["name"], label), {}).setdefault(i, []).append(fact)
    return [
        Row(*key, tuple(_summarise(by_line.get(i, []), n) for i, n in enumerate(runs)))
        for key, by_line in facts.items()
    ]


def _summarise(facts: Sequence[Fact], runs: int) -> tuple[str, str]:
    """Summarise one fact over the runs of a line: (mean, small print); empty without facts."""
    if not facts:
        return "", ""
    counts = [fact.n for fact in facts if fact.n is not None]
    small_print = [f"n = {min(counts):,}"] if counts else []
    if len(facts) < runs:
        small_print.append(f"{len(facts)} of {runs} runs")
    mean = facts[0]._replace(value=fmean(fact.value for fact in facts))
    return mean.text(), "; ".join(small_print)


def _name_numbers(form: str, value: Any, classes: Sequence[str]) -> Any:
    """Turn a value of this form (`Extra.form`) into numbers by name."""
    if form == "classes" and isinstance(value, Mapping):
        class_names = {str(i): name for i, name in enumerate(classes)}
        return {class_names.get(str(k), str(k)): v for k, v in value.items()}
    if form == "firsts" and isinstance(
        value, Mapping
    ):  # (share, upper bound, value, base's, where)
        pairs = {k: v[:2] for k, v in value.items() if isinstance(v, Sequence) and len(v) > 1}
        return {k: v[0] for k, v in pairs.items()} | {
            f"{k}, at most": v[1] for k, v in pairs.items()
        }
    if form == "dose" and isinstance(value, Mapping):
        dose_words = {"steps": "steps", "batch": "images a step", "samples": "images in all"}
        return {words: value[k] for k, words in dose_words.items() if k in value}
    if form == "points" and isinstance(value, Sequence):
        points = [p for p in value if isinstance(p, Mapping) and "w" in p]
        return {f"w = {p['w']}": {k: v for k, v in p.items() if k != "w"} for p in points}
    return value


def _list_numbers(
    value: Any, unit: str | None
) -> Iterator[tuple[str, float, str | None, int | None]]:
    """Yield (name, number, unit, n) of a number, of an entry with one number, or of a table of those."""
    if _is_number(value):
        yield "", value, unit, None
    if not isinstance(value, Mapping):
        return
    main = next((k for k in ("value", "mean") if k in value), None)
    if main is None and "n" in value:  # an entry of nothing: n = 0
        return
    if main is None:
        for name, entry in value.items():
            for inner_name, number, number_unit, n in _list_numbers(entry, unit):
                yield f"{name}, {inner_name}" if inner_name else str(name), number, number_unit, n
    elif _is_number(value[main]):
        n = next((value[k] for k in ("n", "faces") if isinstance(value.get(k), int)), None)
        yield "", value[main], value.get("unit", unit), n
        for key, (words, number_unit) in FURTHER.items():
            if _is_number(value.get(key)):
                yield words, value[key], unit if number_unit == SAME else number_unit, n


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
