"""Directions of a projection that the storage of its pair carries (docs/mathematics.md, 7).

Axis legend: `L` layers, `R` rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from svdjax.spectral import statistics
from svdjax.spectral.storage import NAMES, is_limited

if TYPE_CHECKING:
    from svdjax.spectra.results import ProjectionResult


def limited_layers(projection: ProjectionResult) -> np.ndarray:
    """Layers with more than stray directions below the rounding of base or post, bool [L]."""
    m = projection.metrics
    sides = ((m.rank_base, m.stored_rank_base), (m.rank_post, m.stored_rank_post))
    base, post = (is_limited(np.asarray(r), np.asarray(k), projection.shape) for r, k in sides)
    return base | post


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
            name = NAMES.get(float(np.asarray(eps)[layer]), "its format")
            key = min(projection.shape), name
            ranks.setdefault(key, []).append(int(min(base[layer], post[layer])))
    return [
        f"rank {_range(stored)} of {rank} in what {name} can carry"
        for (rank, name), stored in ranks.items()
    ]


def _range(ranks: list[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"
