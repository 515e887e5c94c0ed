"""Layers and experts that stand out, by the robust rules of docs/mathematics.md.

In numpy, on numbers alone. Axis legend: `L` layers of one projection, `E` experts of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEAST_LAYERS = 8
"""With fewer values the spread of the layers is not known well enough for any to stand out."""

NEIGHBOURS = 3
"""Layers before and after which a layer is compared with."""

LOCAL = 6
"""Layers before and after in which the local spread is measured."""

GROWTH = 4.0
"""How many times steeper than between its neighbours a trend may be at the first or last layer."""

AT_THE_ENDS = 3.0
"""First and last layers differ by nature: they need this many times the effect."""

ONE_IN = 8
"""Where more than one layer of so many would stand out (and more than one at all), that is how
the model is built or trained, such as every sixth block with another attention: none does."""

_MAD = 1.4826  # makes a median absolute deviation the standard deviation of a normal distribution


@dataclass(frozen=True)
class Scale:
    """How values of a metric are compared.

    Attributes:
        effect: Least deviation that is worth a name: a ratio minus 1 if `ratios`, else a
            difference.
        ratios: Whether values are compared by their ratio (logarithms), else by their difference.
        least: Values below it count as this much, since below it there is rounding.
    """

    effect: float
    ratios: bool = True
    least: float = 0.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values as they are compared, NaN where they are not finite or have no logarithm."""
        if not self.ratios:
            return np.where(np.isfinite(values), values, np.nan)
        usable = np.isfinite(values) & (np.maximum(values, self.least) > 0)
        return np.log(np.where(usable, np.maximum(values, self.least), np.nan))

    def decode(self, value: float) -> float:
        """The inverse of `encode`."""
        return math.exp(value) if self.ratios else value

    @property
    def bound(self) -> float:
        """`effect` as encoded."""
        return math.log1p(self.effect) if self.ratios else self.effect


SCALES: Mapping[str, Scale] = {
    "alpha": Scale(effect=0.03),
    "nf": Scale(effect=0.5, least=1e-3),
    "change": Scale(effect=0.5, least=1e-6),
    "corotation": Scale(effect=0.1, ratios=False),
}
"""The metrics that are looked at. ``alpha`` is a layer's mean scaling factor (figure 8), ``nf`` is
NF / NF_unrelated, ``change`` is ||W_post - alpha W_base|| / ||W_post||, ``corotation`` the share of
the change that turns both sides together."""


class Outlier(NamedTuple):
    """A layer that stands out in one metric.

    Attributes:
        layer: Its number, from 0.
        metric: Key of `SCALES`.
        value: What was measured.
        expected: The nearest value that its neighbours would have let pass.
        expert: Number of the expert that stands out from the others of its layer, from 0; None
            for a layer.
    """

    layer: int
    metric: str
    value: float
    expected: float
    expert: int | None = None


def outliers(metrics: Mapping[str, np.ndarray]) -> list[Outlier]:
    """Finds the layers of one projection that stand out.

    Args:
        metrics: Some of `SCALES` to their values by layer, [L]; NaN where there is none.

    Returns:
        Them by layer, then in the order of `metrics`.
    """
    named = [
        Outlier(layer, name, float(metrics[name][layer]), expected)
        for name in metrics
        for layer, expected in _outlying(np.asarray(metrics[name], np.float64), SCALES[name])
    ]
    return sorted(named, key=lambda outlier: outlier.layer)


