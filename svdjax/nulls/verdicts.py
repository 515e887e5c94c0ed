"""Two-sided tests of a measurement by draws of its null.

Axis legend: `L` layers, `D` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from svdjax.spectral import statistics

LEVEL = 0.05
"""Level of the verdicts: two-sided, for all projections of a pair together."""
LEAST_DRAWS = 19
"""With fewer the draws' standard deviation and their law are too little known for a verdict."""


class NullTest(NamedTuple):
    """The place of a measurement among the draws of its null.

    Attributes:
        observed: The measurement.
        mean: Mean of the draws.
        std: Their standard deviation (n - 1); NaN of fewer than two.
        z: (observed - mean) / std.
        p_low: (1 + draws at or below the measurement) / (1 + draws): how often the null gives so
            small a value, one-sided. Exact, whatever the distribution, as long as the measurement
            is a draw of the null when the null is true; at least 1 / (1 + draws).
        p_high: The same for draws at or above it.
        p: Two-sided p-value of ``z / sqrt(1 + 1/D)`` under Student's t with D - 1 degrees of
            freedom: exact for normal draws, and not bounded by their number.
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
    """The verdict on a projection's measurement, corrected for the others of its pair.

    Attributes:
        verdict: ``below``, ``within`` or ``above`` the null at `LEVEL`; ``untold`` with fewer than
            `LEAST_DRAWS` draws, ``undefined`` without a measurement or draws.
        p: Two-sided p-value, corrected for the number of projections by Holm's method.
        test: The measurement and its draws.
    """

    verdict: str
    p: float
    test: NullTest


def null_test(observed: float, draws: np.ndarray) -> NullTest:
    """The test of one measurement by its draws [D]; all NaN without any."""
    count = len(draws)
    if not count or not math.isfinite(observed) or not np.isfinite(draws).all():
        return NullTest(observed, *(math.nan,) * 6)
    mean = float(np.mean(draws))
    std = float(np.std(draws, ddof=1)) if count > 1 else math.nan
    z = (observed - mean) / std if std > 0 else math.nan
    low = (1 + int(np.sum(draws <= observed))) / (1 + count)
    high = (1 + int(np.sum(draws >= observed))) / (1 + count)
    # Of a new draw's distance from the mean of D others.
    t = abs(z) / math.sqrt(1 + 1 / count)
    p = 2 * float(stdtr(count - 1, -t)) if math.isfinite(t) else math.nan
    return NullTest(float(observed), mean, std, z, low, high, p)


def pooled_test(observed: np.ndarray, draws: np.ndarray, used: np.ndarray) -> NullTest:
    """The test of the mean of some layers by the means of their draws.

    Draw d of all layers together is one draw of the projection's null, so that the p-values stay
    exact.

    Args:
        observed: Measurements, [L].
        draws: Draws, [L, D].
        used: Which layers, bool [L].
    """
    if not used.any():
        return NullTest(*(math.nan,) * 7)
    return null_test(float(np.mean(observed[used])), draws[used].mean(axis=0))


def judge(tests: Sequence[NullTest], draws: int) -> list[Judgement]:
    """Verdicts on measurements of one pair, such that all are right at `LEVEL` together.

    Args:
        tests: A test of each projection.
        draws: Number of draws of each.
    """
    corrected = statistics.holm([test.p for test in tests])
    return [
        Judgement(_verdict(test, p, draws), float(p), test) for test, p in zip(tests, corrected)
    ]


def _verdict(test: NullTest, p: float, draws: int) -> str:
    if not math.isfinite(p):
        return "undefined"
    if draws < LEAST_DRAWS:
        return "untold"
    if p > LEVEL:
        return "within"
    return "below" if test.observed < test.mean else "above"
