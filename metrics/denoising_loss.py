"""How well a diffusion model denoises real retained images: its own training loss, per dimension."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import denoising, take_per_class
from sa_bench.statistics import mean


@metric(
    version=1,
    title="Denoising loss on real retained images",
    better="lower",
    unit="mean squared error",
    requires=("model", "diffusion", "real"),
    source="Ho et al. 2020, Eq. 14, over stratified timesteps, divided by the dimensions; not a likelihood",
    fields=("concept", "bound_images", "bound_steps"),
    extras={"by_class": ("class", "the metric's", "classes")},
)
def denoising_loss(view: View) -> Measured:
    """Measure the mean of ‖ε − ε̂‖²/D over real test images of the retained classes.

    Timesteps are stratified, and ε is the same for all models.
    """
    real = take_per_class(view.real("retain_test"), view.task.bound_images)
    score = denoising(view, real, "denoising")
    by_class = {int(c): float(score[real.labels == c].mean()) for c in view.task.scored}
    return mean(score, {"label": real.labels}, extra={"by_class": by_class})
