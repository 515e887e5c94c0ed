"""Whether the observed consistency exceeds that of a random change, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, one_decimal, percent, significant
from svdjax.report.tables import over

if TYPE_CHECKING:
    from svdjax.engine.nulls.results import NullResults, ProjectionNulls
    from svdjax.engine.nulls.verdicts import Against

MOST_LINES = 24
JUDGED = ("below", "within", "above")
"""Verdicts that say something."""
_VERDICTS = {
    "below": "the observed consistency exceeds what an equally large random change would show",
    "within": "the observed consistency does not exceed what an equally large random change would "
    "show",
    "above": "the two sides stayed together less than under an equally large random change",
    "untold": "whether that exceeds chance cannot be told at level 0.05 with fewer than 19 draws",
}


def null_lead(results: NullResults) -> str:
    """The result in two sentences."""
    judged = _judged(results)
    if not judged:
        return _unjudged(results)
    below, above = (_with(judged, word) for word in ("below", "above"))
    head = (
        f"In {len(below)} of {len(judged)} projections left and right singular vectors stayed "
        "together more than under an equally large random change (each at level 0.05)"
    )
    tail = f"; NF is {_ratios(judged)} of what such changes give."
    if above:
        tail += f" Less than by chance they stayed together in {listed(above)}."
    return head + tail + _even(judged)


def null_line(results: NullResults) -> str:
    """What an index says of a pair."""
    judged = _judged(results)
    if not judged:
        return _unjudged(results)
    below, above = (_with(judged, word) for word in ("below", "above"))
    more = f", in {listed(above)} above" if above else ""
    return (
        f"In {len(below)} of {len(judged)} projections NF lies below what equally large random "
        f"changes give (each at level 0.05){more}; it is {_ratios(judged)} of that."
    )


def _judged(results: NullResults) -> list[ProjectionNulls]:
    return [one for one in results.projections.values() if one.verdict in JUDGED]


def _with(judged: Sequence[ProjectionNulls], word: str) -> list[str]:
    return [one.name for one in judged if one.verdict == word]


def _ratios(judged: Sequence[ProjectionNulls]) -> str:
    return ends([one.pooled("nf").ratio for one in judged], percent)


def _unjudged(results: NullResults) -> str:
    ratios = [over(np.mean, one.nf_over_null) for one in results.projections.values()]
    if not np.isfinite(ratios).any():
        return "No matrix has both an NF and a null to hold it against."
    return (
        f"NF is {ends(ratios, percent)} (mean of a projection) of what an equally large random "
        "change would give; too little was drawn to say whether that is more than chance."
    )


def _even(judged: Sequence[ProjectionNulls]) -> str:
    """Whether the singular values were scaled more evenly than by chance."""
    even = [one.name for one in judged if one.judged("spread") == "below"]
    spreads = [one.pooled("spread").ratio for one in judged]
    return (
        f" Singular values were scaled more evenly than by such changes in {len(even)} of "
        f"{len(judged)}: the spread of the factors is {ends(spreads, percent)} of theirs."
    )


def null_findings(results: NullResults) -> list[tuple[str, str]]:
    """A sentence per projection: (name, sentence); of more than `MOST_LINES` how many are left."""
    lines = [(one.name, _line(one)) for one in results.projections.values()]
    more = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([("", f"{more} more are in the tables.")] if more > 0 else [])


def _line(one: ProjectionNulls) -> str:
    if one.unchanged.all():
        return "the matrices equal those of the base up to a factor; there is no change to judge."
    if one.verdict == "undefined":
        return _by_formula(one)
    found = one.pooled("nf")
    layers = np.flatnonzero(one.arrays.sampled)
    which = (
        f"layers {listed([str(i) for i in layers])}" if len(layers) > 1 else f"layer {layers[0]}"
    )
    return (
        f"NF {significant(found.observed)} ({which}) is {percent(found.ratio)} of the "
        f"{_spread(found)} of {one.draws} random changes with the same singular values "
        f"({_chances(found)}): {_VERDICTS[one.verdict]}.{_scaling(one)}"
    )


def _by_formula(one: ProjectionNulls) -> str:
    known = np.isfinite(one.nf_null)
    if not known.any():
        return "no null to hold it against: NF is not defined, or no formula holds and none drawn."
    kinds = {"first_order": "to first order", "all_orders": "over all orders, of a Gaussian change"}
    used = [text for name, text in kinds.items() if (one.source == name).any()]
    return (
        f"NF is {percent(over(np.mean, one.nf_over_null))} (mean of {int(known.sum())} of "
        f"{one.layers} layers) of what an equally large random change would give "
        f"({' or '.join(used)}, by formula); without draws there is no p-value."
    )


def _scaling(one: ProjectionNulls) -> str:
    factor, spread = one.pooled("alpha"), one.pooled("spread")
    return (
        f" Its scaling factors have mean {decimal(factor.observed)} and spread "
        f"{decimal(spread.observed)}; by chance {decimal(factor.mean)} and "
        f"{decimal(spread.mean)} (z = {one_decimal(factor.z)} and {one_decimal(spread.z)})."
    )


def _spread(found: Against) -> str:
    return f"{significant(found.mean)} ± {significant(found.std, 2)}"


def _chances(found: Against) -> str:
    p = min(found.p_low, found.p_high)
    return f"z = {one_decimal(found.z)}, p = {significant(p, 2)}"


def null_notes(results: NullResults) -> list[str]:
    """What else is to be known of the matrices."""
    every = list(results.projections.values())
    notes = []
    rounded = sum(int(one.rounded.sum()) for one in every)
    total = sum(one.layers for one in every)
    if rounded:
        names = [one.name for one in every if one.rounded.any()]
        notes.append(
            f"In {rounded} of {total} matrices ({listed(names)}) the change is no larger than what "
            "rounding to the storage dtype alone makes: what is judged there may be rounding."
        )
    bare = sum(int(np.sum((one.source == "none") & ~one.unchanged)) for one in every)
    if bare:
        notes.append(
            f"{bare} of {total} matrices have no null of NF: it is not defined, or no formula "
            "holds and they are beyond the bound on what is sampled (nulls.layers)."
        )
    return notes


def null_facts(results: NullResults) -> list[tuple[str, str]]:
    """What was drawn, and how large the changes are: (name, value)."""
    every = list(results.projections.values())
    how, cost = results.settings, results.cost
    total = sum(one.layers for one in every)
    bound = f"at most {how['layers']} a projection" if how["layers"] else "without a bound"
    drawn = (
        f"{cost['draws']} draws, {how['draws']} of each kind for {cost['matrices']} of {total} "
        f"matrices ({bound}), seed {how['seed']}; p is {significant(1 / (1 + how['draws']), 2)} at "
        "least"
        if cost["draws"]
        else "none; formulas only"
    )
    sizes = [size for one in every for size in one.arrays.delta]
    text = f"{ends(sizes, percent)} of ‖W post‖"
    floor = max((float(np.max(one.arrays.rounding, initial=0)) for one in every), default=0.0)
    if floor:
        text += f"; rounding to the storage dtype alone makes {percent(floor)}"
    return [("drawn", drawn), ("changes", text)]
