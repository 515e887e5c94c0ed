"""Whether both sides turned together beyond chance, and where the change lies, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, one_decimal, percent, significant
from svdjax.spectra.tables import over

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults, ProjectionNulls
    from svdjax.nulls.verdicts import Against, Judgement

MOST_LINES = 24
JUDGED = ("below", "within", "above")
"""Verdicts that say something."""
_VERDICTS = {
    "below": "more alike than by chance",
    "within": "no more alike than by chance, nor less",
    "above": "less alike than by chance",
    "untold": "with fewer than 19 draws that is not judged",
}


def null_verdict(results: NullResults) -> str:
    """Whether NF is smaller than without a relation between the sides; empty if unjudged.

    The only sentence of a page that judges NF.
    """
    judged = _judged(results)
    if not judged:
        return ""
    below, above = (_with(results, word) for word in ("below", "above"))
    scope = "two-sided, level 0.05 for all together"
    if below:
        where = (
            f"below them in {listed(below)} ({len(below)} of {len(judged)} projections; {scope})"
        )
        less = [1 - one.pooled("nf").ratio for one in judged if one.name in below]
        meaning = (
            "there both sides turned more alike than by chance, so that NF is "
            f"{ends(less, percent)} smaller"
        )
    else:
        where = f"below them in no projection ({scope})"
        meaning = "by NF both sides turned no more alike than by chance"
    text = (
        f"NF is {_ratios(judged)} of what random signs of the same change give, {where}: {meaning}."
    )
    return text + (f" It lies above them in {listed(above)}." if above else "")


def null_clause(results: NullResults) -> str:
    """NF beside its null for the page of a pair, whose verdict is the co-rotation share's."""
    judged = _judged(results)
    if not judged:
        return ""
    below, above = (_with(results, word) for word in ("below", "above"))
    where = [
        *([f"significantly below it in {listed(below)}"] if below else []),
        *([f"above it in {listed(above)}"] if above else []),
    ]
    return (
        f"NF is {_ratios(judged)} of its mean under random signs, "
        f"{' and '.join(where) or 'significantly off it in no projection'} (two-sided, level 0.05 "
        "for all together)."
    )


def null_lead(results: NullResults) -> str:
    """The result in a few sentences: alignment, place of the change, scaling."""
    verdict = null_verdict(results)
    if not verdict:
        return _unjudged(results)
    return " ".join([verdict, _concentration(_judged(results)), *_scalings(results)])


def null_line(results: NullResults) -> str:
    """What an index says of a pair."""
    judged = _judged(results)
    if not judged:
        return _unjudged(results)
    below, above = (_with(results, word) for word in ("below", "above"))
    more = f", in {listed(above)} above" if above else ""
    return (
        f"In {len(below)} of {len(judged)} projections NF lies below what random signs of the same "
        f"change give{more} (two-sided, level 0.05 for all together); it is {_ratios(judged)} of "
        "that."
    )


def _judged(results: NullResults) -> list[ProjectionNulls]:
    return [
        one
        for name, one in results.projections.items()
        if results.judgements[name]["nf"].verdict in JUDGED
    ]


def _with(results: NullResults, word: str, what: str = "nf") -> list[str]:
    return [name for name, judged in results.judgements.items() if judged[what].verdict == word]


def _ratios(judged: Sequence[ProjectionNulls], kind: str = "signs") -> str:
    return ends([one.pooled("nf", kind).ratio for one in judged], percent)


def _concentration(judged: Sequence[ProjectionNulls]) -> str:
    halves = [over(np.mean, one.arrays.top_half) for one in judged]
    text = (
        f"Of what the same singular values in random directions give it is "
        f"{_ratios(judged, 'spectrum')}: that says where the change lies, not how it turns"
    )
    if np.isfinite(halves).any():
        uniform = ends([one.uniform_top_half for one in judged], percent)
        text += (
            f" (between the leading halves of base's singular vectors {ends(halves, percent)} of "
            f"it, squared; {uniform} in random directions)"
        )
    return text + "."


def _scalings(results: NullResults) -> list[str]:
    """Whether the mean factors differ from what a change without any scaling makes of them."""
    judged = [
        one
        for name, one in results.projections.items()
        if results.judgements[name]["scaling"].verdict in JUDGED
    ]
    if not judged:
        return []
    places = [one.pooled("scaling") for one in judged]
    measured = ends([place.observed for place in places], lambda x: decimal(x, 3))
    alone = ends([place.mean for place in places], lambda x: decimal(x, 3))
    fitted = ends([_fitted(one) for one in judged], lambda x: decimal(x, 3))
    above, below = (_with(results, word, "scaling") for word in ("above", "below"))
    found = [
        *([f"beyond it in {listed(above)}"] if above else []),
        *([f"below it in {listed(below)}"] if below else []),
    ]
    even = _with(results, "below", "spread")
    spreads = [one.pooled("spread").ratio for one in judged]
    return [
        f"The mean of σ post / σ base is {measured} ({fitted} by least squares), and {alone} "
        f"under a change of that size without any scaling: {' and '.join(found) or 'within it'}.",
        f"Singular values were scaled more evenly than by such changes in {len(even)} of "
        f"{len(judged)}: the spread of the factors is {ends(spreads, percent)} of theirs.",
    ]


