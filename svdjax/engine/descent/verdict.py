"""From the size of the effect and the p-value to one of three words."""

from __future__ import annotations

import math
from dataclasses import dataclass

DERIVED, UNRELATED, UNDECIDED = "derived", "unrelated", "undecided"

ASSUMPTION = (
    "The p-value is the probability of so much agreement if every compared matrix of the suspect "
    "were independent of the reference and of everything that its own alignment was found from, "
    "and one polar factor of each pair in general position (Haar-random). Then "
    "z = tr(I_orth) / sqrt(r/R) is N(0, 1) for each matrix and sum tr / sqrt(sum r/R) for the "
    "layers of a projection; where matrices were aligned by means of one another (those of a "
    "module) their deviations are added up, which bounds that of the sum. p <= exp(-z^2/2), times "
    "the number of alignments tried. It tests independence only: models trained apart on alike "
    "data share a few directions once their residual streams are aligned, which is enough for a "
    "small p. So the verdict rests on the size of the effect, and p only guards against chance."
)


@dataclass(frozen=True)
class Thresholds:
    """Where the words change (docs/fingerprint.md says why here).

    Attributes:
      derived: largest distance of a derived model.
      unrelated: smallest distance of an unrelated one; between the two it is undecided.
      p_value: largest p-value of a derived model.
    """

    derived: float = 0.7
    unrelated: float = 0.9
    p_value: float = 1e-6


def decide(distance: float, log10_p: float, thresholds: Thresholds) -> str:
    """The verdict on a pair.

    Args:
      distance: 1 - tr(I_orth) / r, pooled: 0 same, about 1 unrelated.
      log10_p: decimal logarithm of the p-value.
      thresholds: where the words change.
    """
    if math.isnan(distance):
        return UNDECIDED
    if distance <= thresholds.derived:
        sure = log10_p <= math.log10(thresholds.p_value)
        return DERIVED if sure else UNDECIDED
    return UNRELATED if distance >= thresholds.unrelated else UNDECIDED
