"""FID: Fréchet distance of retained images to real ones in Inception's features."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import FrechetTo, measure_frechet
from sa_bench.scoring.features import inception_features


@metric(
    version=1,
    title="FID of retained images (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="Heusel et al. 2017 in torch-fidelity's inception-v3-compat, layer 2048; estimand E[FID_N], FID∞ beside it",
    fields=("concept", "feature_images"),
)
def inception_fid(view: View) -> Measured:
    """FID of generated against real training images; interval by delete-a-group jackknife."""
    x, y, images = inception_features(view)
    if min(len(x), len(y)) < 2:
        return Measured(None, reason=f"{min(len(x), len(y))} image(s): a covariance needs at least 2")
    return measure_frechet(FrechetTo(x, y), x, y, images)
