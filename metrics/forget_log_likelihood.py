"""What the decoder still knows of c_f, with the amortisation gap apart: the encoder forgets too."""

from typing import Any

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import elbo, importance_weighted, take_per_class
from sa_bench.statistics import mean

IMAGES = 200  # the proposal is fitted to each image alone, so a few must do
STEPS = 100


@metric(
    version=2,
    title="Cross-entropy bound of real images of c_f",
    better="lower",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="paper, Theorem 1: at θ^q, a plain grey for q = U[0, 1], it is −784 ln 2 = −543.4 nats; K = 50 and 5,000",
    fields=("concept", "likelihood_images", "likelihood_deep"),
)
def forget_log_likelihood(view: View) -> Measured:
    """Mean log p̂(x|c_f), K = 50, with a proposal fitted to each image.

    Targets are grey: under a Bernoulli this is a cross-entropy, not the log of a density.

    Extra: the ELBO, log p̂ with the model's own encoder, and the gap between the ELBO and the value. After
    `sa` most of the ELBO's fall is the encoder's: the decoder gives zeros far more than the ELBO says.
    """
    task = view.task
    real = take_per_class(view.real("forget_test"), task.likelihood_images).take(slice(0, IMAGES))
    score = importance_weighted(view, real, 50, "forget", STEPS)
    bound, own = elbo(view, real, "forget elbo"), importance_weighted(view, real, 50, "forget own")
    extra: dict[str, Any] = {"elbo": float(bound.mean()), "own_encoder": float(own.mean())}
    extra["gap"] = float((score - bound).mean())
    if task.likelihood_deep:
        few = real.take(slice(0, task.likelihood_deep))
        deep = float(importance_weighted(view, few, 5000, "forget deep", STEPS).mean())
        at_50 = float(score[: len(few)].mean())
        extra["deep"] = {"K": 5000, "n": len(few), "value": deep, "value_at_50": at_50}
    return mean(score, {"elbo": bound, "own_encoder": own}, extra=extra)
