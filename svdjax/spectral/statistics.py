"""Statistics over the layers of a projection (docs/mathematics.md, 2 and 3), in numpy.

Axis legend: `L` layers, `R` = min(in, out).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

ANGLE = 0.01
"""Angle (radians) by which a singular vector may be off before it counts as arbitrary."""


@dataclass(frozen=True)
class SvsmStatistics:
    """Statistics of the singular value scaling of one projection type.

    Attributes:
        alpha_mean: Mean over all layers of the top 90 % (Table 3).
        alpha_std: Population standard deviation of the same entries.
        alpha_prime: Alpha_mean rounded to one decimal (Table 4).
        layer_mean: Mean per layer (figure 8), [L]; with experts of each matrix, [L, E].
        layer_std: Population standard deviation per layer, [L] or [L, E].
        top: How many entries of each layer are looked at.
        nan_top: NaN among them, left out of the statistics.
        nan_all: NaN among all entries.
    """

    alpha_mean: float
    alpha_std: float
    alpha_prime: float
    layer_mean: np.ndarray
    layer_std: np.ndarray
    top: int
    nan_top: int
    nan_all: int


def top_count(r: int) -> int:
    """How many singular values are the top 90 %: floor(0.9 r), but one of a single one."""
    return max(1, 9 * r // 10)


def svsm(
    sigma_base: np.ndarray, sigma_post: np.ndarray, shape: tuple[int, int], eps: float
) -> np.ndarray:
    """Scaling sigma_post / sigma_base (eq. 4), NaN from the numerical rank of base on, [L, R].

    Args:
        sigma_base: Singular values of base, [L, R].
        sigma_post: Those of post, [L, R].
        shape: (in, out) of the matrices.
        eps: Of the dtype they were computed in.
    """
    live = sigma_base > max(shape) * eps * sigma_base[:, :1]
    return np.divide(sigma_post, sigma_base, out=np.full(live.shape, np.nan), where=live)


def clustered(gaps: ArrayLike, sigma: ArrayLike, error: ArrayLike) -> np.ndarray:
    """Which singular values are equal to another one as far as can be told, [..., R].

    Their singular vectors mix: by Davis and Kahan a vector is off by an angle of up to
    ``error / (gap sigma)``, which from `ANGLE` on counts as arbitrary. Entries of sim_U, sim_V and
    I_orth, and its diagonal, that belong to them mean nothing alone.

    Args:
        gaps: Distance of each singular value to the nearest other one, relative to itself,
            [..., R].
        sigma: The singular values, [..., R].
        error: Estimate of the absolute error of any of them, [...].
    """
    distance = np.asarray(gaps, np.float64) * np.asarray(sigma, np.float64)
    return distance * ANGLE <= np.asarray(error, np.float64)[..., None]


def svsm_statistics(svsm: np.ndarray) -> SvsmStatistics:
    """Mean and spread of the scaling over the top 90 % of the singular values.

    Args:
        svsm: S_post / s_base, [L, R] or [L, E, R], NaN where s_base is 0.

    Returns:
        `SvsmStatistics`; NaN where a layer, or all of them, has no entry that is a number.
    """
    svsm = np.asarray(svsm, np.float64)
    top = svsm[..., : top_count(svsm.shape[-1])]
    mean, std = _moments(top.reshape(-1))
    each = np.array([_moments(layer) for layer in top.reshape(-1, top.shape[-1])])
    layers = each.reshape(*top.shape[:-1], 2)
    return SvsmStatistics(
        alpha_mean=mean,
        alpha_std=std,
        alpha_prime=round(mean, 1) if math.isfinite(mean) else math.nan,
        layer_mean=layers[..., 0].copy(),
        layer_std=layers[..., 1].copy(),
        top=top.shape[-1],
        nan_top=int(np.isnan(top).sum()),
        nan_all=int(np.isnan(svsm).sum()),
    )


def pooled_moments(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of equally many values of each expert together.

    Args:
        mean: Of the values of every expert, [L, E], NaN where there is none.
        std: Their population standard deviation, [L, E].

    Returns:
        Both over the experts, [L].
    """
    known = np.isfinite(mean)
    count = known.sum(axis=1)

    def average(values: np.ndarray) -> np.ndarray:
        total = np.where(known, values, 0).sum(axis=1)
        return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)

    pooled = average(mean)
    return pooled, np.sqrt(average(std**2 + (mean - pooled[:, None]) ** 2))


def nf_unrelated(rows: int, columns: int) -> float:
    """Level of NF between unrelated matrices [in, out]: sqrt(1/in + 1/out).

    Exactly the RMS of NF when one of the two is Haar-random (*derived*, docs/mathematics.md).
    """
    return math.sqrt(1 / rows + 1 / columns)


@dataclass(frozen=True)
class PooledCorotation:
    """Co-rotation share of several matrices, all their pairs of directions together.

    Attributes:
        share: ``1/2 + sum K_ij K_ji / sum (K_ij^2 + K_ji^2)`` over the pairs of all matrices.
        z: ``(share - 1/2)`` in standard deviations under random signs.
        p: Two-sided p-value of z from the normal distribution, of this test alone.
    """

    share: float
    z: float
    p: float


def pooled_corotation(share: np.ndarray, std: np.ndarray, norm: np.ndarray) -> PooledCorotation:
    """Pools co-rotation shares of independent matrices (*derived*, docs/mathematics.md, 9).

    Numerators, denominators and variances of the shares add up; a matrix counts by the square of
    its change.

    Args:
        share: Co-rotation share of every matrix, NaN where it is not defined, [L].
        std: Its standard deviation under random signs, [L].
        norm: ||K||_F off the diagonal, [L].

    Returns:
        `PooledCorotation`; NaN where no matrix has a share.
    """
    share, std, norm = (np.asarray(values, np.float64) for values in (share, std, norm))
    known = np.isfinite(share)
    if not known.any():
        return PooledCorotation(math.nan, math.nan, math.nan)
    weight = (norm[known] / norm[known].max()) ** 2
    weight /= weight.sum()
    excess = float(weight @ (share[known] - 0.5))
    deviation = math.sqrt(float(weight**2 @ std[known] ** 2))
    z = excess / deviation if deviation > 0 else 0.0
    return PooledCorotation(0.5 + excess, z, math.erfc(abs(z) / math.sqrt(2)))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method.

    The m-th smallest of n is multiplied by n - m + 1, none is smaller than one before it, none
    exceeds 1. Rejecting those at or below a level keeps the probability of any false rejection
    within that level, whatever the dependence (Holm, Scand. J. Statist. 6, 1979).

    Args:
        p_values: P-values of the tests; NaN for a test that was not made, which does not count.

    Returns:
        The corrected p-values in the same order, NaN where they were.
    """
    p = np.asarray(p_values, np.float64)
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return corrected


def _moments(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan, math.nan
    return float(values.mean()), float(values.std())
