"""A comparison in sentences, for the terminal and the page: every one follows from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from svdjax.fingerprint import several, training
from svdjax.fingerprint.parts import named
from svdjax.fingerprint.verdict import PARTLY, RELATED, UNDECIDED, UNRELATED

_CHANCE = (
    (-12.0, "a trillion"),
    (-9.0, "a billion"),
    (-6.0, "a million"),
    (-3.0, "a thousand"),
    (-2.0, "a hundred"),
)


def chance(log10_p: float) -> str:
    """A bound on a p-value in words, from its decimal logarithm."""
    for bound, word in _CHANCE:
        if log10_p <= bound:
            return f"less than one in {word}"
    return "not below one in a hundred"


def verdict_words(result: Mapping[str, Any]) -> str:
    """What the verdict says, without numbers, as a sentence."""
    verdict, parts = result["verdict"], result["parts"]
    if verdict == RELATED:
        return (
            "The two share an origin: one comes from the other, or both from a third; two "
            f"checkpoints do not tell which.{_exceptions(result)}"
        )
    if verdict == PARTLY:
        rest = (
            "The rest has no more in common than models that were trained apart"
            if all(part["verdict"] in (RELATED, UNRELATED) for part in parts)
            else "For the rest, or some of it, that is not decided"
        )
        return (
            f"Some parts share an origin: {named(result['related_parts'])}. {rest}; two "
            "checkpoints do not tell which of them came first."
        )
    if verdict == UNDECIDED:
        return _undecided(result)
    return f"No more in common was found than models that were trained apart have.{_little(result)}"


def _exceptions(result: Mapping[str, Any]) -> str:
    others = [part for part in result["parts"] if part["verdict"] == UNRELATED]
    return f" Not related: {named(others)}." if others else ""


def _undecided(result: Mapping[str, Any]) -> str:
    thresholds = result["thresholds"]
    if result["distance"] <= thresholds["derived"]:
        return (
            "The evidence does not allow a verdict: they agree as related models do, but so few "
            "and small matrices might by chance."
        )
    return (
        "The evidence does not allow a verdict: they have less in common than the related models "
        "that the thresholds were set on, and more than models that were trained apart."
    )


def _little(result: Mapping[str, Any]) -> str:
    if result["log10_p_value"] > math.log10(result["thresholds"]["p_value"]):
        return ""
    return (
        " What little they agree is more than chance, as it is where models of alike data are laid "
        "over each other."
    )


def training_words(result: Mapping[str, Any]) -> str:
    """What related layers share; empty where none are related."""
    shared = result["shared_training"]
    agree = f"the leading singular directions agree by {shared['leading'] or 0:.2f} (1 the same)"
    if shared["kind"] == training.TRAINING:
        return f"They share training, not only initial weights: {agree}."
    if shared["kind"] == training.INITIALISATION:
        return (
            "They share initial weights, or a checkpoint from early in training, and were trained "
            f"apart: {agree}, the others by more."
        )
    if shared["kind"] == training.OPEN:
        return "Whether they share training or only initial weights is not decided."
    return ""


def nearest_words(result: Mapping[str, Any]) -> str:
    """Which reference is nearest; empty where there was one."""
    if "nearest" not in result:
        return ""
    nearest = result["nearest"]
    if nearest["reference"] is not None:
        return (
            f"Nearest: {nearest['reference']}, at {nearest['ratio']:.2f} of the distance of "
            f"{nearest['next']}, the next."
        )
    why = {
        "none related": "none of them is related as a whole",
        "other matrices": "they cannot be compared in the same matrices",
        "equally near": "two are about equally near",
        "parts disagree": "one is nearer in some parts of the model, another in others",
    }
    return f"Which reference is nearest is not decided: {why[nearest['why']]}."


def ancestor_words(result: Mapping[str, Any]) -> str:
    """Which of three checkpoints lies between the others; empty where no ancestor was named."""
    if "ancestor" not in result:
        return ""
    line = result["ancestor"]
    if line["between"] is not None:
        return {
            several.ANCESTOR: (
                "The ancestor lies between reference and suspect: both come from it or from near "
                "it, neither from the other."
            ),
            several.REFERENCE: (
                "The reference lies between ancestor and suspect: if the ancestor is the oldest, "
                "the suspect comes from the reference or from near it."
            ),
            several.SUSPECT: (
                "The suspect lies between ancestor and reference: if the ancestor is the oldest, "
                "the reference comes from the suspect or from near it."
            ),
        }[line["between"]]
    why = {
        "not all related": "they are not all related",
        "same weights": "two of them have the same weights",
        "no clear order": "none of the detours is clearly the smallest",
    }
    return f"Which of the three lies between the others is not decided: {why[line['why']]}."


def numbers(result: Mapping[str, Any]) -> str:
    """Distance, p-value as a bound in words, and alignment."""
    return (
        f"distance {result['distance']:z.4f} (0 same, about 1 unrelated); so much agreement by "
        f"chance: {chance(result['log10_p_value'])}; residual streams aligned by: "
        f"{result['alignment']['residual']}"
    )


def sentences(result: Mapping[str, Any]) -> list[str]:
    """The lines for the terminal."""
    lines = [f"{result['verdict']}: {verdict_words(result)}", numbers(result)]
    count = sum(each["role"] == several.REFERENCE for each in result.get("references", ()))
    if count > 1:
        lines.insert(0, f"Of {count} references, on {result['reference']}:")
    more = (training_words(result), nearest_words(result), ancestor_words(result))
    return [*lines, *(text for text in more if text)]
