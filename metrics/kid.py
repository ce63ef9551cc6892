"""Kernel distance of retained images to real ones: FID's unbiased relative, which carries an interval."""

import numpy as np

from sa_bench.contracts import View, metric
from sa_bench.feature_sets import generated_and_real
from sa_bench.statistics import Measured, jackknife


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD² with the kernel (x·y/d + 1)³; features (N, d), (M, d). May be negative."""
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())


def jackknifed(x: np.ndarray, y: np.ndarray, groups: int = 20) -> tuple[float, float, float]:
    """(KID, low, high) with every kernel evaluated once."""
    n, m, d = len(x), len(y), x.shape[1]
    xx = (x @ x.T / d + 1) ** 3
    np.fill_diagonal(xx, 0.0)
    xy = ((x @ y.T / d + 1) ** 3).sum(1)
    yy = (y @ y.T / d + 1) ** 3
    real = (yy.sum() - np.trace(yy)) / (m * (m - 1))

    def estimate(rows: np.ndarray) -> float:
        k = len(rows)
        return float(xx[np.ix_(rows, rows)].sum() / (k * (k - 1)) + real - 2 * xy[rows].sum() / (k * m))

    return jackknife(estimate, n, groups)


@metric(
    version=1,
    title="Kernel distance to real retained images",
    better="lower",
    unit=None,
    requires=("samples", "real", "features"),
    source="Bińkowski et al. 2018, Eq. 4 (U-statistic over all images, no subsets)",
    fields=("concept", "designated", "feature_images"),
)
def kid(view: View) -> Measured:
    """KID of generated against real; interval over generated images by delete-a-group jackknife."""
    x, y, images = generated_and_real(view)
    groups = min(20, len(x) // 2)
    if groups < 2:
        return Measured(None, reason=f"{len(x)} images: KID's interval needs at least 4")
    value, low, high = jackknifed(x, y, groups)
    scores = {"seed": images.seeds}
    return Measured(value, low, high, f"jackknife({groups})", len(x), scores=scores, extra={"n_real": len(y)})
