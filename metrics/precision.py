"""Precision: the share of generated images that lie where real ones do."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_precision
from sa_bench.scoring.features import judge_features


@metric(
    version=1,
    title="Precision on the retained classes",
    better="higher",
    unit="rate",
    requires=("samples", "real", "features"),
    source="Kynkäänniemi et al. 2019, k = 3; radii frozen, so the interval is over generated images",
    fields=("concept", "designated", "feature_images"),
)
def precision(view: View) -> Measured:
    """Share of generated images inside the real images' manifold. Rises on collapse: never ranked by."""
    return measure_precision(*judge_features(view))
