"""Sentences on the co-rotation share: whether both sides turned by one rotation.

NF and eq. 8 answer the same question. The verdict is given by the co-rotation share, as it alone
has a null that preserves where the change lies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, p_value, percent
from svdjax.spectra.tables import explained_share, over

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

LEVEL = 0.05
"""Level of the tests, after Holm's correction for the number of projections."""

TOGETHER, APART = 0.9, 0.1
"""Shares from which, and down to which, a change is called one of a common rotation, or of none."""

SMALL = 0.3
"""Relative size of a change up to which the share that eq. 8 explains of any small change holds."""

_VERDICTS = {
    "together": "both sides turned by one rotation",
    "more": "they turned alike more than by chance, far from one rotation",
    "none": "no relation beyond what the magnitudes of the change give can be told",
    "less": "they turned apart more than by chance, far from wholly so",
    "apart": "they turned apart: against each other, or one side by itself",
}
_share = functools.partial(decimal, digits=3)


def verdict(share: float, p: float) -> str:
    """Verdict on a pooled co-rotation share and its corrected two-sided p.

    Returns:
        ``together`` (p <= `LEVEL`, share >= `TOGETHER`), ``more`` (above 1/2), ``less`` (below),
        ``apart`` (share <= `APART`), ``none`` (p > `LEVEL`), or ``undefined`` (NaN).
    """
    if not math.isfinite(share):
        return "undefined"
    if p > LEVEL:
        return "none"
    if share > 0.5:
        return "together" if share >= TOGETHER else "more"
    return "apart" if share <= APART else "less"


def corotation_line(comparison: Comparison, name: str) -> str:
    """Co-rotation share of a projection with its verdict; empty where it is not defined."""
    pooled, p = comparison[name].corotation_pooled, comparison.corotation_p[name]
    word = verdict(pooled.share, p)
    if word == "undefined":
        return ""
    return f"Co-rotation share {_share(pooled.share)} ({p_value(p)}): {_VERDICTS[word]}."


def corotation_lead(comparison: Comparison) -> str:
    """Sentences on all projections, for the top of a page; empty where nothing was turned."""
    groups: dict[str, list[str]] = {word: [] for word in (*_VERDICTS, "undefined")}
    for name, projection in comparison.projections.items():
        word = verdict(projection.corotation_pooled.share, comparison.corotation_p[name])
        groups[word].append(name)
    undefined = groups.pop("undefined")
    defined = [p for name, p in comparison.projections.items() if name not in undefined]
    if not defined:
        return ""
    clauses = [
        _clause(comparison, word, names, len(defined)) for word, names in groups.items() if names
    ]
    text = (
        "Whether both sides turned by one rotation: the share of the change that turns them alike "
        "(1 for one rotation, 0 for rotations against each other, ½ without a relation beyond the "
        "magnitudes of the change) is "
        f"{ends([p.corotation_pooled.share for p in defined], _share)}; {'; '.join(clauses)} "
        f"(two-sided, Holm over {len(defined)}, level {LEVEL})."
    )
    outside = [over(np.mean, p.outside_share) for p in defined]
    if over(np.max, outside) > 0.01:
        text += (
            f" It is the share within base's singular subspaces, outside of which "
            f"{ends(outside, percent)} of the change (squared) lies."
        )
    return text + _equation_8(defined)


def _clause(comparison: Comparison, word: str, names: list[str], total: int) -> str:
    p = [comparison.corotation_p[name] for name in names]
    if total > 1 and len(names) == total:
        where = "in every projection"
    else:
        where = f"in {listed(names)}"
    if len(p) == 1:
        bound = p_value(p[0])
    else:
        bound = p_value(min(p), "≥") if word == "none" else p_value(max(p), "≤")
    shares = ends([comparison[name].corotation_pooled.share for name in names], _share)
    size = f"{shares}, " if word in ("more", "less") else ""
    return f"{where} {_VERDICTS[word]} ({size}{bound})"


def _equation_8(projections: Sequence[ProjectionResult]) -> str:
    """Share that the best common rotation of eq. 8 explains; empty where it was not computed."""
    metrics = [projection.metrics for projection in projections]
    explained = [
        over(np.mean, explained_share(m.fit_optimal_error, m.fit_identity_error)) for m in metrics
    ]
    if not np.isfinite(explained).any():
        return ""
    text = f" The best common rotation of eq. 8 explains {ends(explained, percent)} of it (squared)"
    if over(np.max, [over(np.mean, m.fit_identity_error) for m in metrics]) > SMALL:
        return text + "."
    chance = [over(np.mean, m.small_delta_share) for m in metrics]
    return f"{text}, of any small random change {ends(chance, percent)}."
