"""Fréchet distance of retained images to real ones, in the named extractor's features."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import frechet_distance, measure_frechet
from sa_bench.scoring.features import judge_features


@metric(
    version=2,
    title="Fréchet distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Heusel et al. 2017 through torch-fidelity; estimand E[FID_N] at the N shown, FID∞ beside it",
    fields=("concept", "designated", "feature_images"),
)
def fid(view: View) -> Measured:
    """FID of generated against real; interval over generated images by delete-a-group jackknife."""
    x, y, images = judge_features(view)
    if len(x) < 2:
        return Measured(None, reason=f"{len(x)} image(s): a covariance needs at least 2")
    return measure_frechet(lambda rows: frechet_distance(x[rows], y), x, y, images)
