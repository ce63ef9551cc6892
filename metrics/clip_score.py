"""CLIP score: whether retained images still show what their prompts say."""

from dataclasses import replace

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.statistics import clustered


@metric(
    version=2,
    title="CLIP score of retained images and their prompts",
    better="higher",
    unit="CLIP score",
    requires=("samples", "clip"),
    source="Hessel et al. 2021 without their factor 2.5 and cut at 0; ViT-B/32 and 100 cos as in UCE and MACE",
    fields=("concept",),
    sets=("retain", "leakage"),
    extras={
        "prompts_cut": ("prompts cut", "count"),
        "leakage": None,
    },
)
def clip_score(view: View) -> Measured:
    """Measure the mean of 100 cos(image, prompt) over retained images; intervals over prompts.

    The value for other people or styles stands beside it.
    """
    measured = _measure_set(view, "retain")
    if not view.task.leakage_images or "leakage" not in view.samples:
        return measured
    measured_others = _measure_set(view, "leakage")
    columns = {k: getattr(measured_others, k) for k in ("value", "low", "high", "n", "reason")}
    return replace(measured, extra={**(measured.extra or {}), "leakage": columns})


def _measure_set(view: View, name: str) -> Measured:
    """Measure the CLIP score of one sample set."""
    images = view.samples[name]
    records = view.detections("clip", images, view.prompts(images))
    scores = np.array([r["score"] for r in records], float)
    columns = {**images.columns(), "label": images.labels}
    extra = {"prompts_cut": sum(r["cut"] for r in records)}
    return clustered.mean(scores, images.prompts, columns, extra=extra)
