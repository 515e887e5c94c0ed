"""Sentences about pairs of which storage carries less than their singular values seem to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, percent, significant
from svdjax.spectra.storage import rank_notes
from svdjax.spectra.tables import over, ratio

if TYPE_CHECKING:
    from svdjax.spectra.results import ProjectionResult


def storage_lead(results: Sequence[ProjectionResult]) -> list[str]:
    """A sentence for the top of a page, where any matrix is limited by its storage."""
    limited = _limited(results)
    if not limited:
        return []
    return [
        f"{_count(limited, results)} hold rounding beyond {_notes(limited)}; it is left out of "
        "what follows."
    ]


def storage_findings(results: Sequence[ProjectionResult]) -> list[str]:
    """What the rounding would have been taken for, and what it makes of the rest.

    Args:
      results: of the whole matrices, not restricted.
    """
    limited = _limited(results)
    if not limited:
        return []
    nf = [over(np.max, np.where(_at(one), one.metrics.nf_rounding, np.nan)) for one in limited]
    sigma = [
        over(np.max, ratio(m.sigma_rounding, m.sigma_base[:, 0])[_at(one)])
        for one in limited
        for m in (one.metrics,)
    ]
    whole = (
        f"mean scaling factors of {ends([one.alpha_mean for one in limited], decimal)} and NF of "
        f"{ends([one.nf_mean / one.nf_unrelated for one in limited], percent)} of the unrelated "
        "level"
    )
    return [
        f"Storage: {_count(limited, results)} ({listed([one.name for one in limited])}) have "
        f"{_notes(limited)}: beyond that singular values and vectors are rounding, and are left "
        f"out of the sentences and figures. With them these projections show {whole}. Of what is "
        f"carried, rounding alone moves NF by about {significant(over(np.max, nf), 2)} and a "
        f"singular value by at most {significant(over(np.max, sigma), 2)} of the largest."
    ]


def storage_line(one: ProjectionResult) -> str:
    """What is added to the sentence of a projection; nothing where storage carries all of it."""
    count = int(np.sum(one.storage_limited))
    if not count:
        return ""
    where = "" if count == one.layers else f" in {count} of {one.layers} layers"
    text = f" Storage limits it{where}: {_notes([one])}."
    if not np.isfinite(np.asarray(one.carried.nf)).any():
        text += " No direction stands out of the rounding on both sides."
    return text


def _limited(results: Sequence[ProjectionResult]) -> list[ProjectionResult]:
    return [one for one in results if _at(one).any()]


def _at(one: ProjectionResult) -> np.ndarray:
    return np.asarray(one.storage_limited)


def _notes(results: Sequence[ProjectionResult]) -> str:
    return listed(rank_notes(results))


def _count(limited: Sequence[ProjectionResult], results: Sequence[ProjectionResult]) -> str:
    count, total = sum(int(_at(one).sum()) for one in limited), sum(one.layers for one in results)
    return f"{count} of {total} matrices"
