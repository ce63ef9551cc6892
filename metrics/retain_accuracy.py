"""How often images made for a retained class show it. Rises when a model collapses onto prototypes."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.statistics import clustered, wilson


@metric(
    version=4,
    title="Images of the retained classes judged right",
    better="higher",
    unit="rate",
    requires=("samples", "judges"),
    source="majority of the panel; shown, never ranked by: one clean prototype a class scores 1",
    fields=("concept", "judges"),
    extras={
        "by_class": ("class", "the metric's", "classes"),
        "worst": ("worst class", "the metric's"),
    },
)
def retain_accuracy(view: View) -> Measured:
    """Measure the share of retained images whose class the majority of the panel names.

    By class, and the worst.
    """
    images = view.samples["retain"]
    score, votes = majority_vote(view.judges, images.images, images.labels)
    by_class = {int(c): float(score[images.labels == c].mean()) for c in view.task.scored}
    worst = min(by_class, key=lambda c: by_class[c])
    n = int((images.labels == worst).sum())
    low, high = wilson(by_class[worst] * n, n, comparisons=len(by_class))
    extra = {
        "by_class": by_class,
        "worst": {"class": worst, "value": by_class[worst], "low": low, "high": high, "n": n},
    }
    judges = [{"judge": name, "value": float(v.mean())} for name, v in votes.items()]
    columns = {**images.columns(), "label": images.labels, **votes}
    return clustered.rate(score, images.prompts, columns, judges=judges, extra=extra)
