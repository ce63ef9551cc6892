"""Face verification: one person among others, in the space of face embeddings.

A person is a centroid, a threshold and a calibrated probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its submodules are imported on first use

if TYPE_CHECKING:
    import scipy.optimize
    import scipy.special

FAR = 0.01  # share of images of others that may pass for the person
RIDGE = 1e-3  # keeps the slope finite where the two sides do not overlap

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Person:
    """A person in the space of face embeddings."""

    centroid: np.ndarray  # (d,) of norm 1
    threshold: float  # cosine that `FAR` of the others' images exceed
    slope: float  # of the probability's logit in the cosine
    offset: float
    own: np.ndarray  # (R,) cosines of the references, each to the centroid of the other references
    others: np.ndarray  # (G,) cosines of the others' images

    def probability(self, cosine: np.ndarray) -> np.ndarray:
        """Compute the probability that a face is the person's, with equal priors."""
        return scipy.special.expit(self.slope * cosine + self.offset)


def split_halves(prompts: np.ndarray | None, n: int) -> tuple[np.ndarray, str]:
    """Split images into references and measured ones.

    Every second prompt is measured; without prompts, or with one alone, every second image.

    Returns:
        (N,) bool, True for a measured image; and what the halves differ in, "prompts" or "seeds".
    """
    if prompts is None or len(np.unique(prompts)) < 2:
        return np.arange(n) % 2 == 0, "seeds"
    return np.unique(prompts, return_inverse=True)[1] % 2 == 0, "prompts"


def largest_faces(records: Sequence[Record]) -> np.ndarray:
    """Collect the embedding of the largest (first) face of every image that has one, (R, d)."""
    return np.array([r["faces"][0] for r in records if r["faces"]], float)


def closest_cosines(records: Sequence[Record], centroid: np.ndarray) -> np.ndarray:
    """Compute the highest cosine to the centroid over an image's faces, (N,).

    NaN without a face.
    """
    faces_of_image = [np.array(r["faces"], float) for r in records]
    return np.array(
        [
            float((f @ centroid / np.linalg.norm(f, axis=1)).max()) if len(f) else np.nan
            for f in faces_of_image
        ]
    )


def fit(own: np.ndarray, others: Sequence[Record]) -> Person:
    """Fit a person to reference faces `own` (R, d) against the images of others.

    A reference is compared with the centroid of the other references, so that it does not meet
    itself. The logistic curve is fitted on every second face of either side.
    """
    total = own.sum(0)
    centroid = total / np.linalg.norm(total)
    rest = total - own
    norms = np.linalg.norm(rest, axis=1), np.linalg.norm(own, axis=1)
    own_cosines = (own * rest).sum(1) / norms[0] / norms[1]
    other_cosines = closest_cosines(others, centroid)
    other_cosines = other_cosines[~np.isnan(other_cosines)]
    threshold = float(np.quantile(other_cosines, 1 - FAR, method="higher"))
    slope, offset = _fit_logistic(own_cosines[::2], other_cosines[::2])
    return Person(centroid, threshold, slope, offset, own_cosines, other_cosines)


def _fit_logistic(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Fit the slope and offset of a logistic curve that separates two sets of cosines."""

    def loss(parameters: np.ndarray) -> float:
        slope, offset = parameters
        up, down = slope * positive + offset, slope * negative + offset
        return float(np.logaddexp(0, -up).mean() + np.logaddexp(0, down).mean() + RIDGE * slope**2)

    slope, offset = scipy.optimize.minimize(loss, np.zeros(2)).x
    return float(slope), float(offset)


def auc(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the chance that a value of `a` exceeds one of `b`, ties counting half."""
    return float(((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])).mean())


def mean_sd_count(cosines: np.ndarray) -> dict[str, Any]:
    """Compute mean, standard deviation and number of the cosines that are not NaN."""
    valid = cosines[~np.isnan(cosines)]
    return {"n": len(valid)} | (
        {"mean": float(valid.mean()), "std": float(valid.std())} if len(valid) else {}
    )


def verification_facts(person: Person, cosines: np.ndarray) -> dict[str, Any]:
    """Collect what a result holds beside the mean cosine of images with a face (N,)."""
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
