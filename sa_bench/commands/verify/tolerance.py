"""What a result says against what recomputation gives: tolerances, and intervals from stored scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from sa_bench.contracts import Measured
from sa_bench.results.rows import FIELDS, to_json
from sa_bench.results.schema import Measurement
from sa_bench.statistics import clustered

if TYPE_CHECKING:
    import pandas as pd


SAME_MACHINE = 1e-9  # relative tolerance, on the machine and versions that made the result
ROUNDING = 1e-12  # absolute tolerance: the rounding error of a difference of large numbers
OTHER_MACHINE = 1e-3  # relative tolerance elsewhere: networks round differently there
VOTES = 500  # elsewhere one image in this many, and at least one, may be judged differently
WIDTH = 0.01  # elsewhere a value may move by this share of its interval's width

Difference = tuple[str, Any, Any]
"""(where, claimed value, recomputed value)"""


def measurement_facts(measured: Measured) -> dict[str, Any]:
    """Return a measurement in the form that result.json has, without its scores."""
    return json.loads(to_json({k: v for k, v in asdict(measured).items() if k in FIELDS}))


def first_difference(
    claimed: Any,
    recomputed: Any,
    relative: float = SAME_MACHINE,
    slack: float = ROUNDING,
    where: str = "",
) -> Difference | None:
    """Find the first value in which two JSON values differ; None if they agree.

    Two numbers agree if they differ by at most `relative` times the larger one plus `slack`.
    """
    dot = f"{where}." if where else ""
    if isinstance(claimed, Mapping) and isinstance(recomputed, Mapping):
        keys = [*claimed, *(k for k in recomputed if k not in claimed)]
        pairs = ((f"{dot}{k}", claimed.get(k), recomputed.get(k)) for k in keys)
    elif (
        isinstance(claimed, list)
        and isinstance(recomputed, list)
        and len(claimed) == len(recomputed)
    ):
        pairs = (
            (f"{dot}{i}", a, b) for i, (a, b) in enumerate(zip(claimed, recomputed, strict=True))
        )
    elif _is_number(claimed) and _is_number(recomputed):
        close = (
            abs(claimed - recomputed)
            <= relative * max(abs(claimed), abs(recomputed)) + slack
            < math.inf
        )
        return None if close else (where, claimed, recomputed)
    else:
        return (where, claimed, recomputed) if claimed != recomputed else None
    return next((d for n, a, b in pairs if (d := first_difference(a, b, relative, slack, n))), None)


def _is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a JSON value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def slack(m: Measurement) -> float:
    """Absolute tolerance of a value from another machine, beside the relative `OTHER_MACHINE`."""
    width = 0.0 if m["low"] is None or m["high"] is None else WIDTH * (m["high"] - m["low"])
    votes = max(1, m["n"] // VOTES) / m["n"] if m["unit"] == "rate" and m["n"] else 0.0
    return max(width, votes, ROUNDING)


def compare_measurement(
    m: Measurement, recomputed: Mapping[str, Any], same_machine: bool
) -> Difference | None:
    """Find the first field of the measurement `m` that recomputation refutes; None if all agree.

    On the machine that made the result every field counts; elsewhere only those that boards, tables
    and verdicts use.
    """
    if same_machine:
        return first_difference({k: m[k] for k in FIELDS}, {k: recomputed[k] for k in FIELDS})
    for name in ("interval", "n", "n_unit"):
        if m[name] != recomputed[name]:
            return name, m[name], recomputed[name]
    difference = next(
        (
            d
            for k in ("value", "low", "high")
            if (d := compare_number(k, m[k], recomputed[k], m, same_machine))
        ),
        None,
    )
    difference = difference or first_difference(
        m["judges"], recomputed["judges"], OTHER_MACHINE, slack(m), "judges"
    )
    return difference or _compare_extra(m, recomputed)


def _compare_extra(m: Measurement, recomputed: Mapping[str, Any]) -> Difference | None:
    """Find the first number of `extra` that another machine would not give; None if there is none.

    A number over part of the images may differ by more: one vote is a larger share of them.
    """
    claimed_extra, recomputed_extra = m["extra"] or {}, recomputed["extra"] or {}
    for key in [*claimed_extra, *(k for k in recomputed_extra if k not in claimed_extra)]:
        value = claimed_extra.get(key)
        entries = max(1, len(value)) if isinstance(value, (Mapping, list)) else 1
        limit = max(1, (m["n"] or 0) // VOTES) if isinstance(value, int) else entries * slack(m)
        if difference := first_difference(
            value, recomputed_extra.get(key), OTHER_MACHINE, limit, f"extra.{key}"
        ):
            return difference
    return None


def compare_number(
    name: str,
    claimed: float | None,
    recomputed: float | None,
    m: Measurement,
    same_machine: bool,
) -> Difference | None:
    """Return `(name, claimed, recomputed)` if two values of the measurement `m` differ, else None."""
    if same_machine:
        return first_difference(claimed, recomputed, where=name)
    return first_difference(claimed, recomputed, OTHER_MACHINE, slack(m), name)


def compare_scores(
    claimed: pd.DataFrame, recomputed: pd.DataFrame, same_machine: bool
) -> Difference | None:
    """Find the first row of a table of scores that recomputation does not confirm; None if all agree.

    Tables of older results have no column `prompt`; it is then not compared.
    """
    if "prompt" in recomputed and "prompt" not in claimed:
        recomputed = recomputed.drop(columns="prompt")
    if list(claimed.columns) != list(recomputed.columns):
        return "columns of the scores", list(claimed.columns), list(recomputed.columns)
    if len(claimed) != len(recomputed):
        return "number of scores", len(claimed), len(recomputed)
    for name in claimed.columns:
        a, b = (frame[name].to_numpy(float) for frame in (claimed, recomputed))
        limit = ROUNDING + (SAME_MACHINE if same_machine else OTHER_MACHINE) * np.maximum(
            np.abs(b), 0.0 if same_machine else 1.0
        )
        different_rows = np.flatnonzero(~((np.abs(a - b) <= limit) | (np.isnan(a) & np.isnan(b))))
        if len(different_rows) > (0 if same_machine else max(1, len(a) // VOTES)):
            return (
                f"{name} of image {different_rows[0]}",
                float(a[different_rows[0]]),
                float(b[different_rows[0]]),
            )
    return None


def over_scores(m: Measurement) -> bool:
    """Tell whether a measurement's interval, by its name, is one over scores of images or prompts."""
    how = str(m["interval"])
    return how in ("wilson", "betting", "t") or how.startswith(
        ("wilson, Bonferroni(", "wilson, clustered", "t, clustered")
    )


