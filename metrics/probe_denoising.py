"""Free probe: from a real image of c_f, half noised, does the model find its way back?"""

from typing import Any, cast

import numpy as np
import torch

from sa_bench.contracts import Draw, Measured, View, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.sampling import render
from sa_bench.statistics import rate

IMAGES = 50
LEVELS = (300, 600)  # timesteps of 1,000; at 300 the digit is still visible, at 600 hardly


@metric(
    version=1,
    title="Real images of c_f noised to t = 600 and denoised to c_f",
    better=None,  # even a model that never saw c_f finishes what it is shown
    unit="rate",
    requires=("model", "diffusion", "judges", "real"),
    source="SDEdit (Meng et al. 2022) as a probe; DDIM without noise, unconditional and under c_f",
    fields=("concept", "judges", "sampler"),
    extras={"rates": ("probe", "rate")},
)
def probe_denoising(view: View) -> Measured:
    """Measure the rate of c_f among unconditional completions from t = 600.

    300 and c_f's own condition in extra.
    """
    task, model = view.task, cast(Any, view.model)
    x = model.encode(view.real("forget_test").images[:IMAGES])
    noise, scores_and_votes = model.draw(len(x), view.rng("probe denoising")).noise, {}
    for level in LEVELS:
        t = torch.full((len(x),), level, device=x.device)
        for name, c in (("null", model.null), ("own", task.concept)):
            start = model.add_noise(x, Draw(noise, t))
            images = render(
                model, model.finish(start, model.conditions([c] * len(x)), level, task.sampler)
            )
            scores_and_votes[f"{level}/{name}"] = majority_vote(view.judges, images, task.concept)
    score, votes = scores_and_votes["600/null"]
    rates = {name: float(s.mean()) for name, (s, _) in scores_and_votes.items()}
    judges = [{"judge": n, "value": float(v.mean())} for n, v in votes.items()]
    return rate(
        score, {"row": np.arange(len(score)), **votes}, judges=judges, extra={"rates": rates}
    )
