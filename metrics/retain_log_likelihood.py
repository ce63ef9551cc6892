"""Retention: how likely the model finds real images of what it should remember."""

from typing import Any

from sa_bench.contracts import View, metric
from sa_bench.likelihood import first_rows, importance_weighted, per_class
from sa_bench.statistics import Measured, mean


@metric(
    version=1,
    title="Log-likelihood of real retained images",
    better="higher",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="importance-weighted bound, Burda et al. 2016, Eq. 8; K = 50 on all, K = 5,000 on a few",
    fields=("concept", "likelihood_images", "likelihood_deep"),
)
def retain_log_likelihood(view: View) -> Measured:
    """Mean log p̂(x|c) over real test images of the retained classes, K = 50."""
    task = view.task
    real = per_class(view.real("retain_test"), task.likelihood_images)
    score = importance_weighted(view, real, 50, "retain")
    extra: dict[str, Any] = {"by_class": {int(c): float(score[real.labels == c].mean()) for c in task.scored}}
    if task.likelihood_deep:
        rows = first_rows(real, task.likelihood_deep)
        deep = importance_weighted(view, real.take(rows), 5000, "retain deep")
        at_50 = float(score[rows].mean())
        extra["deep"] = {"K": 5000, "n": len(rows), "value": float(deep.mean()), "value_at_50": at_50}
    return mean(score, {"label": real.labels}, extra=extra)
