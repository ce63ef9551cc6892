"""What metrics report beside their value: the small tables of `extra` as rows for people. No torch.

Unknown keys are not shown: curves and grids have their own places, and a stranger's metric may put
anything there. Nor is what a judge, a data set or the guard adds, the same in every row: their
cards show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sa_bench.analysis.board import Board
from sa_bench.results.format import format_number, format_unit
from sa_bench.results.rows import metric_of

SAME, COUNT = "the metric's", "count"  # units: that of the metric's value; a whole number

# key, or metric.key where a key means several things -> words, unit
KNOWN: dict[str, tuple[str, str | None]] = {
    "families": ("prompts", "rate"),
    "by_class": ("class", SAME),
    "worst": ("worst class", SAME),
    "rates": ("probe", "rate"),
    "grey": ("the judges on constant grey", SAME),
    "shares": ("share of the base", "rate"),
    "elbo": ("ELBO", SAME),
    "own_encoder": ("with the model's own encoder", SAME),
    "gap": ("above the ELBO", SAME),
    "deep": ("K = 5000", SAME),
    "infinity": ("at infinitely many images", SAME),
    "guidance_curve.curve": ("at", None),
    "forget": ("images of c_f", SAME),
    "concept": ("cosine to c_f's name", None),
    "anchor": ("cosine to the anchor", None),
    "prompts_cut": ("prompts cut", COUNT),
    "blank": ("blank images", COUNT),
    "several": ("images with several faces", COUNT),
    "at": ("at threshold", COUNT),
    "blank_as_exposed": ("blank images counted as exposed", "rate"),
    "threshold": ("threshold", None),
    "exposed_prompts": ("prompts with any exposed image", COUNT),
    "prompts_asked": ("prompts asked", COUNT),
    "given_face": ("images with a face", "probability"),
    "all_images": ("all images, 0 without a face", "probability"),
    "top1_given_face": ("top-1, images with a face", "rate"),
    "celebrity_score.others": ("still recognised", "probability"),
    "identity_similarity.others": ("of others", COUNT),
    "accepted": ("above the threshold", "rate"),
    "probability": ("probability", "probability"),
    "auc_references": ("a reference lies above an image", "rate"),
    "references": ("references", SAME),
    "held_out": ("probability, held out", "probability"),
    "no_face": ("no face", "rate"),
    "surrogate": ("images of the surrogate", SAME),
    "base_loss": ("the base model's own loss", SAME),
    "as_is": ("as it is, nothing put back", SAME),
    "reverse": ("its condition put into the base model", SAME),
    "parts": ("the base model's layers put into it", SAME),
    "reverse_parts": ("its layers put into the base model", SAME),
    "recovery.best": ("at the best point", SAME),
    "unadaptive": ("unadaptive attack", SAME),
    "adaptive": ("adaptive attack", SAME),
    "dose": ("dose of one fit", COUNT),
    "recovery_excess.again": ("images by the fitted words", SAME),
    "recovery_excess.grid": ("start/rate/steps", SAME),
}
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


def extra_numbers(m: Mapping[str, Any], classes: Sequence[str] = ()) -> list[Fact]:
    """List the known numbers of a measurement's `extra`, in its order; `classes` names the classes."""
    facts = []
    for key, value in (m.get("extra") or {}).items():
        metric_key = f"{metric_of(m)}.{key}"
        if metric_key in KNOWN or key in KNOWN:
            words, unit = KNOWN.get(metric_key) or KNOWN[key]
            named = _name_numbers(key, value, classes)
            for name, number, number_unit, n in _list_numbers(named, unit):
                shown_unit = m["unit"] if number_unit == SAME else number_unit
                facts.append(Fact(key, words, name, number, shown_unit, n))
    return facts


def describe_extra(m: Mapping[str, Any], key: str, classes: Sequence[str] = ()) -> str:
    """Describe the known numbers under one key of `extra`: `prompts: synonym 1.0 % (n = 40), …`.

    Returns:
        "" if there are none.
    """
    facts = [fact for fact in extra_numbers(m, classes) if fact.key == key]
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
    for i, line in enumerate(board.lines):
        for cell in line.cells:
            for m in cell["measurements"]:
                for fact in extra_numbers(m, cell["task_values"]["classes"]):
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


def _name_numbers(key: str, value: Any, classes: Sequence[str]) -> Any:
    """Turn the value of a key into numbers by name."""
    if key == "by_class" and isinstance(value, Mapping):
        class_names = {str(i): name for i, name in enumerate(classes)}
        return {class_names.get(str(k), str(k)): v for k, v in value.items()}
    if key == "shares" and isinstance(value, Mapping):  # (share, upper bound, value, base's, where)
        return {k: v[0] for k, v in value.items() if isinstance(v, Sequence) and v}
    if key == "dose" and isinstance(value, Mapping):
        dose_words = {"steps": "steps", "batch": "images a step", "samples": "images in all"}
        return {words: value[k] for k, words in dose_words.items() if k in value}
    if key == "curve" and isinstance(value, Sequence):
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
