"""Choice of the experts that are analysed, where not all are."""

from __future__ import annotations

import dataclasses

import numpy as np

from svdjax.checkpoint.matching import ranges
from svdjax.checkpoint.plan import PairPlan, Projection

SEED = 0


def choose_experts(total: int, count: int) -> tuple[int, ...]:
    """Places of `count` of `total` experts, ascending: the first of a seeded permutation.

    They depend on the two numbers alone, and fewer are among more.
    """
    return tuple(sorted(np.random.default_rng(SEED).permutation(total)[:count].tolist()))


def with_experts(plan: PairPlan, count: int) -> PairPlan:
    """A plan with at most `count` experts of each layer, 0 for all.

    They are the same in every layer, projection and side; coverage names the others with the
    reason, and a note says which ones were chosen.
    """
    projections, notes = [], []
    for each in plan.projections:
        total = len(each.experts)
        if not count or total <= count:
            projections.append(each)
            continue
        places = choose_experts(total, count)
        projections.append(_of_experts(each, places))
        notes.append(
            f"{count} of {total} experts of each layer are analysed (config.experts={count}), the "
            "same in every layer and on both sides: "
            f"{ranges(each.experts[place] for place in places)}, the first of "
            f"numpy.random.default_rng({SEED}).permutation({total})"
        )
    if not notes:
        return plan
    coverage = dict(plan.coverage)
    kept = {name for each in projections for name in each.tensors}
    dropped = {name for each in plan.projections for name in each.tensors} - kept
    reason = f"expert not among the {count} of each layer that are analysed (config.experts)"
    coverage["analysed"] = [name for name in coverage["analysed"] if name not in dropped]
    left_out = dict(coverage["left_out"]) | dict.fromkeys(dropped, reason)
    coverage["left_out"] = {name: left_out[name] for name in sorted(left_out)}
    coverage["notes"] = [*coverage["notes"], *dict.fromkeys(notes)]
    return dataclasses.replace(
        plan,
        projections=tuple(projections),
        coverage=coverage,
        notes=(*plan.notes, *dict.fromkeys(notes)),
    )


def _of_experts(projection: Projection, places: tuple[int, ...]) -> Projection:
    """The projection with some of its experts."""
    total = len(projection.experts)
    return dataclasses.replace(
        projection,
        experts=tuple(projection.experts[place] for place in places),
        tensors=tuple(
            projection.tensors[layer * total + place]
            for layer in range(len(projection.layers))
            for place in places
        ),
    )
