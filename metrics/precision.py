"""Precision: the share of generated images that lie where real ones do."""

from sa_bench.contracts import View, metric
from sa_bench.feature_sets import generated_and_real
from sa_bench.features import in_manifold
from sa_bench.statistics import Measured, rate


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
    x, y, images = generated_and_real(view)
    if len(y) < 5:
        return Measured(None, reason=f"{len(y)} real images: k = 3 neighbours need at least 5")
    return rate(in_manifold(x, y), {"seed": images.seeds, "label": images.labels}, extra={"n_real": len(y)})
