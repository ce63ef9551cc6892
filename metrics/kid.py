"""Kernel distance of retained images to real ones: FID's unbiased relative, which carries an interval."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_kid
from sa_bench.scoring.features import judge_features


@metric(
    version=1,
    title="Kernel distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Bińkowski et al. 2018, Eq. 4 (U-statistic over all images, no subsets)",
    fields=("concept", "designated", "feature_images"),
)
def kid(view: View) -> Measured:
    """KID of generated against real; interval over generated images by delete-a-group jackknife."""
    return measure_kid(*judge_features(view))
