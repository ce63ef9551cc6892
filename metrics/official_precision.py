"""What Table 1 of the paper prints as precision, which is recall. For the ledger alone."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_recall
from sa_bench.scoring.features import PROTOCOL, inception_features, stretch_as_published


@metric(
    version=1,
    title="Table 1's column “precision” (recall; BGR, stretched)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, called (generated, real); compares with Table 1 and nothing else",
    fields=("concept", "feature_images"),
    protocol=PROTOCOL,
)
def official_precision(view: View) -> Measured:
    """Share of real images inside the generated images' manifold, under the name that Table 1 gives it."""
    return measure_recall(*inception_features(view, stretch_as_published))
