"""One person among others, in the space of face embeddings: centroid, threshold, calibrated probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

FAR = 0.01  # share of images of others that may pass for the person
RIDGE = 1e-3  # keeps the slope finite where the two sides do not overlap

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Person:
    """What tells a person from others."""

    centroid: np.ndarray  # (d,) of norm 1
    threshold: float  # cosine that `FAR` of the others' images exceed
    slope: float  # of the probability's logit in the cosine
    offset: float
    own: np.ndarray  # (R,) cosines of the references, each to the centroid of all others
    others: np.ndarray  # (G,) cosines of the others' images

    def probability(self, cosine: np.ndarray) -> np.ndarray:
        """That a face is the person's, both sides equally likely beforehand."""
        return expit(self.slope * cosine + self.offset)


def split_halves(prompts: np.ndarray | None, n: int) -> tuple[np.ndarray, str]:
    """((N,) bool: whether an image is measured and no reference, what the halves differ in).

    Every second prompt; without prompts, or with one alone, every second image.
    """
    if prompts is None or len(np.unique(prompts)) < 2:
        return np.arange(n) % 2 == 0, "seeds"
    return np.unique(prompts, return_inverse=True)[1] % 2 == 0, "prompts"


def largest_faces(records: Sequence[Record]) -> np.ndarray:
    """(R, d) the embedding of the first, that is the largest, face of every image that has one."""
    return np.array([r["faces"][0] for r in records if r["faces"]], float)


def closest_cosines(records: Sequence[Record], centroid: np.ndarray) -> np.ndarray:
    """(N,) cosine to the centroid, the highest over an image's faces; NaN without a face."""
    rows = [np.array(r["faces"], float) for r in records]
    return np.array(
        [
            float((f @ centroid / np.linalg.norm(f, axis=1)).max()) if len(f) else np.nan
            for f in rows
        ]
    )


def fit(own: np.ndarray, others: Sequence[Record]) -> Person:
    """The person of the reference faces `own` (R, d) against the images of `others`.

    A reference is compared with the centroid of the other references, so that it does not meet itself. The
    logistic curve is fitted on every second face of either side.
    """
    total = own.sum(0)
    centroid = total / np.linalg.norm(total)
    rest = total - own
    mine = (own * rest).sum(1) / np.linalg.norm(rest, axis=1) / np.linalg.norm(own, axis=1)
    away = closest_cosines(others, centroid)
    away = away[~np.isnan(away)]
    threshold = float(np.quantile(away, 1 - FAR, method="higher"))
    return Person(centroid, threshold, *_logistic(mine[::2], away[::2]), mine, away)


def _logistic(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    def loss(at: np.ndarray) -> float:
        up, down = at[0] * positive + at[1], at[0] * negative + at[1]
        return float(
            np.logaddexp(0, -up).mean() + np.logaddexp(0, down).mean() + RIDGE * at[0] ** 2
        )

    slope, offset = minimize(loss, np.zeros(2)).x
    return float(slope), float(offset)


def auc(a: np.ndarray, b: np.ndarray) -> float:
    """The chance that a value of `a` exceeds one of `b`, ties half."""
    return float(((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])).mean())


def mean_sd_count(cosines: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and number of those that are not NaN."""
    seen = cosines[~np.isnan(cosines)]
    return {"n": len(seen)} | (
        {"mean": float(seen.mean()), "std": float(seen.std())} if len(seen) else {}
    )


def verification_facts(person: Person, cosines: np.ndarray) -> dict[str, Any]:
    """What stands beside the mean cosine of images with a face (N,)."""
    return {
        "threshold": person.threshold,
        "accepted": float((cosines > person.threshold).mean()),
        "probability": float(person.probability(cosines).mean()),
        "auc_references": auc(person.own, cosines),
        "references": mean_sd_count(person.own)
        | {"accepted": float((person.own > person.threshold).mean())},
        "held_out": {
            "references": float(person.probability(person.own[1::2]).mean()),
            "others": float(person.probability(person.others[1::2]).mean()),
        },
    }
