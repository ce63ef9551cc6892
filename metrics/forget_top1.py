"""Forgetting: how often images made for c_f are still judged to show it."""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.statistics import clustered


@metric(
    version=4,
    title="Images of c_f still judged c_f",
    better="lower",
    unit="rate",
    requires=("samples", "judges"),
    source="top-1 of the paper's classifier probability (Section 4.1), by majority of a fixed panel",
    fields=("concept", "judges"),
    axis="images of c_f still judged so",
)
def forget_top1(view: View) -> Measured:
    """Measure the share of c_f's images whose top-1 class is c_f for more than half of the panel.

    An image that shows nothing at all counts for no class (`sa_bench.scoring.judges.shows_anything`).
    """
    images = view.samples["forget"]
    score, votes = majority_vote(view.judges, images.images, view.task.concept)
    judges = [{"judge": name, "value": float(v.mean())} for name, v in votes.items()]
    return clustered.rate(score, images.prompts, {**images.columns(), **votes}, judges=judges)
