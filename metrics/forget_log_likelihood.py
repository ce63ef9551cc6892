"""What is left of c_f in the likelihood, with the amortisation gap apart: the encoder forgets too."""

from typing import Any

from sa_bench.contracts import View, metric
from sa_bench.likelihood import elbo, importance_weighted, per_class
from sa_bench.statistics import Measured, mean


@metric(
    version=1,
    title="Log-likelihood of real images of c_f",
    better="lower",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="paper, Corollary 1 (for U[0, 1] noise its end is −784 ln 2 = −543.4 nats); K = 50 and 5,000",
    fields=("concept", "likelihood_images", "likelihood_deep"),
)
def forget_log_likelihood(view: View) -> Measured:
    """Mean log p̂(x|c_f) over real test images of c_f, K = 50; extra: ELBO and the gap between them."""
    task = view.task
    real = per_class(view.real("forget_test"), task.likelihood_images)
    score = importance_weighted(view, real, 50, "forget")
    bound = elbo(view, real, "forget elbo")
    extra: dict[str, Any] = {"elbo": float(bound.mean()), "gap": float((score - bound).mean())}
    if task.likelihood_deep:
        few = per_class(real, task.likelihood_deep)
        deep = importance_weighted(view, few, 5000, "forget deep")
        at_50 = float(score[: len(few)].mean())
        extra["deep"] = {"K": 5000, "n": len(few), "value": float(deep.mean()), "value_at_50": at_50}
    return mean(score, {"elbo": bound}, extra=extra)
