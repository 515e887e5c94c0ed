"""What a change of weights looks like: size, place in base's spectrum, sparsity, scaling, rotation.

Axes: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

import svdjax

Matrices = Mapping[str, np.ndarray]
Frame = tuple[np.ndarray, np.ndarray]
THIRDS = ("top", "middle", "bottom")
LARGEST = 0.01


def rounded(weights: Matrices) -> dict[str, np.ndarray]:
    """Weights as bfloat16 stores them, in float32."""
    stored = {name: stack.astype(ml_dtypes.bfloat16) for name, stack in weights.items()}
    return {name: stack.astype(np.float32) for name, stack in stored.items()}


def delta(start: Matrices, end: Matrices) -> dict[str, np.ndarray]:
    """The change of every matrix, float64."""
    return {name: end[name].astype(np.float64) - start[name] for name in start}


def norms(stack: np.ndarray) -> np.ndarray:
    """Frobenius norm of every matrix of a stack, [L]."""
    return np.linalg.norm(stack, axis=(1, 2))


def resized(change: Matrices, model: Matrices) -> dict[str, np.ndarray]:
    """A change made matrix by matrix as large as another: ``s Δ``."""
    return {
        name: stack * (norms(model[name]) / norms(stack))[:, None, None]
        for name, stack in change.items()
    }


def noise(model: Matrices, seed: int) -> dict[str, np.ndarray]:
    """Normal numbers, matrix by matrix as large as a change."""
    rng = np.random.default_rng(seed)
    return resized({name: rng.normal(size=stack.shape) for name, stack in model.items()}, model)


def added(start: Matrices, change: Matrices) -> dict[str, np.ndarray]:
    """Start plus a change, float32."""
    return {name: (start[name] + change[name]).astype(np.float32) for name in start}


def total_norm(change: Matrices) -> float:
    """Frobenius norm of all matrices together."""
    return float(np.sqrt(sum(np.sum(norms(stack) ** 2) for stack in change.values())))


def cosine(one: Matrices, other: Matrices) -> float:
    """Cosine of two changes, all their matrices as one vector."""
    product = sum(float(np.vdot(one[name], other[name])) for name in one)
    squares = [
        sum(float(np.vdot(stack, stack)) for stack in each.values()) for each in (one, other)
    ]
    return product / float(np.sqrt(squares[0] * squares[1]))


def frames(base: Matrices) -> dict[str, list[Frame]]:
    """The singular vectors of every matrix."""
    return {name: [_frame(matrix) for matrix in stack] for name, stack in base.items()}


def _frame(matrix: np.ndarray) -> Frame:
    u, _, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return u, vt


def third_shares(frame: Frame, change: np.ndarray) -> np.ndarray:
    """Energy of a change in thirds of base's singular directions, over what noise has there.

    ``||U_tᵀ Δ||² / ||Δ||²`` by ``|t| / I``, and the same of the right side, their mean: 1 where
    the change has no preference. Directions are those of the thin SVD, R of them.

    Args:
        frame: U [I, R] and Vᵀ [R, O] of base.
        change: [I, O].

    Returns:
        [3], of the largest singular values first.
    """
    u, vt = frame
    energy = np.sum(change**2)
    sides = []
    for projected, size in ((u.T @ change, len(u)), (vt @ change.T, vt.shape[1])):
        parts = np.array_split(np.sum(projected**2, axis=1) / energy, len(THIRDS))
        sides.append([part.sum() / (len(part) / size) for part in parts])
    return np.mean(sides, axis=0)


def largest_share(change: np.ndarray, share: float = LARGEST) -> float:
    """Share of a change's energy in its largest entries (8.5 % in the largest 1 % of noise)."""
    squares = np.square(change).ravel()
    number = max(1, round(share * squares.size))
    return float(np.partition(squares, -number)[-number:].sum() / squares.sum())


def stable_rank(change: np.ndarray) -> float:
    """``||Δ||_F² / ||Δ||₂²``: 1 for one direction, larger the more there are."""
    short = change if change.shape[0] <= change.shape[1] else change.T
    squares = np.linalg.eigvalsh(short @ short.T)
    return float(np.sum(squares) / squares[-1])


def unchanged_share(start: Matrices, end: Matrices) -> float:
    """Share of the weights that are the same in bfloat16."""
    one, other = rounded(start), rounded(end)
    same = sum(int(np.sum(one[name] == other[name])) for name in one)
    return same / sum(stack.size for stack in one.values())


def describe(base: Mapping[str, list[Frame]], start: Matrices, end: Matrices) -> dict[str, float]:
    """A change from `start` to `end` in numbers: means over all matrices, each counted alike.

    The place is that in the spectrum of base, whose `frames` are given; scaling and co-rotation are
    what `svdjax.compare_params` says of the two.
    """
    change = delta(start, end)
    pairs = [each for name in base for each in zip(base[name], change[name], strict=True)]
    size = [norms(change[name]) / norms(start[name]) for name in start]
    thirds = np.mean([third_shares(frame, d) for frame, d in pairs], axis=0)
    return {
        "size": float(np.mean(np.concatenate(size))),
        **{third: float(share) for third, share in zip(THIRDS, thirds, strict=True)},
        "largest": float(np.mean([largest_share(d) for _, d in pairs])),
        "stable_rank": float(np.mean([stable_rank(d) for _, d in pairs])),
        "unchanged": unchanged_share(start, end),
        **_compared(start, end),
    }


def _compared(start: Matrices, end: Matrices) -> dict[str, float]:
    """Means over the projections of what svdjax says of the pair."""
    comparison: Any = svdjax.compare_params(dict(start), dict(end), measure="vectors")
    projections = list(comparison.projections.values())
    results = {
        "corotation": [np.nanmean(each.corotation) for each in projections],
        "alpha": [each.statistics.alpha_mean for each in projections],
        "alpha_ls": [np.mean(each.alpha_ls) for each in projections],
        "spread": [np.mean(each.statistics.layer_std) for each in projections],
        "nf": [each.nf_mean for each in projections],
    }
    return {name: float(np.mean(values)) for name, values in results.items()}
