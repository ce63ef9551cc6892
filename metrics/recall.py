"""Recall: the share of real images that lie where generated ones do."""

from sa_bench.contracts import View, metric
from sa_bench.feature_sets import generated_and_real
from sa_bench.features import in_manifold
from sa_bench.statistics import Measured, rate


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
    x, y, _ = generated_and_real(view)
    if len(x) < 5:
        return Measured(None, reason=f"{len(x)} generated images: k = 3 neighbours need at least 5")
    return rate(in_manifold(y, x), {}, extra={"n_generated": len(x)})
