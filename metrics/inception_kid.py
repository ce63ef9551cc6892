"""KID: kernel distance of retained images to real ones in Inception's features."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_kid
from sa_bench.scoring.features import inception_features


@metric(
    version=1,
    title="KID of retained images (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="Bińkowski et al. 2018, Eq. 4, in torch-fidelity's inception-v3-compat, layer 2048 (all images, no subsets)",
    fields=("concept", "feature_images"),
)
def inception_kid(view: View) -> Measured:
    """KID of generated against real training images; interval by delete-a-group jackknife."""
    return measure_kid(*inception_features(view))
