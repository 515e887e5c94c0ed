"""Sentences about matrices that stand out from those of the neighbouring layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from svdjax.report.numbers import decimal, percent, significant
from svdjax.spectra.standout import StandOut, by_matrix, matrix_name

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison

MOST_NAMED, MOST_LISTED = 3, 24

_METRICS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "alpha": ("scaling factor", lambda value: decimal(value, 3)),
    "nf": ("NF", significant),
    "change": ("change beside the scaling", percent),
    "corotation": ("co-rotation share", lambda value: decimal(value, 3)),
}


def standout_lead(comparison: Comparison) -> str:
    """First sentence of a page where matrices stand out, else empty."""
    matrices = by_matrix(comparison.stands_out)
    if not matrices:
        return ""
    if len(matrices) == 1:
        ((matrix, entries),) = matrices.items()
        name = matrix_name(comparison, *matrix)
        return f"{name} stands out from {_others(comparison)}: {values_in_words(entries)}."
    return (
        f"{len(matrices)} matrices stand out from {_others(comparison)}: "
        f"{_listed(comparison, MOST_NAMED)}."
    )


def standout_finding(comparison: Comparison) -> str:
    """Sentence with all matrices that stand out, for the list of findings; empty if there are none.

    At most `MOST_LISTED` are named.
    """
    if not comparison.stands_out:
        return ""
    experts = any(entry.expert is not None for entry in comparison.stands_out)
    return (
        "Standing out: matrices that differ from those of the three layers before and after"
        f"{', or experts from the others of their layer,' if experts else ''} by "
        "more than these differ among themselves, and by enough to matter "
        "(docs/mathematics.md, Layers that stand out): "
        f"{_listed(comparison, MOST_LISTED, ', in summary.json')}."
    )


def odd_scaling(comparison: Comparison) -> list[str]:
    """Names of the matrices whose scaling factor stands out."""
    return [
        matrix_name(comparison, entry.projection, entry.place)
        for entry in comparison.stands_out
        if entry.metric == "alpha"
    ]


def _others(comparison: Comparison) -> str:
    """What the matrices that stand out differ from."""
    kinds = {entry.expert is not None for entry in comparison.stands_out}
    words = {False: "the neighbouring layers", True: "the other experts of the layer"}
    return " or ".join(words[kind] for kind in sorted(kinds))


def _listed(comparison: Comparison, most: int, where: str = "") -> str:
    """``down_proj of layer 41 (scaling factor 1.035 where 0.900 is expected); and 2 more``."""
    matrices = list(by_matrix(comparison.stands_out).items())
    items = [
        f"{matrix_name(comparison, *matrix)} ({values_in_words(entries)})"
        for matrix, entries in matrices[:most]
    ]
    if len(matrices) > most:
        items.append(f"and {len(matrices) - most} more{where}")
    return "; ".join(items)


def values_in_words(entries: Sequence[StandOut]) -> str:
    """Values of a matrix beside what its neighbours let expect."""
    values = []
    for entry in entries:
        metric, show = _METRICS[entry.metric]
        values.append(f"{metric} {show(entry.value)} where {show(entry.expected)} is expected")
    return ", ".join(values)
