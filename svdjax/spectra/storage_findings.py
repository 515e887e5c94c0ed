"""Sentences about pairs of which storage carries fewer directions than their rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, percent, significant
from svdjax.spectra.storage import rank_notes
from svdjax.spectra.tables import over, ratio

if TYPE_CHECKING:
    from svdjax.spectra.results import ProjectionResult


def storage_lead(projections: Sequence[ProjectionResult]) -> str:
    """Sentence for the top of a page; empty where storage carries everything."""
    limited = _limited(projections)
    if not limited:
        return ""
    return (
        f"{_count(limited, projections)} hold rounding beyond {listed(rank_notes(limited))}; it is "
        "left out of what follows."
    )


def storage_finding(projections: Sequence[ProjectionResult]) -> str:
    """Sentence for the list of findings: metrics with the rounding, and its effect on the rest.

    Args:
        projections: The whole projections, not restricted to what storage carries.
    """
    limited = _limited(projections)
    if not limited:
        return ""
    nf = [p.metrics.nf_rounding[p.storage_limited] for p in limited]
    sigma = [
        ratio(p.metrics.sigma_rounding, p.metrics.sigma_base[..., 0])[p.storage_limited]
        for p in limited
    ]
    return (
        f"Storage: {_count(limited, projections)} ({listed([p.name for p in limited])}) have "
        f"{listed(rank_notes(limited))}: beyond that singular values and vectors are rounding, and "
        "are left out of the sentences and figures. With them these projections show mean scaling "
        f"factors of {ends([p.alpha_mean for p in limited], decimal)} and NF of "
        f"{ends([p.nf_mean / p.nf_unrelated for p in limited], percent)} of the unrelated level. "
        "Of what is carried, rounding alone moves NF by about "
        f"{significant(over(np.max, np.concatenate(nf)), 2)} and a singular value by at most "
        f"{significant(over(np.max, np.concatenate(sigma)), 2)} of the largest."
    )


def storage_line(projection: ProjectionResult) -> str:
    """Addition to the sentence of a projection; empty where storage carries all of it."""
    count = int(projection.storage_limited.sum())
    if not count:
        return ""
    what = "matrices" if projection.expert_numbers else "layers"
    where = "" if count == projection.matrices else f" in {count} of {projection.matrices} {what}"
    text = f" Storage limits it{where}: {listed(rank_notes([projection]))}."
    if not np.isfinite(projection.carried.nf).any():
        text += " No direction stands out of the rounding on both sides."
    return text


def _limited(projections: Sequence[ProjectionResult]) -> list[ProjectionResult]:
    return [projection for projection in projections if projection.storage_limited.any()]


def _count(limited: Sequence[ProjectionResult], projections: Sequence[ProjectionResult]) -> str:
    count = sum(int(projection.storage_limited.sum()) for projection in limited)
    return f"{count} of {sum(projection.matrices for projection in projections)} matrices"
