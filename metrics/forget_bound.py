"""What a diffusion model still knows of c_f: bits its variational bound spends on real images of it."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.likelihood import bits_per_dimension
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
    """Mean −VLB over real test images of c_f, under c_f's own condition."""
    real = view.real("forget_test")
    real = real.take(slice(0, 5 * view.task.bound_images))
    return mean(bits_per_dimension(view, real, "forget bound"), {"label": real.labels})
