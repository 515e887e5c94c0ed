"""Directions of a projection that the storage of its pair carries (docs/mathematics.md, 7).

Axis legend: `L` layers, of experts `L, E`; `R` rank.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svdjax.spectral import statistics
from svdjax.spectral.storage import NAMES, ROUNDING, is_limited

if TYPE_CHECKING:
    from svdjax.spectra.results import ProjectionResult

_SAME = 1e-12  # relative size of a change that is rounding of float64


def limited_layers(projection: ProjectionResult) -> np.ndarray:
    """Layers with more than stray directions below the rounding of base or post, bool [L]."""
    m = projection.metrics
    sides = ((m.rank_base, m.stored_rank_base), (m.rank_post, m.stored_rank_post))
    base, post = (is_limited(np.asarray(r), np.asarray(k), projection.shape) for r, k in sides)
    return base | post


class Rounding(NamedTuple):
    """What rounding to the formats of base and post makes of the numbers of a projection.

    Attributes:
        change: Part of ||W_post|| that it changes by itself, [L].
        hidden: Layers whose change may be smaller than that: together they make sqrt(2) of it,
            bool [L]. Equal matrices are not meant.
        alpha: The most by which it moves the mean scaling factor (Weyl), [L].
        corotation: The most by which c is nearer to 1/2 than that of the change before, [L].
    """

    change: np.ndarray
    hidden: np.ndarray
    alpha: np.ndarray
    corotation: np.ndarray


def rounding_of(projection: ProjectionResult) -> Rounding:
    """`Rounding` of a projection (docs/mathematics.md, 7)."""
    m, (rows, columns) = projection.metrics, projection.shape
    post, svsm = np.asarray(m.norm_post), np.asarray(m.svsm)
    norms = np.abs(np.asarray(m.alpha_ls)) * np.asarray(m.norm_base), post
    eps = np.asarray(m.storage_eps_base), np.asarray(m.storage_eps_post)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = ROUNDING * np.hypot(eps[0] * norms[0], eps[1] * norms[1])
        delta = np.asarray(m.norm_delta)
        top = slice(0, statistics.top_count(svsm.shape[-1]))
        sigma = np.asarray(m.sigma_rounding)[..., None] / np.asarray(m.sigma_base)[..., top]
        rank = np.asarray(m.rank_base, np.float64)
        inside = noise**2 * rank * (rank - 1) / (rows * columns)
        share = inside / np.asarray(m.norm_offdiag) ** 2
        return Rounding(
            change=noise / post,
            hidden=(delta > _SAME * post) & (delta <= math.sqrt(2) * noise),
            alpha=_mean((1 + svsm[..., top]) * sigma),
            corotation=np.minimum(share, 1) / 2,
        )


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of the finite values of each row, NaN where there are none."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0).sum(axis=-1) / finite.sum(axis=-1)


def is_quantised(projection: ProjectionResult) -> np.ndarray:
    """Layers of which a side rounds by more than any format of floats, bool [L]."""
    m = projection.metrics
    return np.maximum(m.storage_eps_base, m.storage_eps_post) > max(NAMES)


def restricted(projection: ProjectionResult) -> ProjectionResult:
    """The projection on the directions that storage carries; itself where it carries all.

    Where a layer is limited by its storage, nf and nf_rank are nf_stored, and the SVSM is NaN
    beyond the top 90 % of the directions that exceed the rounding on both sides. The co-rotation
    share is the share on the directions of base that exceed it.
    """
    limited = limited_layers(projection)
    if not limited.any():
        return projection
    m = projection.metrics
    rank = np.minimum(np.asarray(m.stored_rank_base), np.asarray(m.stored_rank_post))
    top = np.where(rank > 0, np.vectorize(statistics.top_count, otypes=[int])(rank), 0)
    beyond = limited[..., None] & (np.arange(np.shape(m.svsm)[-1]) >= top[..., None])
    metrics = m._replace(
        svsm=np.where(beyond, np.nan, m.svsm),
        nf=np.where(limited, m.nf_stored, m.nf),
        nf_rank=np.where(limited, m.nf_stored, m.nf_rank),
        corotation=np.where(limited, m.corotation_stored, m.corotation),
        corotation_std=np.where(limited, m.corotation_stored_std, m.corotation_std),
        norm_offdiag=np.where(limited, m.norm_offdiag_stored, m.norm_offdiag),
    )
    return dataclasses.replace(projection, metrics=metrics)


def rank_notes(projections: Iterable[ProjectionResult]) -> list[str]:
    """``rank 40 of 64 in what bf16 can carry``, one for each R and format that limit a layer."""
    ranks: dict[tuple[int, str], list[int]] = {}
    for projection in projections:
        projection = projection.flat
        m = projection.metrics
        base, post = np.asarray(m.stored_rank_base), np.asarray(m.stored_rank_post)
        for layer in np.flatnonzero(limited_layers(projection)):
            eps = m.storage_eps_base if base[layer] <= post[layer] else m.storage_eps_post
            name = NAMES.get(float(np.asarray(eps)[layer]), "its quantised format")
            key = min(projection.shape), name
            ranks.setdefault(key, []).append(int(min(base[layer], post[layer])))
    return [
        f"rank {_range(stored)} of {rank} in what {name} can carry"
        for (rank, name), stored in ranks.items()
    ]


def _range(ranks: list[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"