def among_experts(metrics: Mapping[str, np.ndarray]) -> list[Outlier]:
    """Finds the experts that stand out from those of their layer, and layers by their medians.

    An expert is expected at the median of its layer's. The spread is the robust standard deviation
    about it, the larger one of the layer's experts and of all layers' together.

    Args:
        metrics: Some of `SCALES` to their values, [L, E]; NaN where there is none.

    Returns:
        Them by layer and expert, then in the order of `metrics`; layers before their experts.
    """
    named = []
    for name, given in metrics.items():
        scale, values = SCALES[name], np.asarray(given, np.float64)
        encoded = np.ma.masked_invalid(scale.encode(values))
        middle = np.ma.median(encoded, axis=1).filled(np.nan)
        decoded = np.array([scale.decode(each) for each in middle])
        named += [
            Outlier(layer, name, float(decoded[layer]), expected)
            for layer, expected in _outlying(decoded, scale)
        ]
        deviation = np.ma.abs(encoded - middle[:, None])
        own, overall = np.ma.median(deviation, axis=1).filled(np.nan), np.ma.median(deviation)
        count = encoded.count(axis=1)
        for layer in np.flatnonzero(count >= LEAST_LAYERS):
            spread = _MAD * max(own[layer], float(overall))
            least = max(scale.bound, robust_z(count[layer]) * spread)
            far = np.flatnonzero((deviation[layer] >= least).filled(False))
            if len(far) <= max(1, count[layer] // ONE_IN):
                named += [
                    Outlier(
                        int(layer), name, float(values[layer, i]), float(decoded[layer]), int(i)
                    )
                    for i in far
                ]
    order = {name: place for place, name in enumerate(metrics)}
    return sorted(
        named,
        key=lambda one: (one.layer, -1 if one.expert is None else one.expert, order[one.metric]),
    )


def robust_z(count: int) -> float:
    """How many robust standard deviations from its neighbours a layer has to be.

    Args:
        count: Of layers that have a value. The fewer, the less is their spread known.
    """
    return 8.0 + 100.0 / count


def deviations(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares every value with its neighbours.

    Expected is the interval between the medians of the `NEIGHBOURS` values before and after, so a
    trend and a step are expected, whatever their size; for the first and the last value, which
    have neighbours on one side only, it lies between their median and their trend carried on,
    which may become steeper as it has before, up to `GROWTH` times.

    Args:
        values: Along the layers, [..., L], finite, L >= `LEAST_LAYERS`.

    Returns:
        deviation: distance from the interval with its sign, 0 inside, [..., L].
        expected: the nearest point of the interval, [..., L].
        spread: robust standard deviation about the median of the neighbours on both sides, the
            larger one of all inner layers and of those within `LOCAL`, itself left out, [..., L].
    """
    count = values.shape[-1]
    low, high, away, spread = (np.empty_like(values) for _ in range(4))
    for i in range(count):
        before = values[..., max(0, i - NEIGHBOURS) : i]
        after = values[..., i + 1 : i + 1 + NEIGHBOURS]
        if before.shape[-1] and after.shape[-1]:
            ends = np.median(before, axis=-1), np.median(after, axis=-1)
        else:
            side = before[..., ::-1] if before.shape[-1] else after
            ends = np.median(side, axis=-1), _carried_on(side)
        low[..., i], high[..., i] = np.minimum(*ends), np.maximum(*ends)
        middle = np.median(np.concatenate([before, after], axis=-1), axis=-1)
        away[..., i] = np.abs(values[..., i] - middle)
    for i in range(count):
        near = [j for j in range(max(1, i - LOCAL), min(count - 1, i + LOCAL + 1)) if j != i]
        spread[..., i] = np.median(away[..., near], axis=-1)
    overall = np.median(away[..., 1:-1], axis=-1, keepdims=True)
    expected = np.clip(values, low, high)
    return values - expected, expected, _MAD * np.maximum(spread, overall)


def _carried_on(side: np.ndarray) -> np.ndarray:
    """The value before the first of three: the last step again, as much larger as it has grown.

    Args:
        side: Neighbours of an end, nearest first, [..., 3].
    """
    step, earlier = side[..., 0] - side[..., 1], side[..., 1] - side[..., 2]
    with np.errstate(over="ignore"):
        growth = np.divide(step, earlier, out=np.full(step.shape, GROWTH), where=earlier != 0)
    return side[..., 0] + step * np.clip(growth, 1, GROWTH)


def _outlying(values: np.ndarray, scale: Scale) -> list[tuple[int, float]]:
    """Layers that stand out in one metric, with what is expected of each."""
    encoded = scale.encode(values)
    (layers,) = np.nonzero(np.isfinite(encoded))
    if len(layers) < LEAST_LAYERS:
        return []
    deviation, expected, spread = deviations(encoded[layers])
    effect = np.full(len(layers), scale.bound)
    effect[[0, -1]] *= AT_THE_ENDS
    far = (np.abs(deviation) >= effect) & (np.abs(deviation) > robust_z(len(layers)) * spread)
    if far.sum() > max(1, len(layers) // ONE_IN):
        return []
    return [(int(layers[i]), scale.decode(expected[i])) for i in np.flatnonzero(far)]
