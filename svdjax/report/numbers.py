"""Formats of numbers on pages. Files hold full precision; only the pages round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

MISSING = "–"
_NARROW = "\u202f"  # a space at which no line breaks


def decimal(value: float | None, digits: int = 4) -> str:
    """Fixed decimals; a dash for NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def one_decimal(value: float) -> str:
    """A number of standard deviations: one decimal, however small; a dash for NaN."""
    return f"{value:.1f}" if math.isfinite(value) else MISSING


def significant(value: float | None, digits: int = 3) -> str:
    """Significant digits; a dash for NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:#.{digits}g}".rstrip(".") if value else "0"


def percent(ratio: float | None) -> str:
    """A ratio as a percentage with two or three significant digits: 0.53 is ``53.0 %``.

    Rounding errors of float64 become 0.
    """
    if ratio is None or not math.isfinite(ratio):
        return MISSING
    value = 100 * ratio
    if abs(value) < 1e-10:
        text = "0"
    elif abs(value) < 0.01:
        text = f"{value:.0e}"
    elif abs(value) < 1000:
        text = f"{value:#.{3 if abs(value) >= 10 else 2}g}".rstrip(".")
    else:
        text = f"{value:.0f}"
    return f"{text}{_NARROW}%"


def p_value(p: float | None, sign: str = "=") -> str:
    """A p-value with its sign: ``p = 0.031``; below what float64 holds, ``p < 1e-300``."""
    if p is None or not math.isfinite(p):
        return f"p {sign} {MISSING}"
    return f"p {sign} {significant(p, 2)}" if p >= 1e-300 else "p < 1e-300"


def plus_minus(mean: float | None, std: float | None, digits: int = 4) -> str:
    """Mean and standard deviation as the paper prints them: ``0.9071 ± 0.0046``."""
    if mean is None or not math.isfinite(mean):
        return MISSING
    return f"{decimal(mean, digits)}{_NARROW}±{_NARROW}{decimal(std, digits)}"


def span(low: str, high: str) -> str:
    """``between low and high``, or ``low`` alone where both are equal."""
    return low if low == high else f"between {low} and {high}"


def ends(values: Iterable[float], show: Callable[[float], str]) -> str:
    """`span` of the smallest and the largest of the finite values; a dash if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return span(show(min(finite)), show(max(finite))) if finite else MISSING


def listed(names: list[str], most: int = 8) -> str:
    """Names in a sentence, the rest counted: ``q_proj, k_proj and 3 more``."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if len(names) > 1:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return "".join(names)
