"""How likely a VAE's decoder finds real images: of c_f, and of what it should remember.

The proposal is fitted to each image. With the model's own encoder, which forgetting moves as well, K = 50 counted the
encoder's part of the loss as the decoder's (it more than doubled what `sa` keeps beyond `no_ewc`); the gap is reported
apart. Targets are grey: Σ x ln p + (1 − x) ln(1 − p) under a Bernoulli is a cross-entropy, not the log of a density.
"""

from typing import Any

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import elbo, first_rows, importance_weighted, take_per_class
from sa_bench.statistics import mean

FORGET_IMAGES = 200  # few, since the proposal is fitted to each image alone
FORGET_STEPS = 100
RETAIN_STEPS = 50  # steps of the fit, starting from the encoder's proposal; 100 change nothing


@metric(
    version=2,
    title="Cross-entropy bound of real images of c_f",
    better="lower",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="paper, Theorem 1: at θ^q, a plain grey for q = U[0, 1], it is −784 ln 2 = −543.4 nats; K = 50 and 5,000",
    fields=("concept", "likelihood_images", "likelihood_deep"),
    extras={
        "elbo": ("ELBO", "the metric's"),
        "own_encoder": ("with the model's own encoder", "the metric's"),
        "gap": ("above the ELBO", "the metric's"),
        "deep": ("K = 5000", "the metric's"),
    },
)
def forget_log_likelihood(view: View) -> Measured:
    """Measure the mean log p̂(x|c_f), K = 50, with a proposal fitted to each image.

    Targets are grey: under a Bernoulli this is a cross-entropy, not the log of a density.

    Extra: the ELBO, log p̂ with the model's own encoder, and the gap between the ELBO and the value. After
    `sa` most of the ELBO's fall is the encoder's: the decoder gives zeros far more than the ELBO says.
    """
    task = view.task
    real = take_per_class(view.real("forget_test"), task.likelihood_images).take(
        slice(0, FORGET_IMAGES)
    )
    score = importance_weighted(view, real, 50, "forget", FORGET_STEPS)
    bound, own_encoder = (
        elbo(view, real, "forget elbo"),
        importance_weighted(view, real, 50, "forget own"),
    )
    extra: dict[str, Any] = {"elbo": float(bound.mean()), "own_encoder": float(own_encoder.mean())}
    extra["gap"] = float((score - bound).mean())
    if task.likelihood_deep:
        few = real.take(slice(0, task.likelihood_deep))
        deep = float(importance_weighted(view, few, 5000, "forget deep", FORGET_STEPS).mean())
        at_50 = float(score[: len(few)].mean())
        extra["deep"] = {"K": 5000, "n": len(few), "value": deep, "value_at_50": at_50}
    return mean(score, {"elbo": bound, "own_encoder": own_encoder}, extra=extra)


@metric(
    version=2,
    title="Cross-entropy bound of real retained images",
    better="higher",
    unit="nats",
    requires=("model", "likelihood", "real"),
    source="importance-weighted bound, Burda et al. 2016, Eq. 8, with a proposal fitted to each image; K = 50 on all, "
    "K = 5,000 on a few",
    fields=("concept", "likelihood_images", "likelihood_deep"),
    extras={
        "by_class": ("class", "the metric's", "classes"),
        "own_encoder": ("with the model's own encoder", "the metric's"),
        "deep": ("K = 5000", "the metric's"),
    },
)
def retain_log_likelihood(view: View) -> Measured:
    """Measure the mean log p̂(x|c) over real test images of the retained classes.

    K = 50, with a proposal fitted to each image.

    Targets are grey: Σ x ln p + (1 − x) ln(1 − p) under a Bernoulli is a cross-entropy, not the log of a density.

    Extra: by class, and with the model's own encoder, whose distance from the value is the encoder's part.
    """
    task = view.task
    real = take_per_class(view.real("retain_test"), task.likelihood_images)
    score = importance_weighted(view, real, 50, "retain", RETAIN_STEPS, draws=0)
    own_encoder = importance_weighted(view, real, 50, "retain own")
    extra: dict[str, Any] = {
        "by_class": {int(c): float(score[real.labels == c].mean()) for c in task.scored}
    }
    extra["own_encoder"] = float(own_encoder.mean())
    if task.likelihood_deep:
        rows = first_rows(real, task.likelihood_deep)
        deep = importance_weighted(
            view, real.take(rows), 5000, "retain deep", RETAIN_STEPS, draws=0
        )
        at_50 = float(score[rows].mean())
        extra["deep"] = {
            "K": 5000,
            "n": len(rows),
            "value": float(deep.mean()),
            "value_at_50": at_50,
        }
    return mean(score, {"label": real.labels, "own_encoder": own_encoder}, extra=extra)
