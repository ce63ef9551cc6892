"""FID as Table 1 of the paper has it: on BGR, contrast-stretched images. For the ledger alone."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import FrechetTo, measure_frechet
from sa_bench.scoring.features import PROTOCOL, inception_features, stretch_as_published


@metric(
    version=1,
    title="FID as in Table 1 (BGR, stretched)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, re-done in inception-v3-compat; compares with Table 1 and nothing else",
    fields=("concept", "feature_images"),
    protocol=PROTOCOL,
)
def official_fid(view: View) -> Measured:
    """FID of BGR, stretched generated images against such training images."""
    x, y, images = inception_features(view, stretch_as_published)
    if min(len(x), len(y)) < 2:
        return Measured(None, reason=f"{min(len(x), len(y))} image(s): a covariance needs at least 2")
    return measure_frechet(FrechetTo(x, y), x, y, images)
