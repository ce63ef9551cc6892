"""KID of retained images to the base model's own: what forgetting changed where no real images are at hand."""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_kid
from sa_bench.scoring.face_verification import split_halves


@metric(
    version=2,
    title="KID of retained images to the base model's (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "base", "inception"),
    source="Bińkowski et al. 2018, Eq. 4, in torch-fidelity's inception-v3-compat, layer 2048; no published number has this "
    "reference",
    fields=("concept",),
    protocol={"reference": "base model, every second prompt; with one prompt, every second image"},
)
def inception_kid_to_base(view: View) -> Measured:
    """KID of every second prompt's images to the base model's of the others; delete-a-group jackknife over prompts.

    The halves share no seed and no prompt: images of one resemble each other, which would flatter whoever changed least.
    """
    after, before = view.samples["retain"], view.base["retain"]
    measured, _ = split_halves(after.prompts, len(after))
    mine, theirs = after.take(np.flatnonzero(measured)), before.take(np.flatnonzero(~measured))
    return measure_kid(view.inception(mine), view.inception(theirs), mine)
