"""Controllable forgetting, the paper's headline: did c_f become the surrogate that was asked for?"""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.statistics import clustered


@metric(
    version=4,
    title="Images of c_f that look like the surrogate",
    better="higher",
    unit="rate",
    requires=("samples", "judges", "real"),
    source="the claim of paper Section 3.1 (q(x|c_f) is chosen by the user), made a rate",
    fields=("concept", "judges", "surrogate"),
)
def surrogate_fidelity(view: View) -> Measured:
    """Measure the share of c_f's images that look like the surrogate.

    For a class surrogate, the panel names that class; else, q's mean image is nearer than any
    class's.
    """
    images, task = view.samples["forget"], view.task
    if task.surrogate.startswith("class:"):
        other = int(task.surrogate[6:])
        score, votes = majority_vote(view.judges, images.images, other)
        judges = [{"judge": n, "value": float(v.mean())} for n, v in votes.items()]
        return clustered.rate(score, images.prompts, images.columns(), judges=judges)
    real = [view.real("forget_test"), *(view.real("retain_test").of(c) for c in task.scored)]
    centres = [_flatten(s.images).mean(0) for s in (view.surrogate(500), *real)]
    distance = np.stack([((_flatten(images.images) - m) ** 2).sum(1) for m in centres])
    return clustered.rate((distance.argmin(0) == 0).astype(float), images.prompts, images.columns())


def _flatten(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
