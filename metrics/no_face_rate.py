"""How often c_f's images show no face at all: the first column of the paper's Table 2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sa_bench.contracts import Measured, SampleSet, View, metric, undefined
from sa_bench.scoring.detectors.pixels import is_blank
from sa_bench.statistics import clustered


@metric(
    version=2,
    title="Images of c_f without a face",
    better="lower",  # a method that forgets a person by destroying faces pays here
    unit="rate",
    requires=("samples", "faces"),
    source="paper Table 2, `proportion of images without faces`; MTCNN of facenet-pytorch, settings of GIPHY's first stage",
    fields=("concept",),
    extras={
        "several": ("images with several faces", "count"),
        "blank": ("blank images", "count"),
    },
)
def no_face_rate(view: View) -> Measured:
    """Measure the share of c_f's images in which MTCNN finds no face; interval over prompts.

    Blank images are invalid, not faceless: left out and counted; a set of nothing else has no value.
    """
    images = view.samples["forget"]
    return measure_without_faces(view.detections("faces", images), images)


def measure_without_faces(records: Sequence[Mapping[str, Any]], images: SampleSet) -> Measured:
    """Measure the rate of images without a face from one record an image.

    Blank images are left out and counted.
    """
    n, blank = len(images), is_blank(images.images)
    if n and blank.all():
        return undefined(f"{n}/{n} images are blank: nothing was drawn")
    valid = images.take(~blank)
    faces = np.array([len(r["faces"]) for r, e in zip(records, blank, strict=True) if not e], float)
    extra = {"several": int((faces > 1).sum()), "blank": int(blank.sum())}
    columns = {**valid.columns(), "faces": faces}
    return clustered.rate((faces == 0).astype(float), valid.prompts, columns, extra=extra)
