"""Sentences of a comparison, for the terminal and the page; each follows from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from svdjax.fingerprint import lineage, shared_training
from svdjax.fingerprint.verdict import PARTLY, RELATED, UNDECIDED, UNRELATED
from svdjax.report.numbers import listed

_MODULES = {"self_attn": "attention", "mlp": "feed-forward part"}
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
    """The verdict as a sentence, without numbers."""
    verdict, parts = result["verdict"], result["parts"]
    if verdict == RELATED:
        others = named([part for part in parts if part["verdict"] == UNRELATED])
        return (
            "The two share an origin: one comes from the other, or both from a third; two "
            "checkpoints do not tell which." + (f" Not related: {others}." if others else "")
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
    thresholds = result["thresholds"]
    if verdict == UNDECIDED:
        return "The evidence does not allow a verdict: they " + (
            "agree as related models do, but so few and small matrices might by chance."
            if result["distance"] <= thresholds["derived"]
            else "have less in common than the related models that the thresholds were set on, and "
            "more than models that were trained apart."
        )
    text = "No more in common was found than models that were trained apart have."
    if result["log10_p_value"] > math.log10(thresholds["p_value"]):
        return text
    return (
        f"{text} What little they agree is more than chance, as it is where models of alike data "
        "are laid over each other."
    )


def named(parts: Sequence[Mapping[str, Any]]) -> str:
    """Parts in words, as short as they can be said: "layers 0–2, attention of layer 4 and head".

    A layer is named as such where all of its modules that the file knows of are among the parts.
    Numbers are the suspect's; the reference's stand in brackets where they differ.

    Args:
        parts: Entries of "parts" of the file.
    """
    modules: dict[tuple[int, int], set[str]] = {}
    rows = []
    for part in parts:
        if part["suspect"] is None:
            rows.append(f"the {part['module']}")
        else:
            modules.setdefault((part["suspect"], part["reference"]), set()).add(part["module"])
    every = set().union(*modules.values()) if modules else set()
    texts = []
    for group in (every, *({module} for module in _MODULES if len(every) > 1)):
        layers = sorted(layer for layer, names in modules.items() if names == group)
        if layers:
            prefix = f"{_MODULES[min(group)]} of " if len(group) == 1 else ""
            texts.append(f"{prefix}{_layers(layers)}")
    words = [*texts, *rows]
    return listed(words, len(words))


def _layers(layers: Sequence[tuple[int, int]]) -> str:
    word = "layer" if len(layers) == 1 else "layers"
    text = f"{word} {_numbers([suspect for suspect, _ in layers])}"
    if any(suspect != reference for suspect, reference in layers):
        text += f" (the reference's {_numbers([reference for _, reference in layers])})"
    return text


def _numbers(numbers: Sequence[int]) -> str:
    """Numbers in a list, runs of three and more as "0–4"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def training_words(result: Mapping[str, Any]) -> str:
    """Whether related layers share training; empty where none are related."""
    shared = result["shared_training"]
    agree = f"the leading singular directions agree by {shared['leading'] or 0:.2f} (1 the same)"
    if shared["kind"] == shared_training.TRAINING:
        return f"They share training, not only initial weights: {agree}."
    if shared["kind"] == shared_training.INITIALISATION:
        return (
            "They share initial weights, or a checkpoint from early in training, and were trained "
            f"apart: {agree}, the others by more."
        )
    if shared["kind"] == shared_training.OPEN:
        return "Whether they share training or only initial weights is not decided."
    return ""


def nearest_words(result: Mapping[str, Any]) -> str:
    """The nearest reference, or why none is named; empty where there was one."""
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
    """The checkpoint of three that lies between the others; empty without an ancestor."""
    if "ancestor" not in result:
        return ""
    ancestor = result["ancestor"]
    if ancestor["between"] is not None:
        return {
            lineage.ANCESTOR: (
                "The ancestor lies between reference and suspect: both come from it or from near "
                "it, neither from the other."
            ),
            lineage.REFERENCE: (
                "The reference lies between ancestor and suspect: if the ancestor is the oldest, "
                "the suspect comes from the reference or from near it."
            ),
            lineage.SUSPECT: (
                "The suspect lies between ancestor and reference: if the ancestor is the oldest, "
                "the reference comes from the suspect or from near it."
            ),
        }[ancestor["between"]]
    why = {
        "not all related": "they are not all related",
        "same weights": "two of them have the same weights",
        "no clear order": "none of the detours is clearly the smallest",
    }
    return f"Which of the three lies between the others is not decided: {why[ancestor['why']]}."


def numbers(result: Mapping[str, Any]) -> str:
    """Distance, p-value as a bound in words, and alignment."""
    return (
        f"distance {result['distance']:z.4f} (0 same, about 1 unrelated); so much agreement by "
        f"chance: {chance(result['log10_p_value'])}; residual streams aligned by: "
        f"{result['alignment']['residual']}"
    )


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    lines = [f"{result['verdict']}: {verdict_words(result)}", numbers(result)]
    count = sum(each["role"] == lineage.REFERENCE for each in result.get("references", ()))
    if count > 1:
        lines.insert(0, f"Of {count} references, on {result['reference']}:")
    return lines + further_words(result)


def further_words(result: Mapping[str, Any]) -> list[str]:
    """Sentences on training, the nearest reference and the ancestor, where there is any to say."""
    words = (training_words(result), nearest_words(result), ancestor_words(result))
    return [text for text in words if text]
