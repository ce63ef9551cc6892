"""Controllable forgetting, looked at more closely: are c_f's images distributed as the surrogate's are?

`surrogate_fidelity` asks whether each image looks like q's; a model that draws one good image over and over passes it.
"""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_kid
from sa_bench.scoring.features import extract

IMAGES = 500  # of q


@metric(
    version=1,
    title="Kernel distance of c_f's images to the surrogate's",
    better="lower",
    unit=None,
    requires=("samples", "base", "real", "features"),  # q is drawn from θ* where it is a class or a prompt
    source="Bińkowski et al. 2018, Eq. 4, between samples of p(x|θ, c_f) and of q(x|c_f)",
    fields=("concept", "designated", "surrogate"),
    sets=("forget",),
)
def surrogate_kid(view: View) -> Measured:
    """KID of c_f's images against up to 500 of q, in the designated judge's features; interval over c_f's by jackknife.

    Of a fixed set of q each image counts once: repeated ones would stand nearer to each other than q's do.
    """
    judge, name = view.judges[view.task.designated], f"judge-{view.task.dataset}"
    images = view.samples["forget"]
    q = extract(name, judge, np.unique(view.surrogate(IMAGES).images, axis=0))
    return measure_kid(extract(name, judge, images.images), q, images)
