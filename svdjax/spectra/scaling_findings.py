"""Sentences on the scaling of the singular values, and the conditions under which they are said.

The mean of sigma_post / sigma_base drifts upwards under any change that has nothing to do with W,
while alpha of least squares does not (docs/mathematics.md, 6). Singular values are only said to be
scaled by a factor where it exceeds that drift, and the differences among the singular values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, percent
from svdjax.spectra.tables import over

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults
    from svdjax.nulls.verdicts import Judgement
    from svdjax.spectra.results import ProjectionResult

UNIFORM = 0.05
"""Largest spread, relative to the mean, that is called nearly uniform."""


def scaling_judgements(nulls: NullResults | None) -> Mapping[str, Judgement]:
    """Judgements of the nulls stage on the factors, by projection, where it has a verdict."""
    if nulls is None:
        return {}
    judgements = {name: each["scaling"] for name, each in nulls.judgements.items()}
    return {
        name: judgement
        for name, judgement in judgements.items()
        if judgement.verdict in ("below", "within", "above")
    }


def least_squares(projection: ProjectionResult) -> float:
    """Mean over the layers of alpha by least squares."""
    return over(np.mean, projection.metrics.alpha_ls)


def is_even(projection: ProjectionResult) -> bool:
    """Whether the spread of the factors is within `UNIFORM` of their mean."""
    return projection.alpha_std <= UNIFORM * projection.alpha_mean


def exceeds_drift(projection: ProjectionResult, judgement: Judgement | None) -> bool:
    """Whether the mean factor is more than what a change without any scaling makes of it.

    It has to lie farther from 1 than that, on the same side, and by more than the standard
    deviation of the factors. With the nulls stage "that" is the mean of the draws, and the
    difference has to be significant. Without it alpha by least squares, which does not drift, has
    to be nearer to the mean factor than half way to 1, and farther from 1 than that deviation.

    Args:
        projection: The projection.
        judgement: Judgement of the nulls stage on its ``scaling``; None without that stage.
    """
    side = math.copysign(1, projection.alpha_mean - 1)
    if judgement is None:
        fitted = least_squares(projection)
        drift = abs(projection.alpha_mean - fitted)
        return (
            2 * drift < abs(projection.alpha_mean - 1)
            and side * (fitted - 1) > projection.alpha_std
        )
    if judgement.verdict != ("above" if side > 0 else "below"):
        return False
    test = judgement.test
    return side * (test.observed - test.mean) > projection.alpha_std


def scaling_lead(
    projections: Sequence[ProjectionResult],
    judgements: Mapping[str, Judgement],
    odd: Sequence[str] = (),
) -> str:
    """Sentence on scaling at the top of a page; empty where no factor is defined.

    Args:
        projections: The projections.
        judgements: Judgements as `scaling_judgements` returned them.
        odd: Names of matrices whose scaling factor stands out from their neighbours'.
    """
    defined = [p for p in projections if math.isfinite(p.alpha_mean) and p.alpha_mean > 0]
    if not defined:
        return ""
    even = [p for p in defined if is_even(p)]
    scaled = [p.name for p in even if exceeds_drift(p, judgements.get(p.name))]
    means = _ends(p.alpha_mean for p in defined)
    fitted = _ends(least_squares(p) for p in defined)
    spread = ends([p.alpha_std / p.alpha_mean for p in defined], percent)
    numbers = f"means {means}, by least squares {fitted}; spread {spread} of the mean"
    unscaled = [judgements[p.name].test.mean for p in defined if p.name in judgements]
    if unscaled:
        numbers += f"; a change of that size without any scaling gives {_ends(unscaled)}"
    apart = f" apart from {listed(list(odd))}" if odd else ""
    if len(scaled) == len(defined):
        return (
            f"Each projection's singular values were scaled by a nearly uniform factor{apart} "
            f"({numbers})."
        )
    if scaled:
        return (
            f"The singular values were scaled by a nearly uniform factor in {len(scaled)} of "
            f"{len(defined)} projections, {listed(scaled)}{apart and ','}{apart} ({numbers})."
        )
    if not even:
        return f"No projection's singular values were scaled by one factor ({numbers})."
    return (
        "No projection's singular values were scaled by a factor beyond what a change without any "
        f"scaling makes of them and their own spread ({numbers})."
    )


def _ends(factors: Iterable[float]) -> str:
    return ends(factors, lambda factor: decimal(factor, 3))
