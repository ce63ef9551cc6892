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


def extrapolated(x: np.ndarray, y: np.ndarray, sizes: int = 8, repeats: int = 4) -> float | None:
    """FID at infinite N: the intercept of FID_N over 1/N, N from a quarter of `x` (N, d) to all of it.

    Source: Chong & Forsyth 2020, Section 4. None below 8 d images, where the line does not hold.
    """
    n, d = x.shape
    if n < 8 * d:
        return None
    rng, inverse, found = np.random.default_rng(0), [], []
    for size in np.linspace(n // 4, n, sizes).astype(int):
        for _ in range(repeats if size < n else 1):
            inverse.append(1 / size)
            found.append(frechet(x[rng.permutation(n)[:size]], y))
    return float(np.polyfit(inverse, found, 1)[1])


@metric(
    version=2,
    title="Fréchet distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Heusel et al. 2017 through torch-fidelity; estimand E[FID_N] at the N shown, FID∞ beside it",
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
    fewer = min(n, len(y))
    warning = f"N={fewer} < {d} feature dimensions: biased upward" if fewer < d else None
    extra = {"n_real": len(y), "dimensions": d, "infinity": extrapolated(x, y), "warning": warning}
    how = f"jackknife({groups})" if groups > 1 else None
    return Measured(value, low, high, how, n, scores={"seed": images.seeds}, extra=extra)
