"""The answers of a pair's first screen, by the thresholds of the findings' sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.matrices import Verdict
from svdjax.report.numbers import decimal, ends, p_value, percent
from svdjax.spectra.corotation_findings import verdict
from svdjax.spectra.experts import expert_changes
from svdjax.spectra.findings import nf_shares
from svdjax.spectra.scaling_findings import (
    exceeds_drift,
    is_even,
    least_squares,
    scaling_judgements,
)
from svdjax.spectra.standout import by_matrix, matrix_name
from svdjax.spectra.standout_findings import values_in_words

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults
    from svdjax.spectra.results import Comparison

MOST_MATRICES = 24
MOST_EXPERTS = 5


def pair_verdicts(comparison: Comparison, nulls: NullResults | None = None) -> list[Verdict]:
    """Answers on a pair: scaling, rotation, relation, experts, layers that stand out.

    Args:
        comparison: The pair.
        nulls: Results of the nulls stage, whose judgements that on scaling rests on.
    """
    if not comparison.projections:
        return []
    return [
        _scaling(comparison, nulls),
        _rotation(comparison),
        _relation(comparison),
        *_experts(comparison),
        _stand_outs(comparison),
    ]


def _scaling(comparison: Comparison, nulls: NullResults | None) -> Verdict:
    question = "Singular values scaled evenly?"
    carried = [projection.carried for projection in comparison.projections.values()]
    defined = [p for p in carried if math.isfinite(p.alpha_mean) and p.alpha_mean > 0]
    if not defined:
        return Verdict("scaling", question, "not defined", "", "No factor is defined.")
    judgements = scaling_judgements(nulls)
    even = [p for p in defined if is_even(p)]
    scaled = [p for p in even if exceeds_drift(p, judgements.get(p.name))]
    detail = (
        f"mean factors {ends([p.alpha_mean for p in defined], _three)}, by least squares "
        f"{ends(map(least_squares, defined), _three)}; spread "
        f"{ends([p.alpha_std / p.alpha_mean for p in defined], percent)} of the mean"
    )
    if not even:
        return Verdict("scaling", question, "no, unevenly", "warn", detail)
    if not scaled:
        answer = "evenly, by no more than chance" if len(even) == len(defined) else "not scaled"
        return Verdict("scaling", question, answer, "", detail)
    if len(scaled) == len(defined):
        return Verdict("scaling", question, "yes, by one factor each", "good", detail)
    answer = f"in {len(scaled)} of {len(defined)} projections"
    return Verdict("scaling", question, answer, "warn", detail)


_ROTATIONS = {
    "together": ("yes, by one rotation", "good"),
    "more": ("more than by chance, not by one rotation", "warn"),
    "none": ("not beyond chance", ""),
    "less": ("apart, more than by chance", "warn"),
    "apart": ("no, apart", "bad"),
}


def _rotation(comparison: Comparison) -> Verdict:
    question = "Both sides turned together?"
    words: dict[str, list[str]] = {}
    for name, projection in comparison.projections.items():
        word = verdict(projection.corotation_pooled.share, comparison.corotation_p[name])
        words.setdefault(word, []).append(name)
    words.pop("undefined", None)
    if not words:
        return Verdict("rotation", question, "nothing was turned", "", "No share is defined.")
    names = [name for members in words.values() for name in members]
    word = max(words, key=lambda key: len(words[key]))
    answer, tone = _ROTATIONS[word]
    if len(words) > 1:
        answer = f"{answer}, in {len(words[word])} of {len(names)} projections"
        tone = "warn" if tone == "good" else tone
    shares = ends([comparison[name].corotation_pooled.share for name in names], _three)
    p = max(comparison.corotation_p[name] for name in words[word])
    sign = "≤" if word != "none" else "="
    if word == "none":
        p, sign = min(comparison.corotation_p[name] for name in words[word]), "≥"
    detail = f"co-rotation share {shares} (1 one rotation, ½ chance), {p_value(p, sign)}"
    return Verdict("rotation", question, answer, tone, detail)


def _relation(comparison: Comparison) -> Verdict:
    question = "Related?"
    shares = nf_shares([projection.carried for projection in comparison.projections.values()])
    if not shares.size:
        return Verdict("relation", question, "nothing was turned", "", "NF is not defined.")
    detail = (
        f"NF is {percent(float(np.median(shares)))} of the unrelated level in the median, "
        f"{percent(float(shares.min()))} to {percent(float(shares.max()))} for single matrices"
    )
    if (shares < 0.5).all():
        return Verdict("relation", question, "yes, the rotations agree", "good", detail)
    if (shares >= 0.8).all():
        return Verdict("relation", question, "no, as unrelated models", "bad", detail)
    return Verdict("relation", question, "differs by matrix", "warn", detail)


def _experts(comparison: Comparison) -> list[Verdict]:
    """Experts that changed most, where there are experts."""
    changes = expert_changes(comparison)
    if not changes:
        return []
    sizes = [one.change for one in changes]
    first, middle = changes[0], float(np.median(sizes))
    answer = f"{first.place.words}: {percent(first.change)}"
    named = [
        (
            one.name,
            comparison[one.name].index(*one.place),
            f"{one.place.words}: {percent(one.change)}",
        )
        for one in changes[:MOST_EXPERTS]
    ]
    detail = (
        f"change beside the scaling, all matrices of an expert together; the median of "
        f"{len(changes)} experts is {percent(middle)}, the least {percent(sizes[-1])}"
    )
    return [Verdict("experts", "Which experts changed most?", answer, "", detail, named)]


def _stand_outs(comparison: Comparison) -> Verdict:
    question = "Layers that stand out?"
    matrices = by_matrix(comparison.stands_out)
    if not matrices:
        experts = any(one.expert_numbers for one in comparison.projections.values())
        others = ", nor from the other experts of its layer," if experts else ""
        detail = (
            f"no matrix differs from the layers beside it{others} by more than they do themselves"
        )
        return Verdict("stands_out", question, "none", "good", detail)
    named = [
        (
            *(name, comparison[name].index(*place)),
            f"{matrix_name(comparison, name, place)}: {values_in_words(entries)}",
        )
        for (name, place), entries in list(matrices.items())[:MOST_MATRICES]
    ]
    more = len(matrices) - len(named)
    detail = f"and {more} more, in summary.json" if more else ""
    count = f"{len(matrices)} {'matrix' if len(matrices) == 1 else 'matrices'}"
    return Verdict("stands_out", question, count, "warn", detail, named)


def _three(value: float) -> str:
    return decimal(value, 3)
