"""What the constructed models do, in sentences made from the numbers.

No sentence holds a result of its own; the thresholds behind its words are said in the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svdjax.construct.control_findings import control_lines, surviving_lines
from svdjax.construct.groups import (
    GROUPS,
    WORDS,
    equations,
    fate,
    fates,
    grouped,
    measured,
    partners,
)
from svdjax.construct.tables import arbitrary_share
from svdjax.report.numbers import ends, percent, significant
from svdjax.spectral.constructions import ARBITRARY

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult

_LOSE = "lose or leave without finite outputs"


def lead(results: ConstructionResults) -> str:
    """What was made, and what became of it, in a few sentences."""
    models = list(results.variants.values())
    if not models:
        return "No model was constructed; what was left out, and why, stands below."
    count = f"{_count(len(models), 'model was', 'models were')} constructed"
    if not results.text:
        return (
            f"{count}. No held-out text was given: only how far the weights moved is known, not "
            "what the models do."
        )
    if not measured(results):
        return (
            f"{count}, but on the held-out text the outputs of the original itself are not finite: "
            "only how far the weights moved is known."
        )
    groups = grouped(models)
    parts = [
        f"{GROUPS[key].label}: {fates(groups[key], results.original_loss, names=False)}."
        for key in ("replaced", "restoration", "raw", "aligned")
        if key in groups
    ]
    head = (
        f"{count} and judged on {_count(results.tokens, 'token', 'tokens')} of "
        f"{_count(results.texts, 'held-out text', 'held-out texts')}, where the original has a "
        f"loss of {significant(results.original_loss)} nats per token."
    )
    return " ".join([head, *parts])


def findings(results: ConstructionResults) -> list[str]:
    """The sentences at the top of the section, most important first."""
    groups, known = grouped(results.variants.values()), measured(results)
    lines = [WORDS] if known and groups else []
    for key, members in groups.items():
        which = equations(members)
        head = GROUPS[key].label + (f" ({which})" if which else "")
        parts = [fates(members, results.original_loss), *_behaviour(members)] if known else []
        parts.append(f"change of the weights {ends([one.change for one in members], percent)}")
        lines.append(f"{head}: {'; '.join(parts)}.")
    if known:
        lines += control_lines(results)
    lines += surviving_lines(results)
    lines += _signs(groups, results.original_loss if known else math.nan)
    return [*lines, *_arbitrary(groups.get("aligned", [])), *_deficient(results)]


def _behaviour(members: Sequence[VariantResult]) -> list[str]:
    """Ranges of what was measured, nothing where nothing is finite."""
    finite = [one for one in members if math.isfinite(one.loss) and math.isfinite(one.kl)]
    if not finite:
        return []
    return [
        f"loss {ends([one.loss for one in finite], significant)}, KL "
        f"{ends([one.kl for one in finite], significant)}, agreement "
        f"{ends([one.agreement / 100 for one in finite], percent)}"
    ]


def _signs(groups: Mapping[str, Sequence[VariantResult]], original: float) -> list[str]:
    """Whether ablation still destroys a model where it does not depend on arbitrary signs.

    A question that the paper leaves open; `original` is NaN without losses.
    """
    both = list(partners(groups.get("raw", ()), groups.get("aligned", ())))
    if not both:
        return []
    raw, aligned = zip(*both, strict=True)
    text = (
        "Does ablation destroy because of signs? A pair of singular vectors has an arbitrary "
        "common sign, on which raw ablation depends. With aligned signs the change "
        f"of the weights is {ends([one.change for one in aligned], percent)} instead of "
        f"{ends([one.change for one in raw], percent)}"
    )
    if not math.isfinite(original):
        return [f"{text}; what that does to the models is not known."]
    ratios = [one.kl / other.kl for one, other in both if other.kl > 0]
    if any(map(math.isfinite, ratios)):
        text += f", and KL with raw signs is {ends(ratios, significant)} times that with aligned"
    destroyed = [two for two in both if fate(two[0], original) in ("lost", "undefined")]
    if not destroyed:
        return [f"{text}. No model is lost with raw signs, so signs have nothing to explain."]
    after = [one for _, one in destroyed]
    kinds = {fate(one, original) for one in after}
    lose = "lose" if all(fate(one, original) == "lost" for one, _ in destroyed) else _LOSE
    which = f"Of {len(after)} that raw signs {lose}, with aligned signs {fates(after, original)}"
    if kinds == {"near"}:
        return [f"{text}. {which}: what loses them is the arbitrary choice of signs."]
    if kinds & {"near", "changed"}:
        return [f"{text}. {which}: the arbitrary choice of signs explains a part of it."]
    return [f"{text}. {which}: the arbitrary choice of signs alone does not explain it."]


def _arbitrary(aligned: Sequence[VariantResult]) -> list[str]:
    shares = [arbitrary_share(one) for one in aligned]
    if not np.isfinite(shares).any():
        return []
    most = [change.arbitrary for one in aligned for change in one.projections.values()]
    return [
        f"An aligned sign is itself arbitrary where |Q1[j,j] + Q2[j,j]| is below {ARBITRARY}: "
        f"{ends(shares, percent)} of the pairs of singular vectors of a model, at most "
        f"{percent(float(np.nanmax(most)))} in one projection."
    ]


def _deficient(results: ConstructionResults) -> list[str]:
    counts = [
        (sum(change.deficient for change in one.projections.values()), one)
        for one in results.variants.values()
    ]
    affected = [(count, one) for count, one in counts if count]
    if not affected:
        return []
    most = max(count for count, _ in affected)
    return [
        f"{len(affected)} of {len(counts)} models are made of numerically rank-deficient matrices "
        f"(up to {most} of them): null spaces are arbitrary, and so is what a rotation makes of "
        "them."
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
