"""A measurement held against draws of its null.

Axis legend: `L` layers, `D` draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LEVEL = 0.05


class Against(NamedTuple):
    """Where a measurement lies among the draws of its null.

    Attributes:
      observed: the measurement.
      mean: that of the draws.
      std: their standard deviation (n - 1); NaN of fewer than two.
      z: (observed - mean) / std.
      p_low: (1 + draws at or below the measurement) / (1 + draws): how often the null gives so
        small a value. Exact, whatever the distribution, as long as the measurement is a draw of
        the null when the null is true.
      p_high: likewise at or above.
    """

    observed: float
    mean: float
    std: float
    z: float
    p_low: float
    p_high: float

    @property
    def ratio(self) -> float:
        """Measurement over the null's mean."""
        return self.observed / self.mean if self.mean else math.nan


def against(observed: float, draws: np.ndarray) -> Against:
    """Places one measurement among its draws [D]; all NaN without any."""
    count = len(draws)
    if not count or not math.isfinite(observed) or not np.isfinite(draws).all():
        return Against(observed, *(math.nan,) * 5)
    mean = float(np.mean(draws))
    std = float(np.std(draws, ddof=1)) if count > 1 else math.nan
    z = (observed - mean) / std if std > 0 else math.nan
    low, high = ((1 + int(np.sum(beyond))) / (1 + count) for beyond in _beyond(observed, draws))
    return Against(float(observed), mean, std, z, low, high)


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
        return Against(*(math.nan,) * 6)
    return against(float(np.mean(observed[used])), draws[used].mean(axis=0))


def verdict(found: Against, draws: int) -> str:
    """``below``, ``above`` or ``within`` the null at `LEVEL`; ``untold`` with too few draws."""
    if not math.isfinite(found.p_low):
        return "undefined"
    if found.p_low <= LEVEL:
        return "below"
    if found.p_high <= LEVEL:
        return "above"
    return "within" if 1 / (1 + draws) <= LEVEL else "untold"
