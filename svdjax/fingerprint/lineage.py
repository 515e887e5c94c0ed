"""Lineage of more than two checkpoints: the nearest reference, and which of three lies between.

``‖P_a − P_b‖² = 2 r (1 − effect)`` for polar factors P, so the distances of a fingerprint are
squared Euclidean distances up to a factor. Independent changes are nearly orthogonal, and squared
lengths of orthogonal steps add up: along a chain a → b → c, ``d(a, c) = d(a, b) + d(b, c)``, and
two models trained on from a third lie at the sum of their distances from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from svdjax.fingerprint.verdict import RELATED

REFERENCE, SUSPECT, ANCESTOR = "reference", "suspect", "ancestor"
NEARER_RATIO = 0.95
"""Largest ratio of the smallest distance to the next at which the nearest reference is named."""
NEARER_PARTS = 0.9
"""Smallest share of the suspect's parts in which the nearest reference must be the nearer one."""
BETWEEN_RATIO = 0.5
"""Largest ratio of the smallest detour to the next at which one lies between the others."""

# Distances of equal weights are rounding of float64, at most about 1e-9.
_SAME = 1e-8


def nearest(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reference that is nearest to a suspect, or why that is not decided.

    It is named where it is related as a whole, at most `NEARER_RATIO` times as far as the next, and
    nearer than the next in `NEARER_PARTS` of the suspect's parts that both were compared in.

    Args:
        results: A comparison for each reference, as the file has it.

    Returns:
        "reference" (None where not decided), "why" ("nearer", "none related", "other matrices",
        "equally near" or "parts disagree"), "next", "ratio" and "nearer_parts".
    """
    first, second = sorted(results, key=lambda result: result["distance"])[:2]
    ratio = first["distance"] / second["distance"] if second["distance"] > _SAME else 1.0
    share = _nearer_parts(first, second)
    if first["verdict"] != RELATED:
        why = "none related"
    elif first["projections"].keys() != second["projections"].keys():
        why = "other matrices"
    elif ratio > NEARER_RATIO:
        why = "equally near"
    elif share < NEARER_PARTS:
        why = "parts disagree"
    else:
        why = "nearer"
    return {
        "reference": first["reference"] if why == "nearer" else None,
        "why": why,
        "next": second["reference"],
        "ratio": ratio,
        "nearer_parts": share,
    }


def _nearer_parts(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Share of the parts of the suspect's layers in which the first is nearer than the second."""
    distances = [
        {part["part"]: part["distance"] for part in result["parts"] if part["suspect"] is not None}
        for result in (first, second)
    ]
    common = distances[0].keys() & distances[1].keys()
    return sum(distances[0][name] < distances[1][name] for name in common) / max(len(common), 1)


def between(
    reference_suspect: Mapping[str, Any],
    ancestor_suspect: Mapping[str, Any],
    ancestor_reference: Mapping[str, Any],
) -> dict[str, Any]:
    """The one of three related checkpoints that lies between the other two, or None.

    The detour over x between y and z, ``t_x = (d(x, y) + d(x, z) − d(y, z)) / 2``, is 0 where x
    lies on the way: an ancestor of one and a descendant of the other, or the origin of both.
    It is named where its detour is at most `BETWEEN_RATIO` times the next.

    Args:
        reference_suspect: The comparison of the two, as the file has it.
        ancestor_suspect: The comparison of ancestor and suspect.
        ancestor_reference: The comparison of ancestor and reference.

    Returns:
        "between" ("reference", "suspect", "ancestor" or None), "why" ("between", "not all related",
        "same weights" or "no clear order"), "distances" and "detours".
    """
    results = (reference_suspect, ancestor_suspect, ancestor_reference)
    rs, as_, ar = (float(result["distance"]) for result in results)
    detours = {
        REFERENCE: (rs + ar - as_) / 2,
        SUSPECT: (rs + as_ - ar) / 2,
        ANCESTOR: (as_ + ar - rs) / 2,
    }
    order = sorted(detours, key=lambda name: detours[name])
    if any(result["verdict"] != RELATED for result in results):
        why = "not all related"
    elif min(rs, as_, ar) <= _SAME:
        why = "same weights"
    elif max(detours[order[0]], 0.0) > BETWEEN_RATIO * detours[order[1]]:
        why = "no clear order"
    else:
        why = "between"
    return {
        "between": order[0] if why == "between" else None,
        "why": why,
        "distances": {
            "reference_suspect": rs,
            "ancestor_suspect": as_,
            "ancestor_reference": ar,
        },
        "detours": detours,
    }
