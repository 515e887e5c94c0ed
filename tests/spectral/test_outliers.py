"""Layers that stand out: planted ones are named, trends and ordinary ends are not."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.spectral.outliers import LEAST_LAYERS, SCALES, deviations, outliers, robust_z

# Seven projections with four metrics each: what one pair of checkpoints is asked.
SERIES = 28


def noisy(rng: np.random.Generator, layers: int, level: float, spread: float) -> np.ndarray:
    return level * np.exp(spread * rng.standard_normal(layers))


def expected_interval(values: np.ndarray, i: int) -> tuple[float, float]:
    """The rule of docs/mathematics.md, word for word."""
    before, after = values[max(0, i - 3) : i], values[i + 1 : i + 4]
    if len(before) and len(after):
        ends = float(np.median(before)), float(np.median(after))
    else:
        near = list(after) if len(after) else list(before[::-1])
        growth = (near[0] - near[1]) / (near[1] - near[2])
        ends = float(np.median(near)), near[0] + (near[0] - near[1]) * min(max(growth, 1), 4)
    return min(ends), max(ends)


def spread_of(values: np.ndarray, i: int) -> float:
    around = [np.r_[values[max(0, j - 3) : j], values[j + 1 : j + 4]] for j in range(len(values))]
    away = [abs(value - float(np.median(some))) for value, some in zip(values, around)]
    inner = range(1, len(values) - 1)
    near = [away[j] for j in inner if j != i and abs(j - i) <= 6]
    return 1.4826 * max(float(np.median(near)), float(np.median([away[j] for j in inner])))


@pytest.mark.parametrize("layers", [8, 9, 30])
def test_deviations_are_those_of_the_stated_rule(layers):
    values = np.random.default_rng(layers).standard_normal(layers)
    deviation, expected, spread = deviations(values)
    for i in range(layers):
        low, high = expected_interval(values, i)
        nearest = min(max(values[i], low), high)
        # The same few additions of numbers of order 1.
        assert expected[i] == pytest.approx(nearest, abs=1e-14)
        assert deviation[i] == pytest.approx(values[i] - nearest, abs=1e-14)
        assert spread[i] == pytest.approx(spread_of(values, i), abs=1e-14)


@pytest.mark.parametrize("layers", [8, 12, 24, 80])
def test_false_alarms_are_as_rare_as_stated(layers):
    """Independent normal values of whatever size: under 1 % of pairs with any layer named."""
    rng = np.random.default_rng(layers)
    pairs = 300_000 // (SERIES * layers)
    values = rng.standard_normal((pairs, SERIES, layers))
    deviation, _, spread = deviations(values)
    named = (np.abs(deviation) > robust_z(layers) * spread).any(axis=(1, 2))
    assert named.mean() <= 0.01 + 3 * np.sqrt(0.01 / pairs)


@pytest.mark.parametrize("layer", [1, 2, 41, 78])
@pytest.mark.parametrize(
    ("metric", "level", "spread", "factor"),
    [
        ("alpha", 0.9, 0.005, 1.15),
        ("alpha", 0.9, 0.005, 1 / 1.15),
        ("nf", 0.2, 0.05, 2.5),
        ("nf", 0.2, 0.05, 0.4),
        ("change", 0.01, 0.05, 2.5),
    ],
)
def test_a_planted_layer_is_the_only_one_named(layer, metric, level, spread, factor):
    values = noisy(np.random.default_rng(7), 80, level, spread)
    values[layer] *= factor
    (outlier,) = outliers({metric: values})
    assert outlier[:3] == (layer, metric, values[layer])
    assert outlier.expected == pytest.approx(level, rel=6 * spread)


def test_co_rotation_is_compared_by_differences():
    share = 0.5 + 0.01 * np.random.default_rng(8).standard_normal(30)
    assert not outliers({"corotation": share})
    share[10] = 0.8
    (outlier,) = outliers({"corotation": share})
    assert (outlier.layer, outlier.value) == (10, 0.8)
    assert outlier.expected == pytest.approx(0.5, abs=0.05)


def test_both_sides_of_the_least_effect():
    """Where all others are the same, it alone decides."""
    for metric, scale in SCALES.items():
        for over in (0.99, 1.01):
            effect = over * scale.effect
            values = np.full(20, 0.4)
            values[9] = 0.4 * (1 + effect) if scale.ratios else 0.4 + effect
            assert bool(outliers({metric: values})) == (over > 1), metric
            # First and last layers need three times as much.
            for end in (0, 19):
                for times in (0.98, 1.02):
                    far = 3 * scale.bound * times
                    values = np.full(20, 0.4)
                    values[end] = 0.4 * np.exp(far) if scale.ratios else 0.4 + far
                    assert bool(outliers({metric: values})) == (times > 1), metric


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: 0.8 + 0.4 * x,
        lambda x: 0.2 + (x - 0.4) ** 2,
        lambda x: 0.1 * np.exp(4 * x),
        lambda x: 0.05 + 0.3 * np.exp(-12 * x),
        lambda x: 1 + 0.3 * np.sin(6 * x),
        lambda x: np.where(x < 0.5, 0.9, 1.1),
        lambda x: np.where(x < 0.3, 1e-18, 0.1),
    ],
    ids=["line", "valley", "growth", "first blocks", "waves", "step", "frozen part"],
)
@pytest.mark.parametrize("layers", [8, 16, 28, 80])
def test_trends_and_steps_are_silent(shape, layers):
    trend: np.ndarray = shape(np.linspace(0, 1, layers))
    noise = np.exp(0.003 * np.random.default_rng(layers).standard_normal(layers))
    for values in (trend, trend * noise):
        assert not outliers(dict.fromkeys(SCALES, values))


def test_ordinary_first_and_last_blocks_are_silent():
    values = noisy(np.random.default_rng(9), 28, 0.2, 0.05)
    values[0] *= 2.5
    values[-1] *= 0.5
    assert not outliers({"nf": values, "change": values})


def test_a_pattern_is_not_many_outliers():
    values = noisy(np.random.default_rng(10), 26, 0.2, 0.02)
    values[5::6] *= 3
    assert not outliers({"nf": values})
    values = noisy(np.random.default_rng(10), 26, 0.2, 0.02)
    values[[5, 11]] *= 3
    assert [outlier.layer for outlier in outliers({"nf": values})] == [5, 11]


def test_rounding_is_no_change():
    rng = np.random.default_rng(11)
    tiny = 1e-16 * rng.uniform(1, 50, 20)
    assert not outliers({"change": tiny, "nf": tiny})
    tiny[4] = 0.01
    assert [outlier[:2] for outlier in outliers({"change": tiny, "nf": tiny})] == [
        (4, "change"),
        (4, "nf"),
    ]
    assert not outliers({"change": np.zeros(20), "nf": np.zeros(20), "alpha": np.ones(20)})


def test_what_is_not_known_is_left_out_and_few_layers_say_nothing():
    values = np.full(20, 0.2)
    values[[3, 4, 12]] = np.nan, np.inf, 0.9
    (outlier,) = outliers({"nf": values})
    assert (outlier.layer, outlier.expected) == (12, pytest.approx(0.2))
    assert not outliers({"nf": np.full(20, np.nan), "alpha": np.full(20, -1.0)})
    for layers in (1, LEAST_LAYERS - 1, LEAST_LAYERS):
        few = np.full(layers, 0.2)
        few[layers // 2] = 5.0
        assert bool(outliers({"nf": few})) == (layers >= LEAST_LAYERS)
