"""Surviving shares by projection and along sizes of Δ, for `tools.studies.survival`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from svdjax.construct.tree import chosen_paths, projection_of
from svdjax.spectral import predicted_surviving
from tools.studies.survival_edits import RESTORATIONS, Pair, Stacks, by_projection
from tools.studies.survival_law import change_of, first_order


def restored(pair: Pair) -> dict[str, Stacks]:
    """Both restorations of all matrices."""
    return {side: pair.construct(name, "all") for side, name in RESTORATIONS.items()}


def shares(sides: Mapping[str, Stacks]) -> dict[str, dict[str, float]]:
    """Surviving shares of both restorations by projection, mean of the layers."""
    return {side: by_projection(edit.share) for side, edit in sides.items()}


def law(pair: Pair) -> dict[str, dict[str, float]]:
    """What first order predicts of them."""
    paths = chosen_paths(pair.post, "all")
    return {
        side: {
            projection_of(each): predicted_surviving(name, pair.stacks(each)[0].shape[1:])
            for each in paths
        }
        for side, name in RESTORATIONS.items()
    }


def first_orders(pair: Pair) -> dict[str, dict[str, float]]:
    """First order of the change as it is, by projection: means of the layers."""
    told: dict[str, dict[str, float]] = {}
    for leaf in chosen_paths(pair.post, "all"):
        values = first_order(*pair.stacks(leaf))
        variance = values.pop("rotation_std") ** 2
        for name, each in values.items():
            told.setdefault(name, {})[projection_of(leaf)] = float(each.mean())
        std = float(np.sqrt(variance.sum()) / len(variance))
        told.setdefault("rotation_std", {})[projection_of(leaf)] = std
    return told


def ladder(
    pair: Pair, sizes: Sequence[float], rng: Callable[[str], np.random.Generator]
) -> dict[str, Any]:
    """Shares of changes from tiny to as large as the base: Gaussian ones, and scaled trained ones.

    Args:
        pair: The base, and the direction of the trained change.
        sizes: Of Δ, relative to W_base.
        rng: Generator of a leaf's Gaussian change.

    Returns:
        By kind of change, a list along the ladder: shares of both sides by projection.
    """
    starts, directions = {}, {}
    for leaf in chosen_paths(pair.post, "all"):
        start, end = pair.stacks(leaf)
        starts[leaf] = start
        directions[leaf] = {
            "trained": change_of(start, end),
            "gaussian": rng(leaf).standard_normal(start.shape),
        }
    return {
        kind: [_scaled(starts, {p: d[kind] for p, d in directions.items()}, size) for size in sizes]
        for kind in ("gaussian", "trained")
    }


def _scaled(
    starts: Mapping[str, np.ndarray], directions: Mapping[str, np.ndarray], size: float
) -> dict[str, dict[str, float]]:
    """Shares where each matrix has changed by `size` of its own norm."""
    new = {}
    for leaf, start in starts.items():
        direction = directions[leaf]
        far = size * np.linalg.norm(start.astype(float), axis=(1, 2))
        scale = (far / np.linalg.norm(direction, axis=(1, 2)))[:, None, None]
        new[leaf] = (start + scale * direction).astype(np.float32)
    base, post = (unflatten_dict(each, sep="/") for each in (starts, new))
    return shares(restored(Pair(base, post, 0)))
