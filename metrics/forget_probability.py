"""The paper's P(x_f = c_f): mean probability that the judges give c_f on c_f's images."""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.statistics import clustered


@metric(
    version=1,
    title="Mean probability of c_f on its images",
    better="lower",
    unit="probability",
    requires=("samples", "judges"),
    source="paper, Table 1, last column; official vae/evaluate_with_classifier.py",
    fields=("concept", "judges"),
    extras={"grey": ("the judges on constant grey", "the metric's")},
)
def forget_probability(view: View) -> Measured:
    """Measure the mean over images of the panel's mean p(c_f|x).

    Each judge's own answer to grey is its floor.
    """
    images, c = view.samples["forget"], view.task.concept
    p = {name: judge.probabilities(images.images)[:, c] for name, judge in view.judges.items()}
    judges = [
        {
            "judge": n,
            "value": float(v.mean()),
            "grey": view.judges[n].card["grey"]["probability"][c],
        }
        for n, v in p.items()
    ]
    floor = float(np.mean([j["grey"] for j in judges]))
    score = np.mean(list(p.values()), axis=0)
    return clustered.bounded_mean(
        score, images.prompts, {**images.columns(), **p}, judges=judges, extra={"grey": floor}
    )
