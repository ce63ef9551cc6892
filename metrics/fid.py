"""FID: the Fréchet distance of retained images to real ones (Heusel et al. 2017).

The variants differ in the features and in the real images: the designated judge's with real test images, Inception's with
real training images, and Inception's on images prepared as for Table 1 of the paper, for a comparison with it alone.
"""

import numpy as np

from sa_bench.contracts import Measured, SampleSet, View, metric
from sa_bench.scoring.distances import FrechetTo, measure_frechet
from sa_bench.scoring.features import (
    PROTOCOL,
    inception_features,
    judge_features,
    stretch_as_published,
)


def measure_distance(x: np.ndarray, y: np.ndarray, images: SampleSet) -> Measured:
    """Measure FID of the features `x` (N, d) of `images` against `y` (M, d).

    The interval is over images, or over prompts where several come from one, by delete-a-group jackknife.
    """
    if min(len(x), len(y)) < 2:
        return Measured(
            None, reason=f"a covariance needs at least 2 images, not {min(len(x), len(y))}"
        )
    return measure_frechet(FrechetTo(x, y), x, y, images)


@metric(
    version=2,
    title="Fréchet distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Heusel et al. 2017 through torch-fidelity; estimand E[FID_N] at the N shown, FID∞ beside it",
    fields=("concept", "designated", "feature_images", "prompts"),
    extras={
        "infinity": ("at infinitely many images", "the metric's"),
        "n_real": None,
        "dimensions": None,
    },
)
def fid(view: View) -> Measured:
    """Measure FID of generated against real.

    Interval over generated images by delete-a-group jackknife.
    """
    return measure_distance(*judge_features(view))


@metric(
    version=1,
    title="FID of retained images (Inception)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="Heusel et al. 2017 in torch-fidelity's inception-v3-compat, layer 2048; estimand E[FID_N], FID∞ beside it",
    fields=("concept", "feature_images", "prompts"),
    extras={
        "infinity": ("at infinitely many images", "the metric's"),
        "n_real": None,
        "dimensions": None,
    },
)
def inception_fid(view: View) -> Measured:
    """Measure FID of generated against real training images.

    Interval by delete-a-group jackknife.
    """
    return measure_distance(*inception_features(view))


@metric(
    version=1,
    title="FID as in Table 1 (BGR, stretched)",
    better="lower",
    unit=None,
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, re-done in inception-v3-compat; compares with Table 1 and nothing else",
    fields=("concept", "feature_images", "prompts"),
    protocol=PROTOCOL,
    extras={
        "infinity": ("at infinitely many images", "the metric's"),
        "n_real": None,
        "dimensions": None,
    },
)
def official_fid(view: View) -> Measured:
    """Measure FID in BGR order against training images, both stretched to 0..255."""
    return measure_distance(*inception_features(view, stretch_as_published))
