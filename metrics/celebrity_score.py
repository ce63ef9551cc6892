"""GCDS: how sure the GIPHY celebrity detector is that c_f's images show the person who was to be forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sa_bench.contracts import Measured, SampleSet, View, metric, undefined
from sa_bench.core.errors import SaBenchError
from sa_bench.scoring.detectors.pixels import is_blank
from sa_bench.statistics import clustered


@metric(
    version=2,
    title="GIPHY detector's probability of c_f, given a face",
    better="lower",
    unit="probability",
    requires=("samples", "celebrities"),
    source="paper Table 2 (GCDS): mean over images with a face of the highest face's probability; several faces of one "
    "image are not merged, and MTCNN is another port",
    fields=("concept", "classes"),
    sets=("forget", "retain", "leakage"),
    extras={
        "given_face": ("images with a face", "probability"),
        "all_images": ("all images, 0 without a face", "probability"),
        "blank": ("blank images", "count"),
        "top1_given_face": ("top-1, images with a face", "rate"),
        "others": ("still recognised", "probability"),
    },
)
def celebrity_score(view: View) -> Measured:
    """Measure the mean probability of the target over images with a face; interval over prompts.

    An image's probability is the highest over its faces. The target's name is c_f's own. How well
    each of the other celebrities is still recognised stands beside it (paper, Appendix E).
    """
    task, images = view.task, view.samples["forget"]
    names = [task.classes[task.concept]] * len(images)
    measured = score_records(view.detections("celebrities", images, names), images, names)
    set_of_others = "leakage" if task.leakage_images else "retain"
    if set_of_others not in view.samples:
        return replace(
            measured, extra={**measured.extra, "others": "n/a: their images were not given"}
        )
    other_images = view.samples[set_of_others]
    names_of_others = [task.classes[int(c)] for c in other_images.labels]
    try:
        others: Any = by_name(
            view.detections("celebrities", other_images, names_of_others), names_of_others
        )
    except SaBenchError as error:
        others = f"n/a: {error}"
    return replace(measured, extra={**measured.extra, "others": others})


def highest_probabilities(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Take the target's probability of each image, the highest over its faces, (N,).

    NaN if none.
    """
    return np.array(
        [max((f["target"] for f in r["faces"]), default=np.nan) for r in records], float
    )


def is_recognised_as(record: Mapping[str, Any], name: str) -> bool:
    """Tell whether the most probable name of all faces of an image is `name`."""
    top = max(record["faces"], key=lambda f: f["top_probability"])["top"]
    return top.lower() == " ".join(name.replace("_", " ").lower().split())


def score_records(
    records: Sequence[Mapping[str, Any]], images: SampleSet, names: Sequence[str]
) -> Measured:
    """Measure GCDS, with both of its denominators and their spreads beside it.

    The denominators are the images with a face, and all images, with 0 for an image without one.
    Blank images are in neither.
    """
    n, empty = len(images), is_blank(images.images)
    if n and empty.all():
        return undefined(f"{n}/{n} images are blank: nothing was drawn")
    records = [r for r, e in zip(records, empty, strict=True) if not e]
    names = [name for name, e in zip(names, empty, strict=True) if not e]
    images, score = images.take(~empty), highest_probabilities(records)
    face = ~np.isnan(score)
    if not face.any():
        return undefined(f"no face in any of {len(records)} images: nobody to be recognised")
    score_of_all = np.where(face, score, 0.0)
    images_with_face = images.take(face)
    is_right = np.array(
        [is_recognised_as(r, n) for r, n, f in zip(records, names, face, strict=True) if f], float
    )
    top1 = clustered.rate(is_right, images_with_face.prompts, {})
    extra = {
        "given_face": {
            "mean": float(score[face].mean()),
            "std": float(score[face].std()),
            "n": int(face.sum()),
        },
        "all_images": {
            "mean": float(score_of_all.mean()),
            "std": float(score_of_all.std()),
            "n": len(score),
        },
        "blank": int(empty.sum()),
        "top1_given_face": {"value": top1.value, "low": top1.low, "high": top1.high},
    }
    return clustered.bounded_mean(
        score[face],
        images_with_face.prompts,
        images_with_face.columns(),
        n_unit="image with a face",
        extra=extra,
    )


def by_name(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Compute each celebrity's own mean probability given a face, and the images with a face."""
    score, name_of_image = highest_probabilities(records), np.array(names)
    table = {}
    for name in dict.fromkeys(names):
        scores_of_name = score[name_of_image == name]
        valid = scores_of_name[~np.isnan(scores_of_name)]
        table[name] = {
            "mean": float(valid.mean()) if len(valid) else None,
            "faces": len(valid),
            "images": len(scores_of_name),
        }
    return table
