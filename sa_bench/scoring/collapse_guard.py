"""The collapse guard: has the model lost more than the concept?

Accuracy and precision rise when a model collapses onto clean prototypes, so neither can tell. The
guard uses the worst class and recall, each as a share of the base model's value, by the upper bound
of the interval. Its bounds come from base models at other sampling seeds and ship with the power
that was measured on models ruined on purpose: `python -m sa_bench.weights guard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sa_bench.contracts import SampleSet
from sa_bench.data.assets.shipped import guard_card
from sa_bench.statistics import wilson

if TYPE_CHECKING:  # its bounds are read where nothing is measured, and without torch
    from sa_bench.scoring.judges import Judge

QUANTITIES = ("worst class", "recall")


@dataclass(frozen=True)
class ShareOfBase:
    """A quantity of a model as a share of the base model's."""

    value: float  # of the model
    base: float
    share: float  # value / base
    high: float  # upper bound of value / base; the base's value is taken as exact
    where: str  # the class, for people; "" for recall


def measure_shares(
    images: SampleSet,
    base: SampleSet,
    real: SampleSet,
    judges: Mapping[str, Judge],
    designated: str,
) -> dict[str, ShareOfBase]:
    """Measure both quantities of `images` as shares of those of `base`.

    A quantity of which the base model itself has nothing is left out.

    Args:
        images: retained images of the model.
        base: retained images of the base model.
        real: real images, for recall.
        judges: the panel.
        designated: name of the judge whose features recall uses.
    """
    from sa_bench.scoring.features import extract, is_in_manifold
    from sa_bench.scoring.judges import majority_vote

    votes_of_model, _ = majority_vote(judges, images.images, images.labels)
    votes_of_base, _ = majority_vote(judges, base.images, base.labels)
    class_shares = []
    classes = [int(c) for c in np.unique(base.labels)]
    for c in classes:
        votes, reference = (
            votes_of_model[images.labels == c],
            float(votes_of_base[base.labels == c].mean()),
        )
        high = wilson(float(votes.sum()), len(votes), comparisons=len(classes))[1]
        class_shares.append(ShareOfBase(float(votes.mean()), reference, 0.0, high, str(c)))
    class_shares = [_divide_by_base(s) for s in class_shares if s.base > 0]
    # Recall grows when the same model has fewer samples (wider balls), so both sides get equally
    # many images a class.
    counts = {c: min(int((s.labels == c).sum()) for s in (images, base)) for c in classes}
    equal_sets = [s.take(_first_rows(s.labels, counts)) for s in (images, base)]
    x, b, y = (extract(judges[designated], s.images) for s in (*equal_sets, real))
    covered, reference = is_in_manifold(y, x), float(is_in_manifold(y, b).mean())
    shares = {}
    if class_shares:
        shares["worst class"] = min(class_shares, key=lambda s: s.high)
    if reference > 0:
        high = wilson(float(covered.sum()), len(covered))[1]
        recall = ShareOfBase(float(covered.mean()), reference, 0.0, high, "")
        shares["recall"] = _divide_by_base(recall)
    return shares


def _first_rows(labels: np.ndarray, counts: Mapping[int, int]) -> np.ndarray:
    """List the rows of the first `counts[c]` images of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in counts.items()]))


def _divide_by_base(s: ShareOfBase) -> ShareOfBase:
    return ShareOfBase(s.value, s.base, s.value / s.base, s.high / s.base, s.where)


def bounds(dataset: str) -> dict[str, float]:
    """Read the shipped bounds by quantity."""
    return guard_card(dataset)["bounds"]


def describe_collapse(shares: Mapping[str, ShareOfBase], limit: Mapping[str, float]) -> list[str]:
    """Describe the quantities below their bound; [] if the model has not collapsed."""
    return [
        f"{name}{f' ({s.where})' if s.where else ''} is {100 * s.share:.0f} % of the base's"
        f" ({s.value:.3f} of {s.base:.3f}), its bound {100 * limit[name]:.0f} %"
        for name, s in shares.items()
        if s.high < limit[name]
    ]
