"""KID: the kernel distance between two sets of images, FID's unbiased relative (Bińkowski et al. 2018).

The variants differ in the features and in the reference: real test images in the designated judge's features, real training
images or the base model's own in Inception's, and, for c_f's images, the surrogate's. The last asks whether c_f's images are
distributed as q's are; `surrogate_fidelity` asks it of each image alone, and a model that draws one good image over and over
passes that.
"""

import numpy as np

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_kid
from sa_bench.scoring.face_verification import split_halves
from sa_bench.scoring.features import extract, inception_features, judge_features

SURROGATES = 500  # images of q


@metric(
    version=1,
    title="Kernel distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Bińkowski et al. 2018, Eq. 4 (U-statistic over all images, no subsets)",
    fields=("concept", "designated", "feature_images"),
    extras={"n_real": None},
)
def kid(view: View) -> Measured:
    """Measure KID of generated against real.

    Interval over generated images by delete-a-group jackknife.
    """
    return measure_kid(*judge_features(view))


@metric(
    version=1,
    title="KID of retained images (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="Bińkowski et al. 2018, Eq. 4, in torch-fidelity's inception-v3-compat, layer 2048 (all images, no subsets)",
    fields=("concept", "feature_images"),
    extras={"n_real": None},
)
def inception_kid(view: View) -> Measured:
    """Measure KID of generated against real training images.

    Interval by delete-a-group jackknife.
    """
    return measure_kid(*inception_features(view))


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
    extras={"n_real": None},
)
def inception_kid_to_base(view: View) -> Measured:
    """Measure KID of every second prompt's images to the base model's of the others.

    Delete-a-group jackknife over prompts.

    The halves share no seed and no prompt: images of one seed or prompt resemble each other, which would favour the
    method that changes least.
    """
    after, before = view.samples["retain"], view.base["retain"]
    measured, _ = split_halves(after.prompts, len(after))
    measured_images, reference_images = (
        after.take(np.flatnonzero(measured)),
        before.take(np.flatnonzero(~measured)),
    )
    return measure_kid(
        view.inception(measured_images), view.inception(reference_images), measured_images
    )


@metric(
    version=1,
    title="Kernel distance of c_f's images to the surrogate's",
    better="lower",
    unit=None,
    # `base`: q is drawn from θ* where it is a class or a prompt.
    requires=("samples", "base", "real", "features"),
    source="Bińkowski et al. 2018, Eq. 4, between samples of p(x|θ, c_f) and of q(x|c_f)",
    fields=("concept", "designated", "surrogate"),
    sets=("forget",),
    extras={"n_real": None},
)
def surrogate_kid(view: View) -> Measured:
    """Measure KID of c_f's images against up to 500 of q, in the designated judge's features.

    Interval over c_f's by jackknife.

    Where q is a fixed set, each of its images counts once: repeated ones would be closer to each other than q's are.
    """
    judge, images = view.judges[view.task.designated], view.samples["forget"]
    q = extract(judge, np.unique(view.surrogate(SURROGATES).images, axis=0))
    return measure_kid(extract(judge, images.images), q, images)
