"""Intervals that the studies' sentences rest on: 95 % throughout, as dictionaries for the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of independent repetitions, such as seeds, and its Student interval.

    ``mean ± t(n - 1) s / √n``. Differences between arms are taken seed by seed and given here.

    Raises:
        ValueError: There are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, found {len(values)}")
    array = np.asarray(values, float)
    mean = float(array.mean())
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * scipy.stats.sem(array))
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(array),
        "values": array.tolist(),
    }


def proportion(right: int, total: int) -> dict[str, Any]:
    """Share of right answers among independent questions, and its Wilson interval."""
    found = scipy.stats.binomtest(right, total).proportion_ci(CONFIDENCE, method="wilson")
    return {"mean": right / total, "low": float(found.low), "high": float(found.high), "n": total}


def bootstrap(values: Sequence[float], *, seed: int = 0, draws: int = 2000) -> dict[str, Any]:
    """Mean over drawn items, such as prompts, and its percentile bootstrap interval."""
    array = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (draws, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high), "n": len(array)}
