"""Statistics over the layers of a projection (docs/mathematics.md, 2 and 3), in numpy.

Axis legend: `L` layers, `R` = min(in, out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SvsmStatistics:
    """Statistics of the singular value scaling of one projection type.

    Attributes:
      alpha_mean: mean over all layers of the top 90 % (Table 3).
      alpha_std: population standard deviation of the same entries.
      alpha_prime: alpha_mean rounded to one decimal (Table 4).
      layer_mean: mean per layer (figure 8), [L].
      layer_std: population standard deviation per layer, [L].
      top: how many entries of each layer are looked at.
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
      sigma_base: singular values of base, [L, R].
      sigma_post: those of post, [L, R].
      shape: (in, out) of the matrices.
      eps: of the dtype they were computed in.
    """
    live = sigma_base > max(shape) * eps * sigma_base[:, :1]
    return np.divide(sigma_post, sigma_base, out=np.full(live.shape, np.nan), where=live)


def svsm_statistics(svsm: np.ndarray) -> SvsmStatistics:
    """Mean and spread of the scaling over the top 90 % of the singular values.

    Args:
      svsm: s_post / s_base, [L, R], NaN where s_base is 0.

    Returns:
      `SvsmStatistics`; NaN where a layer, or all of them, has no entry that is a number.
    """
    svsm = np.asarray(svsm, np.float64)
    top = svsm[:, : top_count(svsm.shape[1])]
    mean, std = _moments(top.reshape(-1))
    layers = [_moments(layer) for layer in top]
    return SvsmStatistics(
        alpha_mean=mean,
        alpha_std=std,
        alpha_prime=round(mean, 1) if math.isfinite(mean) else math.nan,
        layer_mean=np.array([m for m, _ in layers]),
        layer_std=np.array([s for _, s in layers]),
        top=top.shape[1],
        nan_top=int(np.isnan(top).sum()),
        nan_all=int(np.isnan(svsm).sum()),
    )


def nf_unrelated(rows: int, columns: int) -> float:
    """Level of NF between unrelated matrices [in, out]: sqrt(1/in + 1/out).

    Exactly the RMS of NF when one of the two is Haar-random (*derived*, docs/mathematics.md).
    """
    return math.sqrt(1 / rows + 1 / columns)


def _moments(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan, math.nan
    return float(values.mean()), float(values.std())
