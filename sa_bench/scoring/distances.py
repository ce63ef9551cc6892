"""Distances between two sets of features, for metrics in a judge's or in Inception's features.

Nothing here holds an N x N matrix: 45,000 against 45,000 features of 2,048 dimensions fit in 4 GiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from sa_bench.contracts import Measured, SampleSet
from sa_bench.scoring.features import is_in_manifold
from sa_bench.statistics import (
    Estimate,
    clustered,
    combine_left_out,
    jackknife,
    jackknife_groups,
    rate,
)

ROUNDING = 1e-6
"""Relative error of a Fréchet distance, as a share of the covariances' traces: the square root of a
covariance of float32 features is no more exact."""
QUADRATURE = 1e-6
"""Relative error of the integral behind `FrechetTo.leave_out`. Nearly all of it is the same for every
group and cancels in the jackknife: the half-width is exact to about 1e-6 of itself."""
RANK, SMALLEST = 1e-14, 1e-22
"""Share of the largest eigenvalue below which one is 0 but for rounding, and the smallest to which
an integral over eigenvalues is exact where the rows left out make one 0."""
OfRows = Callable[[np.ndarray], float]
"""Gives the distance to the real images for the generated images with these row numbers."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of features (N, d), by torch-fidelity."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics_a, statistics_b = (fid_features_to_statistics(torch.from_numpy(f)) for f in (a, b))
    value = float(
        fid_statistics_to_metric(statistics_a, statistics_b, False)["frechet_inception_distance"]
    )
    return _clip_rounding(
        value, float(np.trace(statistics_a["sigma"]) + np.trace(statistics_b["sigma"]))
    )


def _clip_rounding(distance: float, traces: float) -> float:
    """Set a Fréchet distance to 0 if it is negative or within the rounding of its traces."""
    return distance if distance > ROUNDING * traces else 0.0


