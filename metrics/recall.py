"""Recall: the share of real images that lie where generated ones do."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_recall
from sa_bench.scoring.features import judge_features


@metric(
    version=1,
    title="Recall on the retained classes",
    better="higher",
    unit="rate",
    requires=("samples", "real", "features"),
    source="Kynkäänniemi et al. 2019, k = 3; radii frozen, so the interval is over real images",
    fields=("concept", "designated", "feature_images"),
)
def recall(view: View) -> Measured:
    """Share of real retained images inside the generated images' manifold."""
    return measure_recall(*judge_features(view))