def _fitted(one: ProjectionNulls) -> float:
    return over(np.mean, one.arrays.alpha_ls[one.arrays.sampled])


def _unjudged(results: NullResults) -> str:
    every = results.projections.values()
    signs = [over(np.mean, one.nf_over_signs) for one in every]
    if np.isfinite(signs).any():
        return (
            f"NF is {ends(signs, percent)} (mean of a projection) of what random signs of the same "
            "change give; with fewer than 19 draws it is not judged whether that is chance."
        )
    ratios = [over(np.mean, one.nf_over_null) for one in every]
    if not np.isfinite(ratios).any():
        return "No matrix has both an NF and a null to hold it against."
    return (
        f"NF is {ends(ratios, percent)} (mean of a projection) of what an equally large change in "
        "random directions would give, which says where the change lies; without draws it is not "
        "judged whether both sides turned together."
    )


def null_findings(results: NullResults) -> list[tuple[str, str]]:
    """A sentence per projection: (name, sentence); of more than `MOST_LINES` how many are left."""
    lines = [
        (name, _line(one, results.judgements[name])) for name, one in results.projections.items()
    ]
    more = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([("", f"{more} more are in the tables.")] if more > 0 else [])


def _line(one: ProjectionNulls, judgements: Mapping[str, Judgement]) -> str:
    if one.unchanged.all():
        return "the matrices equal those of the base up to a factor; there is no change to judge."
    judgement = judgements["nf"]
    if judgement.verdict == "undefined":
        return _by_formula(one)
    found = judgement.against
    layers = np.flatnonzero(one.arrays.sampled)
    which = (
        f"layers {listed([str(i) for i in layers])}" if len(layers) > 1 else f"layer {layers[0]}"
    )
    elsewhere = percent(one.pooled("nf", "spectrum").ratio)
    return (
        f"NF {significant(found.observed)} ({which}) is {percent(found.ratio)} of the "
        f"{_spread(found)} of {one.draws} draws of random signs ({_chances(judgement)}): "
        f"{_VERDICTS[judgement.verdict]}; {elsewhere} of what the same singular values in random "
        f"directions give.{_scaling(one)}"
    )


def _by_formula(one: ProjectionNulls) -> str:
    known = np.isfinite(one.nf_null)
    if not known.any():
        return "no null to hold it against: NF is not defined, or no formula holds and none drawn."
    kinds = {"first_order": "to first order", "all_orders": "over all orders, of a Gaussian change"}
    used = [text for name, text in kinds.items() if (one.source == name).any()]
    return (
        f"NF is {percent(over(np.mean, one.nf_over_null))} (mean of {int(known.sum())} of "
        f"{one.layers} layers) of what an equally large change in random directions would give "
        f"({' or '.join(used)}, by formula); without draws it is not judged whether both sides "
        "turned together."
    )


def _scaling(one: ProjectionNulls) -> str:
    factor, spread = one.pooled("scaling"), one.pooled("spread")
    text = (
        f" The factors σ post / σ base have mean {decimal(factor.observed)}, by least squares "
        f"{decimal(_fitted(one))}"
    )
    if math.isfinite(factor.mean):
        text += (
            f"; a change of that size without any scaling gives {decimal(factor.mean)} "
            f"(z = {one_decimal(factor.z)})"
        )
    return (
        f"{text}. Their spread is {decimal(spread.observed)}, by chance {decimal(spread.mean)} "
        f"(z = {one_decimal(spread.z)})."
    )


def _spread(found: Against) -> str:
    return f"{significant(found.mean)} ± {significant(found.std, 2)}"


def _chances(judgement: Judgement) -> str:
    return f"z = {one_decimal(judgement.against.z)}, corrected p = {significant(judgement.p, 2)}"


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
            f"{bare} of {total} matrices have nothing to hold NF against: it is not defined, or no "
            "formula holds and they are beyond the bound on what is sampled (nulls.layers)."
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
        f"matrices ({bound}), seed {how['seed']}"
        if cost["draws"]
        else "none; formulas only"
    )
    sizes = [size for one in every for size in one.arrays.delta]
    text = f"{ends(sizes, percent)} of ‖W post‖"
    floor = max((float(np.max(one.arrays.rounding, initial=0)) for one in every), default=0.0)
    if floor:
        text += f"; rounding to the storage dtype alone makes {percent(floor)}"
    tests = "two-sided, at level 0.05 for all projections together (Holm)"
    return [("drawn", drawn), *([("verdicts", tests)] if cost["draws"] else []), ("changes", text)]
