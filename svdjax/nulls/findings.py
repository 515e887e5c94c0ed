"""Sentences on whether both sides turned together beyond chance, and where the change lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.numbers import decimal, ends, listed, one_decimal, percent, significant
from svdjax.spectra.tables import over

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults, ProjectionNulls
    from svdjax.nulls.verdicts import Judgement

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
    below, above = _below_and_above(results)
    scope = "two-sided, level 0.05 for all together"
    if below:
        where = (
            f"below them in {listed(below)} ({len(below)} of {len(judged)} projections; {scope})"
        )
        less = [1 - each.pooled("nf").ratio for each in judged if each.name in below]
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
    below, above = _below_and_above(results)
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
    judged = _judged(results)
    if not judged:
        return _unjudged(results)
    return " ".join([null_verdict(results), _concentration(judged), *_scalings(results)])


def null_line(results: NullResults) -> str:
    """A pair's line in an index."""
    judged = _judged(results)
    if not judged:
        return _unjudged(results)
    below, above = _below_and_above(results)
    more = f", in {listed(above)} above" if above else ""
    return (
        f"In {len(below)} of {len(judged)} projections NF lies below what random signs of the same "
        f"change give{more} (two-sided, level 0.05 for all together); it is {_ratios(judged)} of "
        "that."
    )


def _judged(results: NullResults, measure: str = "nf") -> list[ProjectionNulls]:
    return [
        nulls
        for name, nulls in results.projections.items()
        if results.judgements[name][measure].verdict in JUDGED
    ]


def _below_and_above(results: NullResults, measure: str = "nf") -> tuple[list[str], list[str]]:
    """Names of the projections that lie below their null, and above it."""
    verdicts = {name: judged[measure].verdict for name, judged in results.judgements.items()}
    below, above = ([n for n, v in verdicts.items() if v == word] for word in ("below", "above"))
    return below, above


def _ratios(judged: Sequence[ProjectionNulls], kind: str = "signs") -> str:
    return ends([each.pooled("nf", kind).ratio for each in judged], percent)


def _concentration(judged: Sequence[ProjectionNulls]) -> str:
    halves = [over(np.mean, each.arrays.top_half) for each in judged]
    text = (
        f"Of what the same singular values in random directions give it is "
        f"{_ratios(judged, 'spectrum')}: that says where the change lies, not how it turns"
    )
    if np.isfinite(halves).any():
        uniform = ends([each.uniform_top_half for each in judged], percent)
        text += (
            f" (between the leading halves of base's singular vectors {ends(halves, percent)} of "
            f"it, squared; {uniform} in random directions)"
        )
    return text + "."


def _scalings(results: NullResults) -> list[str]:
    """Whether the mean factors differ from what a change without any scaling makes of them."""
    judged = _judged(results, "scaling")
    if not judged:
        return []

    def three(values: Iterable[float]) -> str:
        return ends(values, lambda value: decimal(value, 3))

    tests = [each.pooled("scaling") for each in judged]
    below, above = _below_and_above(results, "scaling")
    where = [
        *([f"beyond it in {listed(above)}"] if above else []),
        *([f"below it in {listed(below)}"] if below else []),
    ]
    even, _ = _below_and_above(results, "spread")
    spreads = [each.pooled("spread").ratio for each in judged]
    return [
        f"The mean of σ post / σ base is {three(test.observed for test in tests)} "
        f"({three(map(_fitted, judged))} by least squares), and "
        f"{three(test.mean for test in tests)} under a change of that size without any scaling: "
        f"{' and '.join(where) or 'within it'}.",
        f"Singular values were scaled more evenly than by such changes in {len(even)} of "
        f"{len(judged)}: the spread of the factors is {ends(spreads, percent)} of theirs.",
    ]


def _fitted(nulls: ProjectionNulls) -> float:
    return over(np.mean, nulls.arrays.alpha_ls[nulls.arrays.sampled])


def _unjudged(results: NullResults) -> str:
    every = results.projections.values()
    signs = [over(np.mean, each.nf_over_signs) for each in every]
    if np.isfinite(signs).any():
        return (
            f"NF is {ends(signs, percent)} (mean of a projection) of what random signs of the same "
            "change give; with fewer than 19 draws it is not judged whether that is chance."
        )
    ratios = [over(np.mean, each.nf_over_null) for each in every]
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
        (name, _line(nulls, results.judgements[name]))
        for name, nulls in results.projections.items()
    ]
    more = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([("", f"{more} more are in the tables.")] if more > 0 else [])


