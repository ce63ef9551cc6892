"""Fréchet distance of retained images to real ones, in the named extractor's features."""

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from sa_bench.contracts import View, metric
from sa_bench.feature_sets import generated_and_real
from sa_bench.statistics import Measured, jackknife


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of features (N, d)."""
    left, right = (fid_features_to_statistics(torch.from_numpy(f)) for f in (a, b))
    return float(fid_statistics_to_metric(left, right, False)["frechet_inception_distance"])


@metric(
    version=1,
    title="Fréchet distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Heusel et al. 2017 through torch-fidelity; estimand E[FID_N] at the N shown",
    fields=("concept", "designated", "feature_images"),
)
def fid(view: View) -> Measured:
    """FID of generated against real; interval over generated images by delete-a-group jackknife."""
    x, y, images = generated_and_real(view)
    n, d = x.shape
    if n < 2:
        return Measured(None, reason=f"{n} image(s): a covariance needs at least 2")
    groups = min(20, n // 2)
    if groups < 2:
        value, low, high = frechet(x, y), None, None
    else:
        value, low, high = jackknife(lambda rows: frechet(x[rows], y), n, groups)
    warning = f"N={n} < {d} feature dimensions: biased upward" if min(n, len(y)) < d else None
    extra = {"n_real": len(y), "dimensions": d, "warning": warning}
    return Measured(value, low, high, f"jackknife({groups})", n, scores={"seed": images.seeds}, extra=extra)
