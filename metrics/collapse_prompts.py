"""The collapse guard where detectors judge: do retained images still show anything of what their prompts say?"""

from dataclasses import replace

import numpy as np

from sa_bench.contracts import Measured, SampleSet, View, metric, undefined
from sa_bench.statistics import clustered

BOUND = 0.5


@metric(
    version=1,
    title="What is left of the tie between retained images and their prompts",
    better=None,  # a guard: below its bound a row is flagged and leaves the ranking
    unit="share of the base",
    requires=("samples", "base", "clip"),
    source="100 cos of CLIP ViT-B/32 as in clip_score; zero and bound are this suite's",
    fields=("concept",),
    protocol={"zero": "the base model's images with the prompts half a set on", "bound": BOUND},
)
def collapse_prompts(view: View) -> Measured:
    """Measure (s − s₀) / (s_base − s₀), with s the mean CLIP score of retained images.

    s₀ is the score of the base's images with other images' prompts. The value is flagged if its
    upper bound, over prompts, is below one half: most of what ties an image to its prompt is gone.
    """
    after, before = view.samples["retain"], view.base["retain"]
    texts = view.prompts(before)
    other_texts = [*texts[len(texts) // 2 :], *texts[: len(texts) // 2]]
    own_scores, zero_scores = (
        _score_images(view, before, texts),
        _score_images(view, before, other_texts),
    )
    tie = clustered.mean(own_scores - zero_scores, before.prompts, {})
    if len(set(texts)) < 2 or tie.low is None or tie.low <= 0:
        return undefined(
            "CLIP scores the base model's images no higher with their own prompts than with each other's"
        )
    share = (_score_images(view, after, view.prompts(after)) - zero_scores.mean()) / (
        own_scores.mean() - zero_scores.mean()
    )
    measured = clustered.mean(share, after.prompts, {**after.columns(), "label": after.labels})
    if measured.high is None or measured.high >= BOUND:
        return measured
    percent = 100 * (measured.value or 0.0)
    warning = f"retained images keep {percent:.0f} % of the base's tie to their prompts, its bound {100 * BOUND:.0f} %"
    return replace(measured, extra={"warning": warning})


def _score_images(view: View, images: SampleSet, texts: list[str]) -> np.ndarray:
    return np.array([r["score"] for r in view.detections("clip", images, texts)], float)
