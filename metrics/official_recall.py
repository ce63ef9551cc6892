"""What Table 1 of the paper prints as recall, which is precision. For the ledger alone."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_precision
from sa_bench.scoring.features import PROTOCOL, inception_features, stretch_as_published


@metric(
    version=1,
    title="Table 1's column “recall” (precision; BGR, stretched)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, called (generated, real); compares with Table 1 and nothing else",
    fields=("concept", "feature_images"),
    protocol=PROTOCOL,
)
def official_recall(view: View) -> Measured:
    """Share of generated images inside the real images' manifold, under the name that Table 1 gives it."""
    return measure_precision(*inception_features(view, stretch_as_published))
