"""Recall in Inception's features: the share of real images that lie where generated ones do."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_recall
from sa_bench.scoring.features import inception_features


@metric(
    version=1,
    title="Recall on the retained classes (Inception)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="Kynkäänniemi et al. 2019, k = 3, in torch-fidelity's inception-v3-compat, layer 2048; radii frozen",
    fields=("concept", "feature_images"),
)
def inception_recall(view: View) -> Measured:
    """Share of real training images inside the generated images' manifold."""
    return measure_recall(*inception_features(view))
