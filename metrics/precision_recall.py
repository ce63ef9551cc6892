"""Precision: the share of generated images where real ones lie; recall: the share of real ones where generated ones lie.

Kynkäänniemi et al. 2019. What Table 1 of the paper prints as precision is recall, and the other way round, since the
official evaluator was called with its arguments exchanged: the `official_` variants are named as the table prints them.
"""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.distances import measure_precision, measure_recall
from sa_bench.scoring.features import (
    PROTOCOL,
    inception_features,
    judge_features,
    stretch_as_published,
)


@metric(
    version=1,
    title="Precision on the retained classes",
    better="higher",
    unit="rate",
    requires=("samples", "real", "features"),
    source="Kynkäänniemi et al. 2019, k = 3; radii frozen, so the interval is over generated images",
    fields=("concept", "designated", "feature_images"),
    extras={"n_real": None},
)
def precision(view: View) -> Measured:
    """Measure the share of generated images inside the real images' manifold.

    It rises on collapse, so nothing is ranked by it.
    """
    return measure_precision(*judge_features(view))


@metric(
    version=1,
    title="Recall on the retained classes",
    better="higher",
    unit="rate",
    requires=("samples", "real", "features"),
    source="Kynkäänniemi et al. 2019, k = 3; radii frozen, so the interval is over real images",
    fields=("concept", "designated", "feature_images"),
    extras={"n_generated": None},
)
def recall(view: View) -> Measured:
    """Measure the share of real retained images inside the generated images' manifold."""
    return measure_recall(*judge_features(view))


@metric(
    version=1,
    title="Precision on the retained classes (Inception)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="Kynkäänniemi et al. 2019, k = 3, in torch-fidelity's inception-v3-compat, layer 2048; radii frozen",
    fields=("concept", "feature_images"),
    extras={"n_real": None},
)
def inception_precision(view: View) -> Measured:
    """Measure the share of generated images inside the real training images' manifold. Rises on collapse."""
    return measure_precision(*inception_features(view))


@metric(
    version=1,
    title="Recall on the retained classes (Inception)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="Kynkäänniemi et al. 2019, k = 3, in torch-fidelity's inception-v3-compat, layer 2048; radii frozen",
    fields=("concept", "feature_images"),
    extras={"n_generated": None},
)
def inception_recall(view: View) -> Measured:
    """Measure the share of real training images inside the generated images' manifold."""
    return measure_recall(*inception_features(view))


@metric(
    version=1,
    title="Table 1's column “precision” (recall; BGR, stretched)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, called (generated, real); compares with Table 1 and nothing else",
    fields=("concept", "feature_images"),
    protocol=PROTOCOL,
    extras={"n_generated": None},
)
def official_precision(view: View) -> Measured:
    """Measure the share of real images inside the generated images' manifold.

    Table 1 prints it as precision.
    """
    return measure_recall(*inception_features(view, stretch_as_published))


@metric(
    version=1,
    title="Table 1's column “recall” (precision; BGR, stretched)",
    better="higher",
    unit="rate",
    requires=("samples", "real", "inception"),
    source="the official code's evaluator, called (generated, real); compares with Table 1 and nothing else",
    fields=("concept", "feature_images"),
    protocol=PROTOCOL,
    extras={"n_real": None},
)
def official_recall(view: View) -> Measured:
    """Measure the share of generated images inside the real images' manifold.

    Table 1 prints it as recall.
    """
    return measure_precision(*inception_features(view, stretch_as_published))
