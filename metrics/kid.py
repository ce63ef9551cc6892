"""Kernel distance of retained images to real ones: FID's unbiased relative, which carries an interval."""

from sa_bench.contracts import View, metric
from sa_bench.distances import kid_measured
from sa_bench.feature_sets import generated_and_real
from sa_bench.statistics import Measured


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
    return kid_measured(*generated_and_real(view))
