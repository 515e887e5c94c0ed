"""Means over seeds and intervals, as the page of `tools.studies.survival` needs them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tools.studies.statistics import interval
from tools.studies.survival_edits import RESTORATIONS
from tools.studies.survival_pieces import MODULES

VARIANTS = tuple(itertools.product(RESTORATIONS, MODULES))
Cells = Mapping[str, Sequence[Mapping[str, Any]]]
"""Pieces by cell, one a seed. A cell is a width and a learning rate: ``64/0`` is the first one."""


def short(values: Sequence[float]) -> dict[str, float]:
    """An interval over seeds, as short as the page needs it."""
    found = interval(values)
    return {key: float(f"{found[key]:.4g}") for key in ("mean", "low", "high")}


def ratio(values: Iterable[float]) -> dict[str, float]:
    """Geometric mean of ratios, and the interval of their logarithms' mean."""
    found = interval([float(np.log(value)) for value in values])
    return {key: float(f"{np.exp(found[key]):.4g}") for key in ("mean", "low", "high")}


def over_seeds(seeds: Sequence[Any], of: Callable[[Any], Any]) -> dict[str, float]:
    """The interval of a number of each seed."""
    return short([float(of(each)) for each in seeds])


def mean(values: Iterable[Any]) -> float:
    """Mean, in four digits."""
    return float(f"{np.mean(list(values)):.4g}")


def geometric(values: Iterable[Any]) -> float:
    """Geometric mean, in four digits."""
    return float(f"{np.exp(np.mean(np.log(list(values)))):.4g}")


def slope(x: Any, y: Any) -> tuple[float, float]:
    """Slope of log y on log x by least squares, and the share of the variance that it explains."""
    a, b = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    found = float(np.polyfit(a, b, 1)[0])
    return found, float(np.corrcoef(a, b)[0, 1] ** 2)


def variant(seed: Any, variant: tuple[str, str]) -> Any:
    """What is told of one edit of one model."""
    side, module = variant
    return seed["modules"][module][side]
