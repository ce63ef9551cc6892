"""How often CLIP finds an image of c_f nearer to c_f's words than to what c_f was to become."""

import numpy as np

from sa_bench.contracts import Measured, View, metric, undefined
from sa_bench.scoring.detectors.pixels import is_blank
from sa_bench.statistics import clustered


@metric(
    version=1,
    title="Images of c_f nearer to its words than to the surrogate's",
    better="lower",
    unit="rate",
    requires=("samples", "clip"),
    source="CLIP accuracy of Concept Ablation (Kumari et al. 2023): target against anchor; ViT-B/32",
    fields=("concept", "classes", "surrogate"),
    extras={
        "blank": ("blank images", "count"),
        "concept": ("cosine to c_f's name", None),
        "anchor": ("cosine to the anchor", None),
    },
)
def clip_concept_rate(view: View) -> Measured:
    """Measure the share of images whose cosine to c_f's name exceeds that to the anchor's text.

    Interval over prompts.

    Blank images are invalid: left out and counted. Where the surrogate is no text, the anchor is the empty prompt.
    """
    task, images = view.task, view.samples["forget"]
    blank = is_blank(images.images)
    if blank.all():
        return undefined(f"{len(images)}/{len(images)} images are blank: nothing was drawn")
    valid = images.take(~blank)
    score = [
        np.array([r["score"] for r in view.detections("clip", valid, [text] * len(valid))])
        for text in (task.classes[task.concept], str(task.anchor))
    ]
    extra = {
        "blank": int(blank.sum()),
        "concept": float(score[0].mean()),
        "anchor": float(score[1].mean()),
    }
    return clustered.rate(
        (score[0] > score[1]).astype(float), valid.prompts, valid.columns(), extra=extra
    )
