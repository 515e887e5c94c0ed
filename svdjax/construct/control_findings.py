"""Restorations beside their controls, in sentences made from the numbers of both.

What a restoration does shows something only beside a change of the same size that is none: noise of
that size, the same distance straight back towards base, and base's own modules. The rules by which
two numbers are called alike are said in the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svdjax.construct.controls import ALL_CONTROLS, controls_of
from svdjax.construct.groups import short, short_name
from svdjax.construct.recipes import MODULES, VARIANTS
from svdjax.report.numbers import decimal, ends, listed, percent, significant

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult
    from svdjax.evaluate.results import EvaluationResults, Score

FACTOR = 2.0  # KL of one model within this factor of another's is alike
Z = 1.96  # standard errors beyond which two shares of right answers differ
POINTS = 0.05  # surviving shares nearer than this to the predicted one are at it
_NAMES = {
    "noise": "noise of exactly the same size",
    "interpolated": "base + sΔ at the same distance",
    "reverted": "the modules of base",
}
_KL_NOISE = {
    "less": "costs less than its size explains",
    "alike": "costs what any change of its size costs",
    "more": "costs more than its size explains: it takes away what this text needs",
}
_BACK = {
    "less": "less than the same distance straight back towards base",
    "alike": "as much as the same distance straight back towards base",
    "more": "more than the same distance straight back towards base",
}
_NOT_MADE = (
    "Is restoration more than a small change? No change of the same size was made beside it, so "
    "that is not known."
)


def compared(value: float, reference: float) -> str:
    """``less``, ``alike`` or ``more``: a KL beside another one, by `FACTOR`."""
    if value * FACTOR <= reference and value < reference:
        return "less"
    return "more" if value >= FACTOR * reference and value > reference else "alike"


def control_lines(results: ConstructionResults) -> list[str]:
    """What restorations cost beside their controls, on the held-out text."""
    restored = [
        one
        for one in results.variants.values()
        if _restores(one.name) and math.isfinite(one.kl) and one.change > 0
    ]
    if not restored:
        return []
    beside = {one.name: _controls(results, one) for one in restored}
    tested = [one for one in restored if "noise" in beside[one.name]]
    if not tested:
        return [_NOT_MADE]
    costs = [f"{ends([one.kl for one in tested], significant)} for restoration"]
    for kind, words in _NAMES.items():
        values = [beside[one.name][kind].kl for one in tested if kind in beside[one.name]]
        if values:
            costs.append(f"{ends(values, significant)} for {words}")
    text = (
        "Is restoration more than a small change? KL from the original is "
        f"{listed(costs)}. Two are called alike within a factor of {FACTOR:g}. "
    )
    parts = [
        *_classes(tested, lambda one: _beside(one, beside, "noise"), _KL_NOISE),
        *_classes(tested, lambda one: _beside(one, beside, "interpolated"), _BACK, "costs "),
        *_at_base(beside),
    ]
    return [text + " ".join(parts)]


def _at_base(beside: Mapping[str, Mapping[str, VariantResult]]) -> list[str]:
    """Where base + sΔ cannot be as far from post as the restoration."""
    back = [kinds["interpolated"] for kinds in beside.values() if "interpolated" in kinds]
    count = sum(one.at_base for one in back)
    if not count:
        return []
    every = sum(change.layers for one in back for change in one.projections.values())
    return [
        f"In {count} of {every} matrices base is nearer than what was restored, and stands for "
        "base + sΔ."
    ]


def surviving_lines(results: ConstructionResults) -> list[str]:
    """What restorations leave of the change of post-training, beside what they leave of any."""
    known = [
        one
        for one in results.variants.values()
        if _restores(one.name)
        and math.isfinite(one.surviving)
        and math.isfinite(one.surviving_predicted)
    ]
    if not known:
        return []
    parts = [change for one in known for change in one.projections.values()]
    text = (
        "Restorations leave "
        f"{ends([change.surviving for change in parts], percent)} of what post-training changed in "
        "a projection (surviving share of Δ), where they would leave "
        f"{ends([change.surviving_predicted for change in parts], percent)} of a small random "
        "change. "
    )
    classes = {
        "at": "takes away the part that it takes of any small change",
        "above": "leaves more than of a random change",
        "below": "leaves less than of a random change",
    }
    text += f"Means over the matrices are called alike within {100 * POINTS:g} points. "
    return [text + " ".join(_classes(known, _level, classes))]


def _level(one: VariantResult) -> str:
    off = one.surviving - one.surviving_predicted
    if abs(off) <= POINTS:
        return "at"
    return "above" if off > 0 else "below"


def differ(one: Score, other: Score) -> int:
    """1 where a model answers more questions right than another beyond chance, -1 where fewer.

    By `Z` standard errors of the difference of two shares of n questions, each with one right and
    one wrong answer added (Agresti and Caffo), repeats not counted. As the questions are the same
    for both, that is on the safe side.
    """
    variance, shares = 0.0, []
    for each in (one, other):
        share = (each.accuracy_mean / 100 * each.n + 1) / (each.n + 2)
        variance += share * (1 - share) / (each.n + 2)
        shares.append(share)
    off = shares[0] - shares[1]
    return 0 if abs(off) <= Z * math.sqrt(variance) else (1 if off > 0 else -1)


def answer_lines(evaluation: EvaluationResults) -> list[str]:
    """What restorations leave of the right answers beside their controls, for each benchmark."""
    lines = []
    for benchmark in evaluation.benchmarks:
        scores = {name: one[benchmark] for name, one in evaluation.scores.items()}
        line = _answers(benchmark, scores)
        if line:
            lines.append(line)
    return lines


def _answers(benchmark: str, scores: Mapping[str, Score]) -> str:
    kinds = {one.kind for name, one in ALL_CONTROLS.items() if name in scores}
    restored = [name for name in scores if _restores(name)]
    beside = {
        name: {
            one.kind: scores[one.name]
            for one in controls_of(VARIANTS[name], kinds)
            if one.name in scores
        }
        for name in restored
    }
    tested = [name for name in restored if "noise" in beside[name]]
    if not tested:
        return ""
    post = scores["post"]
    if post.accuracy_mean <= 0:
        return f"{benchmark}: post answers nothing right, so that no construction can lose it."

    def left(some: Sequence[Score]) -> str:
        return ends([one.accuracy_mean / post.accuracy_mean for one in some], percent)

    shares = [f"restoration leaves {left([scores[name] for name in tested])}"]
    for kind, words in _NAMES.items():
        some = [beside[name][kind] for name in tested if kind in beside[name]]
        if some:
            shares.append(f"{words} {left(some)}")
    text = (
        f"{benchmark}: of the {decimal(post.accuracy_mean, 1)} % that post answers right, "
        f"{listed(shares)}. Scores differ beyond {Z} standard errors of {post.n} questions. "
    )
    noise = {
        "less": "leaves less than noise of its size: what it takes away was needed",
        "alike": "leaves no less and no more than noise of its size, so that leaving the answers "
        "shows nothing else",
        "more": "leaves more than noise of its size, which its size does not explain",
    }

    def level(kind: str) -> Callable[[str], str]:
        words = {-1: "less", 0: "alike", 1: "more"}
        return lambda name: (
            words[differ(scores[name], beside[name][kind])] if kind in beside[name] else ""
        )

    parts = [
        *_classes(tested, level("noise"), noise),
        *_classes(tested, level("interpolated"), _BACK, "leaves "),
    ]
    idle = [
        name
        for name in tested
        if "reverted" in beside[name] and differ(beside[name]["reverted"], post) >= 0
    ]
    if idle:
        places = dict.fromkeys(MODULES[VARIANTS[name].modules] for name in idle)
        parts.append(
            f"With base's own {listed(list(places))} as many are right, so that these questions do "
            "not test what is done there."
        )
    return text + " ".join(parts)


def _restores(name: str) -> bool:
    variant = VARIANTS.get(name)
    return variant is not None and variant.recipe.kind == "restoration"


def _controls(results: ConstructionResults, one: VariantResult) -> dict[str, VariantResult]:
    """A model's controls by kind, those with finite outputs."""
    controls = {kind: results.control(one, kind) for kind in _NAMES}
    return {kind: each for kind, each in controls.items() if each and math.isfinite(each.kl)}


def _beside(
    one: VariantResult, beside: Mapping[str, Mapping[str, VariantResult]], kind: str
) -> str:
    control = beside[one.name].get(kind)
    return "" if control is None else compared(one.kl, control.kl)


def _classes(
    models: Sequence[Any],
    class_of: Callable[[Any], str],
    words: Mapping[str, str],
    verb: str = "",
) -> list[str]:
    """A sentence for each class that has any model, with their names."""
    sentences = []
    for key, text in words.items():
        members = [one for one in models if class_of(one) == key]
        if members:
            names = listed([_name(one) for one in members])
            sentences.append(f"Restoration of {names} {verb}{text}.")
    return sentences


def _name(one: VariantResult | str) -> str:
    name = one if isinstance(one, str) else one.name
    other = " from another post model" if VARIANTS[name].recipe.partner == "other" else ""
    return f"{short_name(name) if isinstance(one, str) else short(one)}{other}"
