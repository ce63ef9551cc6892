"""LPIPS: how far retained images moved from the base model's of the same seed, to the eye."""

from dataclasses import replace

import numpy as np

from sa_bench import clustered
from sa_bench.contracts import View, metric
from sa_bench.statistics import Measured, undefined


@metric(
    version=1,
    title="Perceptual distance to the base model's image of the same seed",
    better=None,  # like pixel distance it rewards staying near θ*; retraining scores worst
    unit="LPIPS",
    requires=("samples", "base", "lpips"),
    source="Zhang et al. 2018, AlexNet; 64 pixels and same prompt and seed as in ESD and UCE",
    fields=("concept",),
)
def lpips(view: View) -> Measured:
    """Mean over retained images; c_f's own stands beside it. Intervals over prompts."""
    found = {name: _moved(view, name) for name in ("retain", "forget")}
    if found["retain"].value is None:
        return found["retain"]
    beside = {k: getattr(found["forget"], k) for k in ("value", "low", "high", "n", "reason")}
    return replace(found["retain"], extra={"forget": beside})


def _moved(view: View, name: str) -> Measured:
    after, before = view.samples[name], view.base[name]
    if not np.array_equal(after.seeds, before.seeds):
        return undefined("these images were not made from the task's seeds")
    records = view.detections("lpips", after, before)
    score = np.array([r["distance"] for r in records], float)
    return clustered.mean(score, after.prompts, {**after.columns(), "label": after.labels})
