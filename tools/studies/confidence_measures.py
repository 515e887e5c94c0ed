"""Entropy, loss and calibration of next-token distributions, and the temperature beside them.

All in float64. Axes: `N` positions, `V` vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

BINS = 15
_GRID = np.linspace(np.log(0.05), np.log(20), 25)
"""Logarithms of temperatures."""
_FLOOR_DRAWS = 50


class Confidence(NamedTuple):
    """Means over the positions.

    Attributes:
        entropy: Of the distributions, nats.
        accuracy: Share of positions whose likeliest token is the text's.
        nll: Loss, nats per token.
        ece: `expected_calibration_error` of the likeliest token.
    """

    entropy: float
    accuracy: float
    nll: float
    ece: float


def confidence(log: np.ndarray, targets: np.ndarray) -> Confidence:
    """Confidence of log-probabilities [N, V] for the next tokens [N]."""
    right = log.argmax(axis=1) == targets
    return Confidence(
        float(entropies(log).mean()),
        float(right.mean()),
        float(-log[np.arange(len(log)), targets].mean()),
        expected_calibration_error(np.exp(log.max(axis=1)), right),
    )


def entropies(log: np.ndarray) -> np.ndarray:
    """Entropies [N] of log-probabilities [N, V], nats."""
    return -(np.exp(log) * log).sum(axis=1)


def expected_calibration_error(top: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """`sum over bins of (n_b / N) |accuracy_b - confidence_b|`, bins of equal mass.

    Args:
        top: [N], probability of the likeliest token.
        right: [N], whether it is the text's.
        bins: Number of bins, filled in the order of `top`; ties in the order given.
    """
    order = np.argsort(top, kind="stable")
    gaps = [abs(float((right[part] - top[part]).sum())) for part in np.array_split(order, bins)]
    return sum(gaps) / len(top)


def calibration_floor(top: np.ndarray, seed: int = 0) -> float:
    """The error that a perfectly calibrated model of these confidences shows by chance."""
    rng = np.random.default_rng(seed)
    draws = [
        expected_calibration_error(top, rng.random(len(top)) < top) for _ in range(_FLOOR_DRAWS)
    ]
    return float(np.mean(draws))


class Unscaled:
    """A model as it is, with which the edited ones are compared."""

    def __init__(self, logits: np.ndarray, targets: np.ndarray):
        """Takes logits [N, V] and the next tokens [N]."""
        self._logits, self._targets = logits, targets
        self._log = scipy.special.log_softmax(logits, axis=1)
        self._entropies = [entropies(self._tempered(np.exp(each))).mean() for each in _GRID]
        self.confidence = confidence(self._log, targets)

    def row(self) -> dict[str, float]:
        """The model's own confidence, and the floor of its calibration."""
        floor = calibration_floor(np.exp(self._log.max(axis=1)))
        return {**self.confidence._asdict(), "ece_floor": floor}

    def compare(self, logits: np.ndarray) -> dict[str, float]:
        """An edited model: its confidence, and how much of the change is a temperature.

        ``temperature`` is that of this model's logits with the same mean entropy; ``nll_less`` and
        ``ece_less`` are what the edited model has more than this one at that temperature; ``left``
        is `KL(edited || tempered) / KL(edited || this)`, ``kl`` the denominator; ``slope`` and
        ``rescaled`` are a, and the share of the change of the centred logits explained, of the
        best `z' = a z`.
        """
        log = scipy.special.log_softmax(logits, axis=1)
        edited = confidence(log, self._targets)
        temperature = self.temperature(edited.entropy)
        tempered = self._tempered(temperature)
        beside = confidence(tempered, self._targets)
        kl, left = (
            float((np.exp(log) * (log - other)).sum(axis=1).mean())
            for other in (self._log, tempered)
        )
        centred = [each - each.mean(axis=1, keepdims=True) for each in (logits, self._logits)]
        slope = float((centred[0] * centred[1]).sum() / (centred[1] ** 2).sum())
        error = float(((centred[0] - slope * centred[1]) ** 2).sum())
        change = float(((centred[0] - centred[1]) ** 2).sum())
        return {
            **edited._asdict(),
            "temperature": temperature,
            "nll_less": edited.nll - beside.nll,
            "ece_less": edited.ece - beside.ece,
            "kl": kl,
            "left": left / kl,
            "slope": slope,
            "rescaled": 1 - error / change,
        }

    def temperature(self, entropy: float) -> float:
        """The temperature of the logits whose mean entropy that is, to 1e-4 of it.

        Entropy rises with the temperature; beyond its bounds the nearest is taken.
        """
        place = int(np.searchsorted(self._entropies, entropy))
        if place in (0, len(_GRID)):
            return float(np.exp(_GRID[min(place, len(_GRID) - 1)]))

        def excess(log_temperature: float) -> float:
            return float(entropies(self._tempered(np.exp(log_temperature))).mean()) - entropy

        found: Any = scipy.optimize.brentq(excess, *_GRID[place - 1 : place + 1], xtol=1e-4)
        return float(np.exp(found))

    def _tempered(self, temperature: float) -> np.ndarray:
        return scipy.special.log_softmax(self._logits / temperature, axis=1)
