"""The verdict: one of four words, from the sizes of the effects and the p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RELATED, PARTLY, UNDECIDED, UNRELATED = "related", "partly related", "undecided", "unrelated"
VERDICTS = (RELATED, PARTLY, UNDECIDED, UNRELATED)

ASSUMPTION = (
    "The p-value is the probability of so much agreement if every compared matrix of the suspect "
    "were independent of the reference and of everything that its own alignment was found from, "
    "and one polar factor of each pair in general position (Haar-random). Then "
    "z = tr(I_orth) / sqrt(r/R) is N(0, 1) for each matrix and sum tr / sqrt(sum r/R) for the "
    "layers of a projection; where matrices were aligned by means of one another (those of a "
    "module) their deviations are added up, which bounds that of the sum. p <= exp(-z^2/2), times "
    "the number of alignments tried, and for a part times the number of parts. It tests "
    "independence only: models trained apart on alike data share a few directions once their "
    "residual streams are aligned, which is enough for a small p. So the verdict rests on the size "
    "of the effect, and p only guards against chance."
)


@dataclass(frozen=True)
class Thresholds:
    """Distances and p-value at which the verdict changes (docs/fingerprint.md says why here).

    Attributes:
        derived: Largest distance of a related model.
        unrelated: Smallest distance of an unrelated one; between the two it is undecided.
        p_value: Largest p-value of a related model.
    """

    derived: float = 0.7
    unrelated: float = 0.9
    p_value: float = 1e-6


def decide(distance: float, log10_p: float, thresholds: Thresholds) -> str:
    """The word for a whole or a part by itself: "related", "undecided" or "unrelated".

    Args:
        distance: 1 - tr(I_orth) / r, pooled: 0 same, about 1 unrelated.
        log10_p: Decimal logarithm of the p-value.
        thresholds: Distances and p-value at which it changes.
    """
    if math.isnan(distance):
        return UNDECIDED
    if distance <= thresholds.derived:
        return RELATED if log10_p <= math.log10(thresholds.p_value) else UNDECIDED
    return UNRELATED if distance >= thresholds.unrelated else UNDECIDED


def overall(whole: str, layers: Sequence[str], ends: Sequence[str]) -> str:
    """The verdict: the word for the whole, "partly related" where not all of it is related.

    A model is partly related where a part is related although the whole is not, or a part of a
    layer is unrelated although the whole is related. Embeddings or a head that were replaced leave
    a model related.

    Args:
        whole: `decide` of all layers pooled.
        layers: `decide` of each part of a layer.
        ends: `decide` of embeddings and head.
    """
    if RELATED in layers and UNRELATED in layers:
        return PARTLY
    return PARTLY if whole != RELATED and RELATED in (*layers, *ends) else whole
