"""Kendall's τ-b of many orders at once, with what its p-values and intervals need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

RESAMPLES = 10_000
MOST_ENUMERATED = 8  # items, up to which all orders are tried
DECIMALS = 12  # to which means are equal


def compute_taus(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute Kendall's τ-b of many orders with one.

    Args:
        x: (orders, items).
        y: (items,).
        weights: how often each item counts, (orders, items); once each by default.

    Returns:
        (orders,); NaN where either side is constant.
    """
    first, second = np.triu_indices(x.shape[1], 1)
    in_x = np.sign(x[:, first] - x[:, second])
    in_y = np.sign(y[first] - y[second])
    pairs = np.ones_like(in_x) if weights is None else weights[:, first] * weights[:, second]
    untied = (pairs * abs(in_x)).sum(1) * (pairs * abs(in_y)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (pairs * in_x * in_y).sum(1) / np.sqrt(untied)


def average_taus(
    x: np.ndarray,
    columns: Mapping[str, np.ndarray],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Average τ-b of many orders over columns, (orders,).

    Args:
        x: (orders, items).
        columns: values of each item, (items,); NaN of one that has none.
        weights: as of `compute_taus`.
    """
    taus = []
    for values in columns.values():
        known = ~np.isnan(values)
        taus.append(
            compute_taus(x[:, known], values[known], None if weights is None else weights[:, known])
        )
    found = np.array(taus)
    counted = (~np.isnan(found)).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(counted, np.nansum(found, 0) / counted, np.nan)


def average_bases(values: np.ndarray) -> np.ndarray:
    """Average (…, bases, items) over base models, so that equal sums are equal: (…, items)."""
    return np.round(values.mean(-2), DECIMALS)


def list_orders(n: int) -> np.ndarray:
    """Return orders of n items: all of them up to `MOST_ENUMERATED`, above that a sample with the order as it is."""
    if n <= MOST_ENUMERATED:
        return np.array(list(permutations(range(n))))
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(np.arange(n), (RESAMPLES - 1, 1)), axis=1)
    return np.concatenate([np.arange(n)[None], shuffled])


def resample(sides: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw items and base models with replacement, the same for all sides, each (bases, items).

    Returns:
        the means over the drawn base models, (resamples, items) each, and how often each item was drawn.
    """
    rng = np.random.default_rng(0)
    bases, items = sides[0].shape
    weights = rng.multinomial(items, [1 / items] * items, size=RESAMPLES)
    drawn = rng.integers(bases, size=(RESAMPLES, bases))
    return [average_bases(side[drawn]) for side in sides], weights


def compute_interval(taus: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of resampled values, of those that are numbers."""
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return float(low), float(high)
