"""How far retained images moved from the base model's with the same seeds. A diagnostic only."""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.statistics import clustered


@metric(
    version=1,
    title="Pixel distance to the base model's image of the same seed",
    better=None,  # rewards staying near θ*; retraining scores worst
    unit="L2 in [0, 1] pixels",
    requires=("samples", "base"),
    source="same-seed L2 distance, mean over retained images",
    fields=("concept", "prompts"),
)
def retain_drift(view: View) -> Measured:
    """Measure the mean over retained images of ‖x − x*‖₂, x* from θ* with the same seed.

    The interval is Student's t, over prompts where several images come from one.
    """
    after, before = view.samples["retain"], view.base["retain"]
    if not np.array_equal(after.seeds, before.seeds):
        return Measured(None, reason="these images were not made from the task's seeds")
    shift = (after.images.astype(float) - before.images.astype(float)) / 255
    distance = np.sqrt((shift.reshape(len(shift), -1) ** 2).sum(1))
    return clustered.mean(distance, after.prompts, {**after.columns(), "label": after.labels})