class FrechetTo:
    """The Fréchet distance of `x[rows]` to `y` for many `rows`, fast enough for 2,048 dimensions.

    Equal to torch-fidelity's to rounding, by tr (Σ_x Σ_y)^½ = tr (R Σ_x R)^½ with R = Σ_y^½: this
    matrix is symmetric, so that no eigenvalue is complex, and R is computed once. Leaving a few
    rows out costs only those rows. Measured at d = 2,048, N = M = 10,000 on one CPU core: 1.2 s a
    distance (torch-fidelity: 5.2 s).
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take generated `x` (N, d) and real `y` (M, d), float32 or float64.

        Sums are in float64.
        """
        self.x, self.shift = x, x.mean(0, dtype=np.float64)
        self.all = _sum_moments(x, self.shift)
        zero = y.mean(0, dtype=np.float64)
        self.mean, covariance = _mean_and_covariance(*_sum_moments(y, zero))
        self.mean += zero - self.shift
        self.trace = float(np.trace(covariance))
        values, vectors = np.linalg.eigh(covariance)
        self.root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def __call__(self, rows: np.ndarray) -> float:
        """Compute the distance of `x[rows]`, at least two different rows."""
        if 2 * len(rows) > len(self.x):
            n, total, outer = _sum_moments(
                self.x[np.setdiff1d(np.arange(len(self.x)), rows)], self.shift
            )
            n, total, outer = self.all[0] - n, self.all[1] - total, self.all[2] - outer
        else:
            n, total, outer = _sum_moments(self.x[rows], self.shift)
        mean, covariance = _mean_and_covariance(n, total, outer)
        product = np.linalg.eigvalsh(self.root @ covariance @ self.root)
        root = float(np.sqrt(product.clip(0)).sum())
        return self._combine(mean, float(np.trace(covariance)), root)

    def _combine(self, mean: np.ndarray, trace: float, root: float) -> float:
        """Combine a mean (d,), tr Σ_x and tr (Σ_x Σ_y)^½ to the distance."""
        difference = mean - self.mean
        traces = trace + self.trace
        return _clip_rounding(float(difference @ difference) + traces - 2 * root, traces)

    def leave_out(self, group: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute the distance of all rows, and those without each group, (groups,).

        Together they cost about twice what the distance of all rows costs.

        Without the rows of a group the matrix R Σ_x R is c (A − U Uᵀ), where A is that of all rows
        and U has a column a row left out, and one for the mean. With A = Q Λ Qᵀ and B = Qᵀ U

            tr (A − U Uᵀ)^½ = tr A^½ + 1/π ∫ log det (1 − Bᵀ (Λ + s²)⁻¹ B) ds,   s from 0 to ∞,

        since ∫ log ((b + s²) / (a + s²)) ds = π (√b − √a) for each eigenvalue. The integral is a sum
        over points that lie as densely as the eigenvalues do on a logarithmic scale: the substitution
        of Hale, Higham & Trefethen 2008 (Section 4, method 3), with a geometric rate. Groups of more
        than a third of `d` rows are left out one by one.

        Args:
            group: number of each row's group, 0..groups−1, (N,).
        """
        rows_of_groups = [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]
        n = self.all[0]
        # images without variance have no eigenvalue but rounding
        is_constant = not np.ptp(self.x, axis=0).any()
        if is_constant or 3 * max(map(len, rows_of_groups)) > len(self.shift):
            left_out = [self(np.flatnonzero(group != g)) for g in range(len(rows_of_groups))]
            return self(np.arange(n)), np.array(left_out)
        mean, covariance = _mean_and_covariance(*self.all)
        squares = (n - 1) * float(np.trace(covariance))
        values, vectors = np.linalg.eigh(self.root @ covariance @ self.root)
        kept = values > RANK * values[-1]
        if not kept.all():
            values, vectors = values[kept], vectors[:, kept]
        basis = vectors.T @ self.root / np.sqrt(n - 1)
        root_of_all = float(np.sqrt(values).sum())
        value = self._combine(mean, squares / (n - 1), root_of_all)
        if not kept.all():  # the rounding of the others is part of the distance, as it always was
            value = self(np.arange(n))
        distances = []
        for rows in rows_of_groups:
            z = self.x[rows] - self.shift - mean
            left = n - len(rows)
            moved = -z.sum(0) / left  # the mean of the others, from that of all
            columns = np.vstack([z, np.sqrt(left) * moved])
            change = _integrate_change(values, basis @ columns.T)
            root = np.sqrt((n - 1) / (left - 1)) * max(0.0, root_of_all + change)
            trace = (squares - float((columns**2).sum())) / (left - 1)
            distances.append(self._combine(mean + moved, trace, root))
        return value, np.array(distances)


def _integrate_change(values: np.ndarray, B: np.ndarray) -> float:
    """Compute tr (Λ − B Bᵀ)^½ − tr Λ^½ for `values` Λ > 0 (r,) ascending, and B (r, k) with k < r.

    The difference Λ − B Bᵀ has no negative eigenvalue but for rounding.
    """
    from scipy.special import ellipj, ellipkm1

    scaled, identity = np.empty_like(B), np.eye(B.shape[1])

    def inner(shift: float) -> np.ndarray:
        """Compute 1 − Bᵀ (Λ + shift)⁻¹ B."""
        np.multiply(B, (values + shift)[:, None] ** -0.5, out=scaled)
        return identity - scaled.T @ scaled

    def log_determinant(matrix: np.ndarray) -> float:
        try:
            return 2 * float(np.log(np.diagonal(np.linalg.cholesky(matrix))).sum())
        except np.linalg.LinAlgError:  # singular but for rounding
            return float(np.log(np.linalg.eigvalsh(matrix).clip(np.finfo(float).eps)).sum())

    # no eigenvalue of the difference is smaller than this one, unless it is 0 but for rounding
    lowest = values[0] * float(np.linalg.eigvalsh(inner(0.0))[0])
    ratio = max(SMALLEST, lowest / values[-1])
    low, high = np.sqrt(ratio * values[-1]), np.sqrt(values[-1])
    half = int(np.ceil((3 - np.log(ratio)) * -np.log(QUADRATURE) / (4 * np.pi**2)))
    step = float(ellipkm1(ratio)) / (2 * half)
    sn, cn, dn, _ = ellipj((np.arange(half) + 0.5) * step, 1 - ratio)
    # s = low sc(u), and the other half of the period by sc(K − u) = (high / low) / sc(u)
    points = np.concatenate([low * sn / cn, high * cn / sn])
    weights = step * np.concatenate([low * dn / cn**2, high * dn / sn**2])
    logs = np.array([log_determinant(inner(float(point) ** 2)) for point in points])
    return float(weights @ logs) / np.pi


def _sum_moments(
    x: np.ndarray, shift: np.ndarray, chunk: int = 2000
) -> tuple[int, np.ndarray, np.ndarray]:
    """Compute (N, Σ z, Σ z zᵀ) of z = x − shift."""
    total, outer = np.zeros_like(shift), np.zeros((len(shift), len(shift)))
    for start in range(0, len(x), chunk):
        z = x[start : start + chunk] - shift
        total += z.sum(0)
        outer += z.T @ z
    return len(x), total, outer


def _mean_and_covariance(
    n: int, total: np.ndarray, outer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    mean = total / n
    return mean, (outer - n * np.outer(mean, mean)) / (n - 1)


def extrapolate_fid(
    distance: OfRows, n: int, d: int, sizes: int = 8, repeats: int = 4
) -> float | None:
    """Extrapolate FID to infinite N: intercept of FID_N over 1/N, for N from `n`/4 to `n` images.

    None below 8 `d` images, where the line does not hold. Source: Chong & Forsyth 2020, Section 4.
    """
    if n < 8 * d:
        return None
    rng, inverse, distances = np.random.default_rng(0), [], []
    for size in np.linspace(n // 4, n, sizes).astype(int):
        for _ in range(repeats if size < n else 1):
            inverse.append(1 / size)
            distances.append(distance(rng.permutation(n)[:size]))
    return float(np.polyfit(inverse, distances, 1)[1])


class JackknifePlan(NamedTuple):
    """What a delete-a-group jackknife leaves out."""

    groups: int
    """Number of groups; below 2 there is no interval."""
    clusters: np.ndarray | None
    """Prompt of each image, (N,), whose images stay together; None if images are the units."""
    n: int
    """Number of units: of prompts or images."""

    @property
    def unit(self) -> str:
        """Name of the units."""
        return "images" if self.clusters is None else "prompts"

    @property
    def how(self) -> str:
        """Name of the interval, as results have it."""
        suffix = "" if self.clusters is None else f", clustered by {self.n} prompts"
        return f"jackknife({self.groups}){suffix}"


def _plan_jackknife(images: SampleSet) -> JackknifePlan:
    """Plan a jackknife over images or, where several come from one, over prompts."""
    units = clustered.clusters_of(images.prompts)
    clusters, n = (None, len(images)) if units is None else units
    return JackknifePlan(min(20, n // 2), clusters, n)


def measure_frechet(distance: OfRows, x: np.ndarray, y: np.ndarray, images: SampleSet) -> Measured:
    """Measure FID of `x` (N, d) against `y` (M, d).

    The interval is over generated images or, where several come from one, over prompts, by
    delete-a-group jackknife.
    """
    n, d = x.shape
    units = _plan_jackknife(images)
    if units.groups < 2:
        value, low, high = distance(np.arange(n)), None, None
    elif isinstance(distance, FrechetTo):
        group = jackknife_groups(n, units.groups, units.clusters)
        value, low, high = combine_left_out(*distance.leave_out(group))
    else:
        value, low, high = jackknife(distance, n, units.groups, units.clusters)
    fewer = min(n, len(y))
    warning = f"N={fewer} < {d} feature dimensions: biased upward" if fewer < d else None
    extra = {
        "n_real": len(y),
        "dimensions": d,
        "infinity": extrapolate_fid(distance, n, d),
        "warning": warning,
    }
    how = units.how if units.groups > 1 else None
    return Measured(value, low, high, how, n, scores={"seed": images.seeds}, extra=extra)


def kernel_sums(
    a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray, chunk: int = 2000
) -> np.ndarray:
    """Sum (a_i·b_j/d + 1)³ over i and j (i ≠ j where `a` is `b`), by group of i and of j.

    Args:
        a: features (N, d).
        b: features (M, d).
        group_a: group numbers 0..g−1 (N,).
        group_b: group numbers 0..h−1 (M,).
        chunk: rows of each side at a time.

    Returns:
        Sums (g, h).
    """
    sums = np.zeros((int(group_a.max()) + 1, int(group_b.max()) + 1))
    indicator_a, indicator_b = np.eye(len(sums))[group_a], np.eye(sums.shape[1])[group_b]
    for i in range(0, len(a), chunk):
        for j in range(0, len(b), chunk):
            k = a[i : i + chunk].astype(float) @ b[j : j + chunk].astype(float).T
            k /= a.shape[1]
            k += 1
            k **= 3
            if a is b and i == j:
                np.fill_diagonal(k, 0.0)
            sums += indicator_a[i : i + chunk].T @ k @ indicator_b[j : j + chunk]
    return sums


def jackknife_kid(
    x: np.ndarray, y: np.ndarray, groups: int = 20, clusters: np.ndarray | None = None
) -> Estimate:
    """Estimate KID and its interval; every kernel is evaluated once.

    KID is the unbiased MMD² with the kernel (x·y/d + 1)³; it may be negative. Source: Bińkowski et
    al. 2018, Eq. 4.

    Args:
        x: generated features (N, d).
        y: real features (M, d).
        groups: number of jackknife groups.
        clusters: cluster of each row of `x`, (N,); a cluster is never split between groups.
    """
    n, m = len(x), len(y)
    group, single_group = jackknife_groups(n, groups, clusters), np.zeros(m, int)
    xx, xy = kernel_sums(x, x, group, group), kernel_sums(x, y, group, single_group)[:, 0]
    real = float(kernel_sums(y, y, single_group, single_group)[0, 0]) / (m * (m - 1))

    def estimate(rows: np.ndarray) -> float:
        k, groups_left = len(rows), np.unique(group[rows])
        within = xx[np.ix_(groups_left, groups_left)].sum() / (k * (k - 1))
        return float(within + real - 2 * xy[groups_left].sum() / (k * m))

    return jackknife(estimate, n, groups, clusters)


def measure_kid(x: np.ndarray, y: np.ndarray, images: SampleSet) -> Measured:
    """Measure KID of `x` (N, d) against `y` (M, d).

    The interval is over generated images, by delete-a-group jackknife. A set against itself gets 0:
    the unbiased estimate assumes two independent sets and would be below 0.
    """
    if x.shape == y.shape and sorted(map(bytes, x)) == sorted(map(bytes, y)):
        return Measured(
            0.0,
            None,
            None,
            None,
            len(x),
            extra={"n_real": len(y), "warning": "a set against itself"},
        )
    if len(y) < 2:
        return Measured(None, reason=f"KID needs at least 2 real images, not {len(y)}")
    units = _plan_jackknife(images)
    if units.groups < 2:
        return Measured(None, reason=f"{units.n} {units.unit}: KID's interval needs at least 4")
    value, low, high = jackknife_kid(x, y, units.groups, units.clusters)
    scores, extra = {"seed": images.seeds}, {"n_real": len(y)}
    return Measured(value, low, high, units.how, len(x), scores=scores, extra=extra)


def measure_precision(x: np.ndarray, y: np.ndarray, images: SampleSet) -> Measured:
    """Measure the share of generated `x` (N, d) inside the manifold of real `y` (M, d).

    Interval over `x`.
    """
    if len(y) < 4:
        return Measured(None, reason=f"{len(y)} real images: a point and k = 3 neighbours are 4")
    columns = {**images.columns(), "label": images.labels}
    return clustered.rate(is_in_manifold(x, y), images.prompts, columns, extra={"n_real": len(y)})


def measure_recall(x: np.ndarray, y: np.ndarray, images: SampleSet) -> Measured:
    """Measure the share of real `y` (M, d) inside the manifold of generated `x` (N, d).

    Interval over `y`.
    """
    if len(x) < 4:
        return Measured(
            None, reason=f"{len(x)} generated images: a point and k = 3 neighbours are 4"
        )
    return rate(is_in_manifold(y, x), {}, extra={"n_generated": len(x)})
