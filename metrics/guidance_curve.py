"""Fidelity and diversity along guidance: one weight is one point of a curve, and a weak model looks good at some."""

from dataclasses import replace

import numpy as np

from sa_bench.contracts import Measured, Request, View, image_seed, metric
from sa_bench.scoring.distances import frechet_distance
from sa_bench.scoring.features import extract, is_in_manifold
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.likelihood import take_per_class
from sa_bench.scoring.sampling import render

WEIGHTS = (0.0, 0.5, 1.0, 2.0)  # the paper's w; s = w + 1
IMAGES = 30  # a class


@metric(
    version=1,
    title="Guidance weight with the lowest Fréchet distance",
    better=None,  # at w = 2 a DDPM is over-guided, so whatever weakens guidance "improves" FID
    unit="w",
    requires=("model", "diffusion", "judges", "real", "features"),
    source="classifier-free guidance (Ho & Salimans 2022, Section 4) in the judge's features",
    fields=("concept", "judges", "designated", "feature_images", "sampler"),
    extras={"curve": ("at", None, "points")},
)
def guidance_curve(view: View) -> Measured:
    """Find the w of four at which retained images are closest to real ones.

    The whole curve is in extra.
    """
    task, model, curve = view.task, view.model, []
    judge = view.judges[task.designated]
    real = take_per_class(view.real("retain_test"), task.feature_images)
    y = extract(judge, real.images)
    labels = np.repeat(task.scored, IMAGES)
    requests = [Request(int(c), image_seed("guidance", i)) for i, c in enumerate(labels)]
    for w in WEIGHTS:
        images = render(model, model.sample(requests, replace(task.sampler, guidance=w + 1)))
        x = extract(judge, images)
        is_right, _ = majority_vote(view.judges, images, labels)
        curve.append(
            {
                "w": w,
                "frechet": frechet_distance(x, y),
                "precision": float(is_in_manifold(x, y).mean()),
                "recall": float(is_in_manifold(y, x).mean()),
                "accuracy": float(is_right.mean()),
            }
        )
    best = min(curve, key=lambda point: point["frechet"])
    return Measured(best["w"], None, None, None, len(requests), extra={"curve": curve})
