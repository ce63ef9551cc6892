"""The paper's H: how undecided the judges are about c_f's images."""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.statistics import clustered
from sa_bench.statistics import entropy as nats


@metric(
    version=1,
    title="Mean entropy of the judges on c_f's images",
    better=None,  # it has a direction only for an uninformative surrogate
    unit="nats",
    requires=("samples", "judges"),
    source="paper, Table 1, entropy column; mean over judges of each judge's H, not H of their mean",
    fields=("concept", "judges"),
    extras={"grey": ("the judges on constant grey", "the metric's")},
)
def entropy(view: View) -> Measured:
    """Measure the mean over images and judges of −Σ p ln p.

    Beside it what each judge says of constant grey.
    """
    images = view.samples["forget"]
    h = {name: nats(judge.probabilities(images.images)) for name, judge in view.judges.items()}
    judges = [
        {"judge": n, "value": float(v.mean()), "grey": view.judges[n].card["grey"]["entropy"]}
        for n, v in h.items()
    ]
    ceiling = float(np.mean([j["grey"] for j in judges]))
    upper = float(np.log(len(view.task.classes)))
    score = np.mean(list(h.values()), axis=0)
    return clustered.bounded_mean(
        score,
        images.prompts,
        {**images.columns(), **h},
        upper,
        judges=judges,
        extra={"grey": ceiling},
    )
