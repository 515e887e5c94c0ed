"""A measurement held against draws of its null, two-sided.

Axis legend: `L` layers, `D` draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from svdjax.spectral import statistics

LEVEL = 0.05
"""Of the verdicts: two-sided, for all projections of a pair together."""
LEAST_DRAWS = 19
"""With fewer the draws' standard deviation and their law are too little known for a verdict."""


class Against(NamedTuple):
    """Where a measurement lies among the draws of its null.

    Attributes:
      observed: the measurement.
      mean: that of the draws.
      std: their standard deviation (n - 1); NaN of fewer than two.
      z: (observed - mean) / std.
      p_low: (1 + draws at or below the measurement) / (1 + draws): how often the null gives so
        small a value, one-sided. Exact, whatever the distribution, as long as the measurement is a
        draw of the null when the null is true; at least 1 / (1 + draws).
      p_high: the same for draws at or above it.
      p: two-sided, of ``z / sqrt(1 + 1/D)`` under Student's t with D - 1 degrees of freedom: exact
        for normal draws, and not bounded by their number.
    """

    observed: float
    mean: float
    std: float
    z: float
    p_low: float
    p_high: float
    p: float

    @property
    def ratio(self) -> float:
        """Measurement over the null's mean."""
        return self.observed / self.mean if self.mean else math.nan


class Judgement(NamedTuple):
    """What is said of one projection's measurement, with the others of its pair in mind.

    Attributes:
      verdict: ``below``, ``within`` or ``above`` the null at `LEVEL`; ``untold`` with fewer than
        `LEAST_DRAWS` draws, ``undefined`` without a measurement or draws.
      p: two-sided, corrected for the number of projections by Holm's method.
      against: the measurement and its draws.
    """

    verdict: str
    p: float
    against: Against


def against(observed: float, draws: np.ndarray) -> Against:
    """Places one measurement among its draws [D]; all NaN without any."""
    count = len(draws)
    if not count or not math.isfinite(observed) or not np.isfinite(draws).all():
        return Against(observed, *(math.nan,) * 6)
    mean = float(np.mean(draws))
    std = float(np.std(draws, ddof=1)) if count > 1 else math.nan
    z = (observed - mean) / std if std > 0 else math.nan
    low, high = ((1 + int(np.sum(beyond))) / (1 + count) for beyond in _beyond(observed, draws))
    # Of a new draw's distance from the mean of D others.
    t = abs(z) / math.sqrt(1 + 1 / count)
    p = 2 * float(stdtr(count - 1, -t)) if math.isfinite(t) else math.nan
    return Against(float(observed), mean, std, z, low, high, p)


def _beyond(observed: float, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return draws <= observed, draws >= observed


def pooled(observed: np.ndarray, draws: np.ndarray, used: np.ndarray) -> Against:
    """Places the mean of some layers among the means of their draws.

    Draw d of all layers together is one draw of the projection's null, so that the p-values stay
    exact.

    Args:
      observed: [L].
      draws: [L, D].
      used: which layers, bool [L].
    """
    if not used.any():
        return Against(*(math.nan,) * 7)
    return against(float(np.mean(observed[used])), draws[used].mean(axis=0))


def judged(places: Iterable[Against], draws: int) -> list[Judgement]:
    """Verdicts on measurements of one pair, such that all are right at `LEVEL` together.

    Args:
      places: of each projection, see `Against`.
      draws: how many draws each was held against.
    """
    places = list(places)
    return [
        Judgement(_verdict(place, p, draws), float(p), place)
        for place, p in zip(places, statistics.holm([place.p for place in places]))
    ]


def _verdict(place: Against, p: float, draws: int) -> str:
    if not math.isfinite(p):
        return "undefined"
    if draws < LEAST_DRAWS:
        return "untold"
    if p > LEVEL:
        return "within"
    return "below" if place.observed < place.mean else "above"
