"""Sentences about pairs of which storage carries fewer directions than their rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, percent, significant
from svdjax.spectra.storage import is_quantised, rank_notes
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


def quantisation_lead(projections: Sequence[ProjectionResult]) -> str:
    """Sentence for the top of a page; empty where no change may be that of quantisation alone."""
    hidden = sum(int((p.rounding.hidden & is_quantised(p)).sum()) for p in projections)
    if not hidden:
        return ""
    total = sum(projection.matrices for projection in projections)
    return (
        f"In {hidden} of {total} matrices the change is hardly larger than what quantisation alone "
        "makes: a smaller one is invisible."
    )


def quantisation_finding(projections: Sequence[ProjectionResult]) -> str:
    """Sentence for the list of findings: what quantisation hides, and by how much it moves numbers.

    Empty where nothing is quantised.
    """

    def every(values: Callable[[ProjectionResult], np.ndarray]) -> np.ndarray:
        return np.concatenate([values(p)[is_quantised(p)] for p in projections])

    change = every(lambda p: p.rounding.change)
    if not len(change):
        return ""
    nf = every(lambda p: np.asarray(p.metrics.nf_rounding) / p.nf_unrelated)
    alpha, corotation = (
        every(lambda p, name=name: getattr(p.rounding, name)) for name in ("alpha", "corotation")
    )
    hidden = [p.name for p in projections if (p.rounding.hidden & is_quantised(p)).any()]
    text = f" In {listed(hidden)} what is seen may be nothing else." if hidden else ""
    total = sum(projection.matrices for projection in projections)
    return (
        f"Quantisation: {len(change)} of {total} matrices are stored in steps that alone make a "
        f"change of {ends(change, percent)} of ‖W post‖; a smaller one is invisible.{text} The "
        f"steps alone make NF up to {percent(over(np.max, nf))} of the unrelated level, move the "
        "mean scaling factor of a matrix by at most "
        f"{significant(over(np.max, alpha), 2)}, and the co-rotation share towards ½ by at most "
        f"{significant(over(np.max, corotation), 2)}."
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