def _line(nulls: ProjectionNulls, judgements: Mapping[str, Judgement]) -> str:
    if nulls.unchanged.all():
        return "the matrices equal those of the base up to a factor; there is no change to judge."
    verdict, p, test = judgements["nf"]
    if verdict == "undefined":
        return _by_formula(nulls)
    layers, places = np.flatnonzero(nulls.arrays.sampled), nulls.places
    which = (
        f"layers {listed([places[i].label for i in layers])}"
        if len(layers) > 1 and not nulls.expert_numbers
        else listed([places[i].words for i in layers])
    )
    elsewhere = percent(nulls.pooled("nf", "spectrum").ratio)
    return (
        f"NF {significant(test.observed)} ({which}) is {percent(test.ratio)} of the "
        f"{significant(test.mean)} ± {significant(test.std, 2)} of {nulls.draws} draws of random "
        f"signs (z = {one_decimal(test.z)}, corrected p = {significant(p, 2)}): "
        f"{_VERDICTS[verdict]}; {elsewhere} of what the same singular values in random directions "
        f"give.{_scaling(nulls)}"
    )


def _by_formula(nulls: ProjectionNulls) -> str:
    defined = np.isfinite(nulls.nf_null)
    if not defined.any():
        return "no null to hold it against: NF is not defined, or no formula holds and none drawn."
    kinds = {"first_order": "to first order", "all_orders": "over all orders, of a Gaussian change"}
    used = [text for name, text in kinds.items() if (nulls.source == name).any()]
    what = "matrices" if nulls.expert_numbers else "layers"
    return (
        f"NF is {percent(over(np.mean, nulls.nf_over_null))} (mean of {int(defined.sum())} of "
        f"{nulls.matrices} {what}) of what an equally large change in random directions would give "
        f"({' or '.join(used)}, by formula); without draws it is not judged whether both sides "
        "turned together."
    )


def _scaling(nulls: ProjectionNulls) -> str:
    factor, spread = nulls.pooled("scaling"), nulls.pooled("spread")
    text = (
        f" The factors σ post / σ base have mean {decimal(factor.observed)}, by least squares "
        f"{decimal(_fitted(nulls))}"
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


def null_notes(results: NullResults) -> list[str]:
    """Remarks on matrices that changed by rounding alone, and on those without a null."""
    every = list(results.projections.values())
    notes = []
    rounded = sum(int(each.rounded.sum()) for each in every)
    total = sum(each.matrices for each in every)
    if rounded:
        names = [each.name for each in every if each.rounded.any()]
        notes.append(
            f"In {rounded} of {total} matrices ({listed(names)}) the change is no larger than what "
            "rounding to the storage dtype alone makes: what is judged there may be rounding."
        )
    bare = sum(int(np.sum((each.source == "none") & ~each.unchanged)) for each in every)
    if bare:
        notes.append(
            f"{bare} of {total} matrices have nothing to hold NF against: it is not defined, or no "
            "formula holds and they are beyond the bound on what is sampled (nulls.layers)."
        )
    return notes


def null_facts(results: NullResults) -> list[tuple[str, str]]:
    """Draws, level of the verdicts and sizes of the changes: (name, value)."""
    every = list(results.projections.values())
    settings, cost = results.settings, results.cost
    total = sum(each.matrices for each in every)
    most = settings["layers"]
    bound = f"at most {most} a projection" if most else "without a bound"
    drawn = (
        f"{cost['draws']} draws, {settings['draws']} of each kind for {cost['matrices']} of "
        f"{total} matrices ({bound}), seed {settings['seed']}"
        if cost["draws"]
        else "none; formulas only"
    )
    sizes = [size for each in every for size in each.arrays.delta.flat]
    text = f"{ends(sizes, percent)} of ‖W post‖"
    floor = max((float(np.max(each.arrays.rounding, initial=0)) for each in every), default=0.0)
    if floor:
        text += f"; rounding to the storage dtype alone makes {percent(floor)}"
    tests = "two-sided, at level 0.05 for all projections together (Holm)"
    return [("drawn", drawn), *([("verdicts", tests)] if cost["draws"] else []), ("changes", text)]
