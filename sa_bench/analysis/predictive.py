"""Does a small board predict Stable Diffusion? Rank correlations with what was published, beside dumb predictors."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import kendalltau

from sa_bench.analysis.published import load_numbers

FEWEST = 4  # methods in common, below which no correlation is computed
RESAMPLES = 2000
PUBLISHED = "attack_success[UnlearnDiffAtk]"
OURS = {
    "AdvUnlearn": "advunlearn",
    "EraseDiff": "erasediff",
    "FMN": "fmn",
    "MACE": "mace",
    "RECE": "rece",
    "SPM": "spm",
    "ScissorHands": "scissorhands",
}
"""Names of the published tables that differ from ours."""


@dataclass(frozen=True)
class Correlation:
    """Kendall's τ of a predictor's order of methods with a published one."""

    tau: float
    low: float
    """95 % interval by resampling methods and bases; wide with so few of them."""
    high: float
    methods: tuple[str, ...]


def published_columns(metric: str = PUBLISHED) -> dict[str, dict[str, float]]:
    """Read a published metric by task and method, the methods by our names."""
    columns: dict[str, dict[str, float]] = {}
    for number in load_numbers():
        if number.metric == metric:
            method = OURS.get(number.method, number.method)
            columns.setdefault(number.task, {}).setdefault(method, number.value)
    return columns


def read_predictor(file: Path, name: str) -> dict[str, list[float]]:
    """Read the values of one predictor, of each base model in turn, by method.

    Args:
        file: CSV with the columns method, base, and one for each predictor.
        name: of its column.
    """
    values: dict[str, list[float]] = {}
    with file.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row[name]:
                values.setdefault(row["method"], []).append(float(row[name]))
    return values


def correlate(
    predictor: Mapping[str, Sequence[float]], published: Mapping[str, float]
) -> Correlation | None:
    """Compute Kendall's τ-b over the methods that both have; None with fewer than `FEWEST`.

    Args:
        predictor: values of each base model, by method; their mean gives the order.
        published: one value a method.
    """
    methods = tuple(sorted(set(predictor) & set(published)))
    if len(methods) < FEWEST:
        return None
    theirs = np.array([published[name] for name in methods])
    tau = _tau(np.array([fmean(predictor[name]) for name in methods]), theirs)
    rng, taus = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(methods), size=len(methods))
        drawn = [fmean(rng.choice(predictor[methods[i]], len(predictor[methods[i]]))) for i in rows]
        if len(set(rows.tolist())) > 2:
            taus.append(_tau(np.array(drawn), theirs[rows]))
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return Correlation(tau, float(low), float(high), methods)


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Kendall's τ-b; NaN where either side is constant."""
    return float(kendalltau(a, b).statistic)


def find_ceiling(columns: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Compute τ between every two published concepts: what a perfect small model could reach."""
    taus = []
    for a, b in combinations(columns.values(), 2):
        methods = sorted(set(a) & set(b))
        if len(methods) >= FEWEST:
            taus.append(_tau(*(np.array([side[m] for m in methods]) for side in (a, b))))
    return taus
