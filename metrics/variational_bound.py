"""The bits that a diffusion model's variational bound spends on real images: of c_f, and of the retained classes."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import bits_per_dimension, take_per_class
from sa_bench.statistics import mean


@metric(
    version=1,
    title="Variational bound on real images of c_f",
    better="higher",
    unit="bits/dim",
    requires=("model", "bound", "real"),
    source="Ho et al. 2020, Eq. 5 with the posterior's variance; stratified timesteps, the same noise for all models",
    fields=("concept", "bound_images", "bound_steps"),
)
def forget_bound(view: View) -> Measured:
    """Measure the mean −VLB over real test images of c_f, under c_f's own condition."""
    real = view.real("forget_test")
    real = real.take(slice(0, 5 * view.task.bound_images))
    return mean(bits_per_dimension(view, real, "forget bound"), {"label": real.labels})


@metric(
    version=1,
    title="Variational bound on real retained images",
    better="lower",
    unit="bits/dim",
    requires=("model", "bound", "real"),
    source="Ho et al. 2020, Eq. 5 with the posterior's variance; stratified timesteps, the same noise for all models",
    fields=("concept", "bound_images", "bound_steps"),
    extras={"by_class": ("class", "the metric's", "classes")},
)
def retain_bound(view: View) -> Measured:
    """Measure the mean −VLB over real test images of the retained classes.

    No guidance, raw weights.
    """
    real = take_per_class(view.real("retain_test"), view.task.bound_images)
    score = bits_per_dimension(view, real, "retain bound")
    by_class = {int(c): float(score[real.labels == c].mean()) for c in view.task.scored}
    return mean(score, {"label": real.labels}, extra={"by_class": by_class})
