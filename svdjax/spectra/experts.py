"""Experts of a comparison: their choice is the plan's, how much each changed is said here.

Axis legend: `L` layers, `E` experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svdjax.report.numbers import percent
from svdjax.report.table import Table
from svdjax.spectra.axes import Place

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

MOST_NAMED = 3
_COLUMNS = (
    *("rank", "layer", "expert", "change", "change_of", "alpha_ls", "nf_over_unrelated"),
    *("corotation", "norm_delta", "norm_post", "projections"),
)


class ExpertChange(NamedTuple):
    """How much an expert changed, all its matrices together.

    Attributes:
        place: Layer and expert.
        change: sqrt(sum ||post - alpha base||^2 / sum ||post||^2) over its matrices.
        name: Projection that changed most.
        alpha_ls: Mean alpha by least squares of its matrices.
        nf_over_unrelated: Mean NF of its matrices over the level of unrelated ones.
        corotation: Mean co-rotation share of its matrices, weighted by their squared change.
        norm_delta: Square root of the sum of ||post - alpha base||^2.
        norm_post: Square root of the sum of ||post||^2.
        projections: Names of its matrices' projections.
    """

    place: Place
    change: float
    name: str
    alpha_ls: float
    nf_over_unrelated: float
    corotation: float
    norm_delta: float
    norm_post: float
    projections: tuple[str, ...]


def expert_changes(comparison: Comparison) -> list[ExpertChange]:
    """Experts of a comparison by how much they changed, most first; NaN last, empty without."""
    sets: dict[tuple[tuple[int, ...], tuple[int, ...]], list[ProjectionResult]] = {}
    for one in comparison.projections.values():
        if one.expert_numbers:
            sets.setdefault((one.layer_numbers, one.expert_numbers), []).append(one.flat)
    changes = [change for members in sets.values() for change in _changes(members)]
    return sorted(changes, key=lambda one: (np.isnan(one.change), -one.change, one.place))


def experts_table(comparison: Comparison) -> Table | None:
    """Table of all experts, those that changed most first; None where there are none."""
    changes = expert_changes(comparison)
    if not changes:
        return None
    rows = [
        {
            "rank": rank,
            **one._asdict(),
            "layer": one.place.layer,
            "expert": one.place.expert,
            "change_of": one.name,
            "projections": " ".join(one.projections),
        }
        for rank, one in enumerate(changes, 1)
    ]
    return Table("experts", _COLUMNS, tuple({key: row[key] for key in _COLUMNS} for row in rows))


def experts_finding(comparison: Comparison) -> str:
    """Sentence on the experts that changed most; empty where there are none."""
    changes = [one for one in expert_changes(comparison) if np.isfinite(one.change)]
    if not changes:
        return ""
    sizes = np.array([one.change for one in changes])
    first = [f"{one.place.words} ({percent(one.change)})" for one in changes[:MOST_NAMED]]
    return (
        f"Experts: of {len(changes)} what changed most beside the scaling is {'; '.join(first)}; "
        f"the median is {percent(float(np.median(sizes)))}, the least "
        f"{percent(float(sizes.min()))} (all matrices of an expert together; tables/experts.csv "
        "has all)."
    )


def _changes(members: Sequence[ProjectionResult]) -> list[ExpertChange]:
    def stack(field: str) -> np.ndarray:
        return np.array([np.asarray(getattr(m.metrics, field), np.float64) for m in members])

    def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        weights = np.where(np.isfinite(values), weights, 0)
        total = weights.sum(axis=0)
        summed = (np.where(weights > 0, values, 0) * weights).sum(axis=0)
        return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)

    delta, post = stack("norm_delta"), stack("norm_post")
    whole_delta, whole_post = (np.sqrt((each**2).sum(axis=0)) for each in (delta, post))
    change = np.divide(
        whole_delta, whole_post, out=np.full(whole_post.shape, np.nan), where=whole_post > 0
    )
    each = np.divide(delta, post, out=np.zeros(post.shape), where=post > 0)
    level = np.array([m.nf_unrelated for m in members])[:, None]
    ones = np.ones(delta.shape)
    columns = (
        mean(stack("alpha_ls"), ones),
        mean(stack("nf") / level, ones),
        mean(stack("corotation"), delta**2),
        whole_delta,
        whole_post,
    )
    names = tuple(m.name for m in members)
    return [
        ExpertChange(place, float(change[i]), names[most], a, nf, c, size, norm, names)
        for i, (place, most, (a, nf, c, size, norm)) in enumerate(
            zip(members[0].places, each.argmax(axis=0), np.array(columns).T.tolist())
        )
    ]