def from_scores(m: Measurement, frame: pd.DataFrame, classes: int) -> dict[str, Any] | None:
    """Compute value, bounds and n of a measurement again from its scores alone.

    Returns:
        None if the scores do not determine them: FID and its relatives have no score per image, some
        metrics have an interval that is not over their scores, and older tables lack the prompts.
    """
    interval = str(m["interval"])
    if "score" not in frame or not over_scores(m):
        return None
    score = frame["score"].to_numpy(float)
    prompts = frame["prompt"].to_numpy() if "prompt" in frame else None
    comparisons = interval.partition("Bonferroni(")[2].rstrip(")")
    upper = math.log(classes) if m["unit"] == "nats" else 1.0
    if "clustered" in interval and prompts is None:
        return None
    if comparisons.isdigit() and len(score):
        units = prompts if "clustered" in interval else None
        low, high, _ = clustered.wilson(score, units, int(comparisons))
        measured = Measured(float(score.mean()), low, high, n=len(score))
    elif interval == "betting" or (
        interval.startswith("wilson, clustered") and not set(np.unique(score)) <= {0.0, 1.0}
    ):
        measured = clustered.bounded_mean(score, prompts, {}, upper)
    elif interval == "wilson" or interval.startswith("wilson, clustered"):
        measured = clustered.rate(score, prompts, {})
    elif interval == "t" or interval.startswith("t, clustered"):
        measured = clustered.mean(score, prompts, {})
    else:
        return None
    return {"value": measured.value, "low": measured.low, "high": measured.high, "n": measured.n}
