"""Sentences on the matrices that stand out from those of the neighbouring layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from svdjax.report.numbers import decimal, percent, significant
from svdjax.spectra.standout import StandOut, by_matrix, matrix_name

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison

MOST_NAMED, MOST_LISTED = 3, 24

_WORDS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "alpha": ("scaling factor", lambda value: decimal(value, 3)),
    "nf": ("NF", significant),
    "change": ("change beside the scaling", percent),
    "corotation": ("co-rotation share", lambda value: decimal(value, 3)),
}


def standout_sentence(comparison: Comparison) -> str:
    """The first sentence of a page where matrices stand out, else empty."""
    matrices = by_matrix(comparison.stands_out)
    if not matrices:
        return ""
    if len(matrices) == 1:
        ((key, entries),) = matrices.items()
        name = matrix_name(comparison, *key)
        return f"{name} stands out from the neighbouring layers: {_values(entries)}."
    named = _named(comparison, MOST_NAMED)
    more = len(matrices) - len(named)
    rest = f"; and {more} more" if more else ""
    return (
        f"{len(matrices)} matrices stand out from the neighbouring layers: "
        f"{'; '.join(named)}{rest}."
    )


def standout_line(comparison: Comparison) -> str:
    """All matrices that stand out, for the list of findings; empty where there are none."""
    matrices = by_matrix(comparison.stands_out)
    if not matrices:
        return ""
    named = _named(comparison, MOST_LISTED)
    more = len(matrices) - len(named)
    rest = f"; and {more} more, in summary.json" if more else ""
    return (
        "Standing out: matrices that differ from those of the three layers before and after by "
        "more than these differ among themselves, and by enough to matter "
        f"(docs/mathematics.md, Layers that stand out): {'; '.join(named)}{rest}."
    )


def odd_scaling(comparison: Comparison) -> list[str]:
    """Names of the matrices whose scaling factor stands out."""
    return [
        matrix_name(comparison, entry.projection, entry.layer)
        for entry in comparison.stands_out
        if entry.metric == "alpha"
    ]


def _named(comparison: Comparison, most: int) -> list[str]:
    """``down_proj of layer 41 (scaling factor 1.035 where 0.900 is expected)`` and so on."""
    matrices = list(by_matrix(comparison.stands_out).items())[:most]
    return [f"{matrix_name(comparison, *key)} ({_values(entries)})" for key, entries in matrices]


def _values(entries: Sequence[StandOut]) -> str:
    values = []
    for entry in entries:
        words, show = _WORDS[entry.metric]
        values.append(f"{words} {show(entry.value)} where {show(entry.expected)} is expected")
    return ", ".join(values)
