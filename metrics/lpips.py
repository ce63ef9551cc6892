"""LPIPS: how far retained images moved from the base model's of the same seed, to the eye."""

from dataclasses import replace

import numpy as np

from sa_bench.contracts import Measured, View, metric, undefined
from sa_bench.statistics import clustered


@metric(
    version=2,
    title="Perceptual distance to the base model's image of the same seed",
    better=None,  # like pixel distance it rewards staying near θ*; retraining scores worst
    unit="LPIPS",
    requires=("samples", "base", "lpips"),
    source="Zhang et al. 2018, AlexNet; 64 pixels and same prompt and seed as in ESD and UCE",
    fields=("concept",),
    sets=("forget", "retain", "leakage"),
    extras={
        "forget": ("images of c_f", "the metric's"),
        "leakage": None,
    },
)
def lpips(view: View) -> Measured:
    """Measure the mean distance over retained images; intervals over prompts.

    c_f's own images, and those of other people or styles, stand beside it.
    """
    names = ["forget"]
    if view.task.leakage_images and "leakage" in view.samples:
        names.append("leakage")
    retain = _measure_set(view, "retain")
    if retain.value is None:
        return retain
    measured = {name: _measure_set(view, name) for name in names}
    keys = ("value", "low", "high", "n", "reason")
    return replace(
        retain, extra={name: {k: getattr(m, k) for k in keys} for name, m in measured.items()}
    )


def _measure_set(view: View, name: str) -> Measured:
    """Measure the distance of one sample set to the base model's."""
    after, before = view.samples[name], view.base[name]
    if not np.array_equal(after.seeds, before.seeds):
        return undefined("these images were not made from the task's seeds")
    records = view.detections("lpips", after, before)
    score = np.array([r["distance"] for r in records], float)
    return clustered.mean(score, after.prompts, {**after.columns(), "label": after.labels})
