"""The collapse guard: has the model lost the rest as well? Two shares of the base, against calibrated bounds.

Accuracy and precision rise when a model collapses onto clean prototypes, so neither can tell. The guard
looks at the worst class and at recall, each as a share of what the base model has, by the upper bound of
the interval. Its bounds come from base models at other sampling seeds and are shipped with the power that
they were seen to have on known wrecks: `python -m sa_bench.weights guard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sa_bench.contracts import SampleSet
from sa_bench.data.assets.shipped import guard_card
from sa_bench.scoring.features import extract, is_in_manifold
from sa_bench.scoring.judges import Judge, majority_vote
from sa_bench.statistics import wilson

QUANTITIES = ("worst class", "recall")


@dataclass(frozen=True)
class ShareOfBase:
    """What is left of one of the base's quantities."""

    value: float  # of the model
    base: float
    share: float  # value / base
    high: float  # upper bound of value / base; the base counts as known
    where: str  # the class, for people


def measure_shares(
    images: SampleSet,
    base: SampleSet,
    real: SampleSet,
    judges: Mapping[str, Judge],
    designated: str,
    extractor: str,
) -> dict[str, ShareOfBase]:
    """Both quantities of `images` against `base` (the retained classes), with `real` images for recall."""
    mine, _ = majority_vote(judges, images.images, images.labels)
    theirs, _ = majority_vote(judges, base.images, base.labels)
    by_class = []
    classes = [int(c) for c in np.unique(base.labels)]
    for c in classes:
        rows, reference = mine[images.labels == c], float(theirs[base.labels == c].mean())
        high = wilson(float(rows.sum()), len(rows), comparisons=len(classes))[1]
        by_class.append(ShareOfBase(float(rows.mean()), reference, 0.0, high, str(c)))
    by_class = [_of(s) for s in by_class if s.base > 0]
    # Recall grows when the same model is sampled less (wider balls), so both sides get equally many a class.
    counts = {c: min(int((s.labels == c).sum()) for s in (images, base)) for c in classes}
    sides = [s.take(_first(s.labels, counts)) for s in (images, base)]
    x, b, y = (extract(extractor, judges[designated], s.images) for s in (*sides, real))
    hits, reference = is_in_manifold(y, x), float(is_in_manifold(y, b).mean())
    high = wilson(float(hits.sum()), len(hits))[1]
    recall = _of(ShareOfBase(float(hits.mean()), reference, 0.0, high, ""))
    return {"worst class": min(by_class, key=lambda s: s.high), "recall": recall}


def _first(labels: np.ndarray, counts: Mapping[int, int]) -> np.ndarray:
    """The rows of the first `counts[c]` images of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in counts.items()]))


def _of(s: ShareOfBase) -> ShareOfBase:
    return ShareOfBase(s.value, s.base, s.value / s.base, s.high / s.base, s.where)


def bounds(dataset: str) -> dict[str, float]:
    """The shipped bounds by quantity."""
    return guard_card(dataset)["bounds"]


def describe_collapse(found: Mapping[str, ShareOfBase], limit: Mapping[str, float]) -> list[str]:
    """The quantities below their bound, in words; empty if the model stands."""
    return [
        f"{name}{f' ({s.where})' if s.where else ''} is {100 * s.share:.0f} % of the base's"
        f" ({s.value:.3f} of {s.base:.3f}), its bound {100 * limit[name]:.0f} %"
        for name, s in found.items()
        if s.high < limit[name]
    ]
