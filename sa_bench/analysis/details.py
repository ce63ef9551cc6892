"""What stands beside a metric's value: the small tables of `extra` as rows for people. No torch.

Keys that are not known here stay out of sight: curves and grids have their own places, and a stranger's metric may
put anything there. Nor are what a judge, a data set or the guard brings, the same in every row: their cards show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sa_bench.analysis.board import Board
from sa_bench.results.format import format_number, format_unit
from sa_bench.results.rows import metric_of

SAME, COUNT = "the metric's", "count"  # units: the one of the value itself; a whole number

KNOWN: dict[
    str, tuple[str, str | None]
] = {  # key, or metric.key where a key means several things -> words, unit
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
FURTHER = {  # beside the one number of an entry: key -> words, unit
    "std": ("standard deviation", SAME),
    "accepted": ("above the threshold", "rate"),
    "value_at_50": ("at K = 50", SAME),
}


class Fact(NamedTuple):
    """One number beside a value."""

    key: str  # of `extra`
    words: str
    name: str  # in the key's table; "" for a single number
    value: float
    unit: str | None
    n: int | None = None  # of how many images

    @property
    def label(self) -> str:
        """What the number is."""
        return f"{self.words}: {self.name}" if self.name else self.words

    @property
    def measure(self) -> str:
        """The unit to stand behind the number or its label; rates carry their % themselves."""
        return "" if self.unit == COUNT else format_unit(self.unit).strip()

    def text(self) -> str:
        """The number for people, without its unit."""
        return (
            f"{self.value:,.1f}".removesuffix(".0")
            if self.unit == COUNT
            else format_number(self.value, self.unit)
        )


class Row(NamedTuple):
    """One fact of every line of a board."""

    metric: str
    label: str
    cells: tuple[tuple[str, str], ...]  # (number, small print) a line; empty where it was not told


def extra_numbers(m: Mapping[str, Any], classes: Sequence[str] = ()) -> list[Fact]:
    """The known numbers of a measurement's `extra`, in its order; `classes` name the classes."""
    found = []
    for key, value in (m.get("extra") or {}).items():
        own = f"{metric_of(m)}.{key}"
        if own in KNOWN or key in KNOWN:
            words, kind = KNOWN.get(own) or KNOWN[key]
            for name, number, what, n in _numbers(_named(key, value, classes), kind):
                found.append(Fact(key, words, name, number, m["unit"] if what == SAME else what, n))
    return found


def describe_extra(m: Mapping[str, Any], key: str, classes: Sequence[str] = ()) -> str:
    """The known numbers under one key of a measurement's `extra`: `prompts: synonym 1.0 % (n = 40), …`; "": none."""
    found = [fact for fact in extra_numbers(m, classes) if fact.key == key]
    texts = [
        " ".join(filter(None, (f.name, f.text(), f.measure)))
        + (f" (n = {f.n:,})" if f.n is not None else "")
        for f in found
    ]
    return f"{found[0].words}: {', '.join(texts)}" if found else ""


def details_table(board: Board) -> list[Row]:
    """Every fact of a board by line: means over the runs that told it, the smallest n."""
    told: dict[tuple[str, str], dict[int, list[Fact]]] = {}
    runs = [len(line.cells) for line in board.lines]
    for i, line in enumerate(board.lines):
        for cell in line.cells:
            for m in cell["measurements"]:
                for fact in extra_numbers(m, cell["task_values"]["classes"]):
                    label = fact.label + (f" ({fact.measure})" if fact.measure else "")
                    told.setdefault((m["name"], label), {}).setdefault(i, []).append(fact)
    return [
        Row(*key, tuple(_together(by_line.get(i, []), n) for i, n in enumerate(runs)))
        for key, by_line in told.items()
    ]


def _together(found: Sequence[Fact], runs: int) -> tuple[str, str]:
    if not found:
        return "", ""
    counts = [fact.n for fact in found if fact.n is not None]
    small = [f"n = {min(counts):,}"] if counts else []
    if len(found) < runs:
        small.append(f"{len(found)} of {runs} runs")
    return found[0]._replace(value=fmean(fact.value for fact in found)).text(), "; ".join(small)


def _named(key: str, value: Any, classes: Sequence[str]) -> Any:
    """The value as numbers by name."""
    if key == "by_class" and isinstance(value, Mapping):
        known = {str(i): name for i, name in enumerate(classes)}
        return {known.get(str(k), str(k)): v for k, v in value.items()}
    if key == "shares" and isinstance(value, Mapping):  # (share, upper bound, value, base's, where)
        return {k: v[0] for k, v in value.items() if isinstance(v, Sequence) and v}
    if key == "dose" and isinstance(value, Mapping):
        told = {"steps": "steps", "batch": "images a step", "samples": "images in all"}
        return {words: value[k] for k, words in told.items() if k in value}
    if key == "curve" and isinstance(value, Sequence):
        points = [p for p in value if isinstance(p, Mapping) and "w" in p]
        return {f"w = {p['w']}": {k: v for k, v in p.items() if k != "w"} for p in points}
    return value


def _numbers(value: Any, kind: str | None) -> Iterator[tuple[str, float, str | None, int | None]]:
    """(name, number, unit, n) of a number, of an entry with one number and its n, or of all in a table of those."""
    if _is_number(value):
        yield "", value, kind, None
    if not isinstance(value, Mapping):
        return
    main = next((k for k in ("value", "mean") if k in value), None)
    if main is None and "n" in value:  # an entry of nothing: n = 0
        return
    if main is None:
        for name, part in value.items():
            for inner, number, what, n in _numbers(part, kind):
                yield f"{name}, {inner}" if inner else str(name), number, what, n
    elif _is_number(value[main]):
        n = next((value[k] for k in ("n", "faces") if isinstance(value.get(k), int)), None)
        yield "", value[main], value.get("unit", kind), n
        for key, (words, what) in FURTHER.items():
            if _is_number(value.get(key)):
                yield words, value[key], kind if what == SAME else what, n


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
