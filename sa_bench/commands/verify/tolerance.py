"""What a result says against what recomputation gives: tolerances, and intervals made again from stored scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from sa_bench.contracts import Measured
from sa_bench.results.rows import FIELDS, to_json
from sa_bench.statistics import clustered, wilson

if TYPE_CHECKING:
    import pandas as pd


HERE = 1e-9  # relative, on the machine and with the versions that a result was made with
ROUNDING = 1e-12  # absolute: differences of large numbers end here
ELSEWHERE = 1e-3  # relative, on others: networks round differently there
VOTES = 500  # elsewhere one image in so many, at least one, may be judged differently
WIDTH = 0.01  # elsewhere a value may move by this share of its interval's width

Difference = tuple[str, Any, Any]
"""(where, what is said, what is found)"""


def measurement_facts(measured: Measured) -> dict[str, Any]:
    """A measurement as result.json holds it, without its scores."""
    return json.loads(to_json({k: v for k, v in asdict(measured).items() if k in FIELDS}))


def first_difference(
    said: Any, found: Any, relative: float = HERE, slack: float = ROUNDING, where: str = ""
) -> Difference | None:
    """The first value in which two JSON values differ, numbers by more than `relative` of them and `slack`."""
    dot = f"{where}." if where else ""
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        keys = [*said, *(k for k in found if k not in said)]
        parts = ((f"{dot}{k}", said.get(k), found.get(k)) for k in keys)
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        parts = ((f"{dot}{i}", a, b) for i, (a, b) in enumerate(zip(said, found, strict=True)))
    elif _number(said) and _number(found):
        near = abs(said - found) <= relative * max(abs(said), abs(found)) + slack < math.inf
        return None if near else (where, said, found)
    else:
        return (where, said, found) if said != found else None
    return next((d for n, a, b in parts if (d := first_difference(a, b, relative, slack, n))), None)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def slack(m: Mapping[str, Any]) -> float:
    """How far a value made on another machine may lie from this one's, beside `ELSEWHERE`."""
    width = 0.0 if m["low"] is None or m["high"] is None else WIDTH * (m["high"] - m["low"])
    votes = max(1, m["n"] // VOTES) / m["n"] if m["unit"] == "rate" and m["n"] else 0.0
    return max(width, votes, ROUNDING)


def compare_measurement(
    m: Mapping[str, Any], found: Mapping[str, Any], here: bool
) -> Difference | None:
    """The first field of a result's measurement that recomputation does not confirm.

    On the machine that it was made on every field counts, elsewhere those that boards, tables and verdicts use.
    """
    if here:
        return first_difference({k: m[k] for k in FIELDS}, {k: found[k] for k in FIELDS})
    for name in ("interval", "n", "n_unit"):
        if m[name] != found[name]:
            return name, m[name], found[name]
    difference = next(
        (d for k in ("value", "low", "high") if (d := compare_number(k, m[k], found[k], m, here))),
        None,
    )
    difference = difference or first_difference(
        m["judges"], found["judges"], ELSEWHERE, slack(m), "judges"
    )
    return difference or _beside(m, found)


def _beside(m: Mapping[str, Any], found: Mapping[str, Any]) -> Difference | None:
    """The first number beside the value that another machine would not give; of a part of the images a vote is more."""
    mine, theirs = m["extra"] or {}, found["extra"] or {}
    for key in [*mine, *(k for k in theirs if k not in mine)]:
        value = mine.get(key)
        parts = max(1, len(value)) if isinstance(value, (Mapping, list)) else 1
        limit = max(1, (m["n"] or 0) // VOTES) if isinstance(value, int) else parts * slack(m)
        if difference := first_difference(value, theirs.get(key), ELSEWHERE, limit, f"extra.{key}"):
            return difference
    return None


def compare_number(
    name: str, said: float | None, found: float | None, m: Mapping[str, Any], here: bool
) -> Difference | None:
    """`(name, said, found)` if two values of the measurement `m` differ."""
    if here:
        return first_difference(said, found, where=name)
    return first_difference(said, found, ELSEWHERE, slack(m), name)


def compare_scores(said: pd.DataFrame, found: pd.DataFrame, here: bool) -> Difference | None:
    """The first row of a table of scores that recomputation does not confirm; older ones do not name the prompt."""
    if "prompt" in found and "prompt" not in said:
        found = found.drop(columns="prompt")
    if list(said.columns) != list(found.columns):
        return "columns of the scores", list(said.columns), list(found.columns)
    if len(said) != len(found):
        return "number of scores", len(said), len(found)
    for name in said.columns:
        a, b = (frame[name].to_numpy(float) for frame in (said, found))
        limit = ROUNDING + (HERE if here else ELSEWHERE) * np.maximum(
            np.abs(b), 0.0 if here else 1.0
        )
        off = np.flatnonzero(~((np.abs(a - b) <= limit) | (np.isnan(a) & np.isnan(b))))
        if len(off) > (0 if here else max(1, len(a) // VOTES)):
            return f"{name} of image {off[0]}", float(a[off[0]]), float(b[off[0]])
    return None


def over_scores(m: Mapping[str, Any]) -> bool:
    """Whether a measurement's interval, as it is called, is one over scores of images or prompts."""
    how = str(m["interval"])
    return how in ("wilson", "betting", "t") or how.startswith(
        ("wilson, Bonferroni(", "wilson, clustered", "t, clustered")
    )


def from_scores(m: Mapping[str, Any], frame: pd.DataFrame, classes: int) -> dict[str, Any] | None:
    """Value, bounds and n of a measurement, made again from its scores alone; None: they do not tell.

    FID and its kin have no score an image, and of some metrics the interval is not over the scores.
    """
    how = str(m["interval"])
    if "score" not in frame or not over_scores(m):
        return None
    score = frame["score"].to_numpy(float)
    prompts = frame["prompt"].to_numpy() if "prompt" in frame else None
    looks = how.partition("Bonferroni(")[2].rstrip(")")
    upper = math.log(classes) if m["unit"] == "nats" else 1.0
    if looks.isdigit() and len(score):
        low, high = wilson(float(score.sum()), len(score), comparisons=int(looks))
        found = Measured(float(score.mean()), low, high, n=len(score))
    elif how == "betting" or (
        how.startswith("wilson, clustered") and not set(np.unique(score)) <= {0.0, 1.0}
    ):
        found = clustered.bounded_mean(score, prompts, {}, upper)
    elif how == "wilson" or how.startswith("wilson, clustered"):
        found = clustered.rate(score, prompts, {})
    elif how == "t" or how.startswith("t, clustered"):
        found = clustered.mean(score, prompts, {})
    else:
        return None
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
