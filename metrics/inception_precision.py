"""Precision in Inception's features: the share of generated images that lie where real ones do."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_precision
from sa_bench.scoring.features import inception_features


@metric(
    version=1,
    title="Precision on the retained classes (Inception)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="Kynkäänniemi et al. 2019, k = 3, in torch-fidelity's inception-v3-compat, layer 2048; radii frozen",
    fields=("concept", "feature_images"),
)
def inception_precision(view: View) -> Measured:
    """Share of generated images inside the real training images' manifold. Rises on collapse."""
    return measure_precision(*inception_features(view))
