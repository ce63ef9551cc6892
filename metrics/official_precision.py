"""What Table 1 of the paper prints as precision, which is recall. For the ledger alone."""

from sa_bench.contracts import View, metric
from sa_bench.distances import recall_measured
from sa_bench.feature_sets import in_inception
from sa_bench.official import PROTOCOL, as_published
from sa_bench.statistics import Measured


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
    return recall_measured(*in_inception(view, as_published))
