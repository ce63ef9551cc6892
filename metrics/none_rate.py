"""How often c_f's images are judged to show none of the classes at all."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.judges import load
from sa_bench.statistics import clustered


@metric(
    version=1,
    title="Images of c_f that show none of the classes",
    better=None,  # wanted for a noise surrogate, unwanted for a class surrogate
    unit="rate",
    requires=("samples", "judges"),
    source="an 11-class judge with a reject class, threshold at 1 % of held-out digits lost (its card)",
    fields=("concept", "reject_judge"),
    extras={"caught": None},
)
def none_rate(view: View) -> Measured:
    """Measure the share of c_f's images whose reject probability exceeds the calibrated threshold."""
    images, judge = view.samples["forget"], load(view.task.reject_judge)
    reject = judge.probabilities(images.images)[:, -1]
    score = (reject > judge.card["threshold"]).astype(float)
    return clustered.rate(
        score,
        images.prompts,
        {**images.columns(), "reject": reject},
        extra={"caught": judge.card["caught"]},
    )
