"""A question that the paper leaves open, answered from the numbers of the constructed models.

Does ablation still destroy a model when it does not depend on the arbitrary signs of singular
vectors?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from svdjax.construct.groups import fate, fates, partners
from svdjax.report.numbers import ends, percent, significant

if TYPE_CHECKING:
    from svdjax.construct.results import VariantResult

_LOSE = "lose or leave without finite outputs"
Groups = Mapping[str, Sequence["VariantResult"]]


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
