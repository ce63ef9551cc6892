"""KID of retained images to the base model's own: what forgetting changed where no real images are at hand."""

import numpy as np

from sa_bench.contracts import View, metric
from sa_bench.distances import kid_measured
from sa_bench.statistics import Measured


@metric(
    version=1,
    title="KID of retained images to the base model's (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "base", "inception"),
    source="Bińkowski et al. 2018, Eq. 4, in torch-fidelity's inception-v3-compat, layer 2048; no published number has this "
    "reference",
    fields=("concept",),
    protocol={
        "reference": "base model, every second image, other prompts and seeds than those compared with it"
    },
)
def inception_kid_to_base(view: View) -> Measured:
    """KID of every second image against the base model's other half; interval by delete-a-group jackknife.

    The halves share no seed: images of one seed resemble each other, which would flatter whoever changed least.
    """
    after, before = view.samples["retain"], view.base["retain"]
    even, odd = np.arange(0, len(after), 2), np.arange(1, len(before), 2)
    mine, theirs = after.take(even), before.take(odd)
    return kid_measured(view.inception(mine), view.inception(theirs), mine)
