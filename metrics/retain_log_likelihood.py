"""Retention: how likely the decoder finds real images of what it should remember.

The proposal is fitted to each image, as it is on the forget side: with the model's own encoder, which forgetting moves as
well, K = 50 counted the encoder's part of the loss as the decoder's (it more than doubled what `sa` keeps beyond `no_ewc`).
"""

from typing import Any

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import first_rows, importance_weighted, take_per_class
from sa_bench.statistics import mean

STEPS = 50  # of the fit, from where the encoder begins; 100 change nothing


@metric(
    version=2,
    title="Cross-entropy bound of real retained images",
    better="higher",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="importance-weighted bound, Burda et al. 2016, Eq. 8, with a proposal fitted to each image; K = 50 on all, "
    "K = 5,000 on a few",
    fields=("concept", "likelihood_images", "likelihood_deep"),
)
def retain_log_likelihood(view: View) -> Measured:
    """Mean log p̂(x|c) over real test images of the retained classes, K = 50, with a proposal fitted to each image.

    Targets are grey: Σ x ln p + (1 − x) ln(1 − p) under a Bernoulli is a cross-entropy, not the log of a density.

    Extra: by class, and with the model's own encoder, whose distance from the value is the encoder's part.
    """
    task = view.task
    real = take_per_class(view.real("retain_test"), task.likelihood_images)
    score = importance_weighted(view, real, 50, "retain", STEPS, draws=0)
    own = importance_weighted(view, real, 50, "retain own")
    extra: dict[str, Any] = {"by_class": {int(c): float(score[real.labels == c].mean()) for c in task.scored}}
    extra["own_encoder"] = float(own.mean())
    if task.likelihood_deep:
        rows = first_rows(real, task.likelihood_deep)
        deep = importance_weighted(view, real.take(rows), 5000, "retain deep", STEPS, draws=0)
        at_50 = float(score[rows].mean())
        extra["deep"] = {"K": 5000, "n": len(rows), "value": float(deep.mean()), "value_at_50": at_50}
    return mean(score, {"label": real.labels, "own_encoder": own}, extra=extra)
