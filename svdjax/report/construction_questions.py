"""Two questions that the paper leaves open, answered from the numbers of the constructed models.

Is restoration more than a small change of the weights? And does ablation still destroy a model
when it does not depend on the arbitrary signs of singular vectors?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from svdjax.report.construction_groups import GROUPS, fate, fates, partners, short
from svdjax.report.construction_tables import cost
from svdjax.report.numbers import ends, listed, percent, significant

if TYPE_CHECKING:
    from svdjax.engine.editing.results import VariantResult

CHEAPER = 0.5  # share of ablation's KL per squared change up to which it is not size alone
_LOSE = "lose or leave without finite outputs"
Groups = Mapping[str, Sequence["VariantResult"]]


def size_line(groups: Groups) -> list[str]:
    """Whether restoration costs less than ablation even for its size."""
    restored = groups.get("restoration", ())
    rivals: dict[str, list[VariantResult]] = {}
    for key in ("raw", "aligned"):
        for one, other in partners(restored, groups.get(key, ())):
            if math.isfinite(cost(one)) and math.isfinite(cost(other)):
                rivals.setdefault(one.name, []).append(other)
    models = [one for one in restored if one.name in rivals]
    if not models:
        return []
    least = {one.name: min(cost(other) for other in rivals[one.name]) for one in models}
    better = [short(one) for one in models if cost(one) <= CHEAPER * least[one.name]]
    worse = [short(one) for one in models if cost(one) > CHEAPER * least[one.name]]
    costs = [f"{ends([cost(one) for one in models], significant)} for restoration"]
    for key in ("raw", "aligned", "replaced"):
        values = [cost(one) for one in groups.get(key, ())]
        if any(map(math.isfinite, values)):
            label = GROUPS[key].label
            costs.append(f"{ends(values, significant)} for {label[0].lower()}{label[1:]}")
    times = [other.change / one.change for one in models for other in rivals[one.name]]
    text = (
        "Is restoration more than a small change? Ablation of the same factor in the same modules "
        f"changes the weights {ends(times, significant)} times as much, and the KL of a small "
        "change grows with its square (that of a large one need not). KL per squared relative "
        f"change is {listed(costs)}"
    )
    text += f". The line is drawn at {percent(CHEAPER)} of what ablation of the same costs: "
    if not worse:
        return [text + "every restoration is below it, which its size alone does not explain."]
    if not better:
        return [text + "no restoration is below it, and its size may be all there is to it."]
    return [
        f"{text}restoration of {listed(better)} is below it, which its size alone does not "
        f"explain; that of {listed(worse)} is not, and its size may be all there is to it."
    ]


def signs_line(groups: Groups, original: float) -> list[str]:
    """Whether ablation still destroys with aligned signs; `original` is NaN without losses."""
    both = list(partners(groups.get("raw", ()), groups.get("aligned", ())))
    if not both:
        return []
    raw, aligned = [one for one, _ in both], [one for _, one in both]
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
