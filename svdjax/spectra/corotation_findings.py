"""Whether both sides turned by one rotation, in sentences made from the co-rotation share.

NF, equation 8 and the co-rotation share answer this one question; the verdict is the share's, as it
alone has a null that keeps where the change lies.
"""

from __future__ import annotations

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


def verdict(share: float, p: float) -> str:
    """Word for a pooled co-rotation share and its corrected two-sided p.

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
    """A projection's share with its verdict; empty where it has none."""
    pooled, p = comparison[name].corotation_pooled, comparison.corotation_p[name]
    word = verdict(pooled.share, p)
    if word == "undefined":
        return ""
    return f"Co-rotation share {decimal(pooled.share, 3)} ({p_value(p)}): {_VERDICTS[word]}."


def corotation_lead(comparison: Comparison) -> str:
    """Whether both sides turned by one rotation; empty where nothing was turned."""
    results = comparison.projections
    words = {
        name: verdict(one.corotation_pooled.share, comparison.corotation_p[name])
        for name, one in results.items()
    }
    known = [name for name, word in words.items() if word != "undefined"]
    if not known:
        return ""
    shares = ends([results[name].corotation_pooled.share for name in known], _three)
    head = (
        "Whether both sides turned by one rotation: the share of the change that turns them alike "
        "(1 for one rotation, 0 for rotations against each other, ½ without a relation beyond the "
        f"magnitudes of the change) is {shares}"
    )
    parts = [
        _part(comparison, word, [name for name in known if words[name] == word], len(known))
        for word in _VERDICTS
        if word in words.values()
    ]
    outside = [over(np.mean, results[name].outside_share) for name in known]
    text = f"{head}; {'; '.join(parts)} (two-sided, Holm over {len(known)}, level {LEVEL})."
    if over(np.max, outside) > 0.01:
        text += (
            f" It is the share within base's singular subspaces, outside of which "
            f"{ends(outside, percent)} of the change (squared) lies."
        )
    return text + _equation_8([results[name] for name in known])


def _part(comparison: Comparison, word: str, names: list[str], total: int) -> str:
    p = [comparison.corotation_p[name] for name in names]
    where = "in every projection" if len(names) == total else f"in {listed(names)}"
    if total == 1:
        where = f"in {names[0]}"
    if len(names) == 1:
        bound = p_value(p[0])
    else:
        bound = p_value(min(p), "≥") if word == "none" else p_value(max(p), "≤")
    shares = ends([comparison[name].corotation_pooled.share for name in names], _three)
    size = f"{shares}, " if word in ("more", "less") else ""
    return f"{where} {_VERDICTS[word]} ({size}{bound})"


def _equation_8(results: Sequence[ProjectionResult]) -> str:
    """What the best common rotation of eq. 8 explains; empty where it was not asked for."""
    explained = [
        over(
            np.mean,
            explained_share(one.metrics.fit_optimal_error, one.metrics.fit_identity_error),
        )
        for one in results
    ]
    if not np.isfinite(explained).any():
        return ""
    text = f" The best common rotation of eq. 8 explains {ends(explained, percent)} of it (squared)"
    sizes = [over(np.mean, one.metrics.fit_identity_error) for one in results]
    if over(np.max, sizes) > SMALL:
        return text + "."
    chance = [over(np.mean, one.metrics.small_delta_share) for one in results]
    return f"{text}, of any small random change {ends(chance, percent)}."


def _three(value: float) -> str:
    return decimal(value, 3)
