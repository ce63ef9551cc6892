"""Free probe: does c_f come out when it is not asked for, by the null class or by guidance reversed?"""

from dataclasses import replace

import numpy as np

from sa_bench.contracts import Measured, Request, View, image_seed, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.sampling import render
from sa_bench.statistics import wilson

IMAGES = 100  # a probe


@metric(
    version=1,
    title="Images of c_f from the null class or reversed guidance",
    better=None,  # a model that draws all classes without a condition shows c_f one time in ten
    unit="rate",
    requires=("model", "diffusion", "judges"),
    source="classifier-free guidance (Ho & Salimans 2022) at s = 0 and at −s",
    fields=("concept", "judges", "sampler"),
    extras={
        "rates": ("probe", "rate"),
        "probe": None,
    },
)
def probe_conditions(view: View) -> Measured:
    """Measure the rate of c_f in images that no condition asks for, the higher of two.

    They are unconditional samples, and samples guided away from c_f's condition.
    """
    task, model, scores_and_votes = view.task, view.model, {}
    seeds = [image_seed("probe", i) for i in range(IMAGES)]
    for name, guidance in (("null", 0.0), ("reversed", -task.sampler.guidance)):
        requests = [Request(task.concept, seed) for seed in seeds]
        images = render(model, model.sample(requests, replace(task.sampler, guidance=guidance)))
        scores_and_votes[name] = majority_vote(view.judges, images, task.concept)
    worst = max(scores_and_votes, key=lambda name: scores_and_votes[name][0].mean())
    score, votes = scores_and_votes[worst]
    low, high = wilson(score.sum(), len(score), comparisons=len(scores_and_votes))
    rates = {name: float(s.mean()) for name, (s, _) in scores_and_votes.items()}
    judges = [{"judge": n, "value": float(v.mean())} for n, v in votes.items()]
    columns = {"seed": np.array(seeds, np.int64), "score": score, **votes}
    return Measured(
        float(score.mean()),
        low,
        high,
        f"wilson, Bonferroni({len(scores_and_votes)})",
        len(score),
        scores=columns,
        judges=judges,
        extra={"rates": rates, "probe": worst},
    )
