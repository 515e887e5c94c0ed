"""Whether singular values were scaled by a factor: the condition of every sentence that says so.

The mean of sigma_post / sigma_base drifts upwards under any change that has nothing to do with W,
while alpha of least squares does not (docs/mathematics.md, 6). A factor is only said to be one
where it exceeds that drift, and the differences among the singular values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, percent, span
from svdjax.spectra.tables import over

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults
    from svdjax.nulls.verdicts import Judgement
    from svdjax.spectra.results import ProjectionResult

UNIFORM = 0.05
"""Largest spread, relative to the mean, that is called nearly uniform."""


def scaling_judgements(nulls: NullResults | None) -> Mapping[str, Judgement]:
    """What the nulls stage says of the factors of each projection, where it says anything."""
    if nulls is None:
        return {}
    every = {name: judged["scaling"] for name, judged in nulls.judgements.items()}
    return {name: one for name, one in every.items() if one.verdict in ("below", "within", "above")}


def least_squares(one: ProjectionResult) -> float:
    """Mean over the layers of alpha by least squares."""
    return over(np.mean, one.metrics.alpha_ls)


def is_even(one: ProjectionResult) -> bool:
    """Whether the spread of the factors is within `UNIFORM` of their mean."""
    return one.alpha_std <= UNIFORM * one.alpha_mean


def exceeds_drift(one: ProjectionResult, judgement: Judgement | None) -> bool:
    """Whether the mean factor is more than what a change without any scaling makes of it.

    It has to lie farther from 1 than that, on the same side, and by more than the standard
    deviation of the factors. With the nulls stage "that" is the mean of the draws, and the
    difference has to be significant. Without it alpha by least squares, which does not drift, has
    to be nearer to the mean factor than half way to 1, and farther from 1 than that deviation.

    Args:
      one: the projection.
      judgement: of its ``scaling`` in the nulls stage, if that was asked for.
    """
    side = math.copysign(1, one.alpha_mean - 1)
    if judgement is None:
        fitted = least_squares(one)
        drift = abs(one.alpha_mean - fitted)
        return 2 * drift < abs(one.alpha_mean - 1) and side * (fitted - 1) > one.alpha_std
    place = judgement.test
    if judgement.verdict != ("above" if side > 0 else "below"):
        return False
    return side * (place.observed - place.mean) > one.alpha_std


def scaling_lead(
    results: Sequence[ProjectionResult],
    judgements: Mapping[str, Judgement],
    odd: Sequence[str] = (),
) -> list[str]:
    """The sentence on scaling at the top of a page; none where no factor is defined.

    Args:
      results: the projections.
      judgements: as `scaling_judgements` returned them.
      odd: names of matrices whose scaling factor stands out from their neighbours'.
    """
    known = [one for one in results if math.isfinite(one.alpha_mean) and one.alpha_mean > 0]
    if not known:
        return []
    even = [one for one in known if is_even(one)]
    scaled = [one.name for one in even if exceeds_drift(one, judgements.get(one.name))]
    means = ends([one.alpha_mean for one in known], lambda value: decimal(value, 3))
    fitted = ends([least_squares(one) for one in known], lambda value: decimal(value, 3))
    spread = ends([one.alpha_std / one.alpha_mean for one in known], percent)
    numbers = f"means {means}, by least squares {fitted}; spread {spread} of the mean"
    alone = _alone([one for one in known if one.name in judgements], judgements)
    if alone:
        numbers += f"; a change of that size without any scaling gives {alone}"
    apart = f" apart from {listed(list(odd))}" if odd else ""
    count = f"{len(known)} {'projection' if len(known) == 1 else 'projections'}"
    if len(scaled) == len(known):
        return [
            f"Each projection's singular values were scaled by a nearly uniform factor{apart} "
            f"({numbers})."
        ]
    if scaled:
        return [
            f"The singular values were scaled by a nearly uniform factor in {len(scaled)} of "
            f"{count}, {listed(scaled)}{apart and ','}{apart} ({numbers})."
        ]
    if not even:
        return [f"No projection's singular values were scaled by one factor ({numbers})."]
    return [
        "No projection's singular values were scaled by a factor beyond what a change without any "
        f"scaling makes of them and their own spread ({numbers})."
    ]


def _alone(known: Sequence[ProjectionResult], judgements: Mapping[str, Judgement]) -> str:
    if not known:
        return ""
    return ends([judgements[one.name].test.mean for one in known], lambda x: decimal(x, 3))


def scaling_span(known: Sequence[ProjectionResult]) -> str:
    """Ends of alpha by least squares, as the list of findings has them."""
    fitted = [least_squares(one) for one in known]
    return span(decimal(over(np.min, fitted)), decimal(over(np.max, fitted)))
