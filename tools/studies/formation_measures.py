"""How far each band of singular components has come at each kept step, and when it settles.

Axis legend: `T` kept steps, `L` matrices of one shape, `I` in, `O` out, `R` = min(I, O), `B` bands.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from svdjax.spectral import factor_stack, working_precision
from svdjax.spectral.factors import Factors

BANDS: Mapping[str, tuple[float, float]] = {
    "first": (0, 1),
    "2 to 4": (1, 4),
    "5 to 10 %": (4, 0.1),
    "10 to 25 %": (0.1, 0.25),
    "25 to 50 %": (0.25, 0.5),
    "50 to 90 %": (0.5, 0.9),
    "last 10 %": (0.9, 1.0),
    "top tenth": (0, 0.1),
    "lower half": (0.5, 1.0),
}
"""Bands of components by rank: counts of components, or shares of R where they have a fraction.
The last two repeat others, for the comparison of two large groups."""


def bands(r: int) -> list[slice]:
    """The components of each of `BANDS` among R of them.

    Raises:
        ValueError: R is so small that one of them is empty.
    """

    def edge(at: float) -> int:
        return int(at * r) if isinstance(at, float) else at

    parts = [slice(edge(low), edge(high)) for low, high in BANDS.values()]
    if any(part.stop <= part.start for part in parts):
        raise ValueError(f"{r} components are too few for the bands")
    return parts


def factors_of(w: np.ndarray) -> Factors:
    """Factors of matrices [..., I, O] by svdjax in float64, as numpy arrays."""
    flat = w.reshape(-1, *w.shape[-2:])
    # Stacks of one size: one program for every point of every course.
    size = w.shape[-3] if w.ndim > 2 else 1
    with working_precision("svd_f64"):
        parts = [factor_stack(flat[i : i + size]) for i in range(0, len(flat), size)]
        u, s, v = (np.concatenate([np.asarray(part[k]) for part in parts]) for k in range(3))
    lead = w.shape[:-2]
    return Factors(*(x.reshape(*lead, *x.shape[1:]) for x in (u, s, v)))  # pyright: ignore


def against(target: Factors, path: Factors) -> dict[str, np.ndarray]:
    """How the components at every step lie to those of a target.

    Args:
        target: Factors [L, ...] of the matrices that are compared with.
        path: Factors [T, L, ...] at the steps.

    Returns:
        [T, L, B] each. ``vector``: mean of |u_j . u_j'| and |v_j . v_j'| over the band;
        ``subspace``: the part of the target's band that the band of the same ranks holds,
        ``||U_b^T U_b'||_F^2 / b`` in the mean of both sides, scaled to 0 for unrelated subspaces
        and 1 for equal ones; ``log_ratio``: mean of ln(s_j / s_j'), and ``log_apart`` that of its
        absolute value; ``rotation``: root mean square of the sine of the angles.
    """
    sides = [(target.u, path.u), (target.v, path.v)]
    overlaps = [(np.swapaxes(a, -1, -2) @ b, a.shape[-2]) for a, b in sides]
    parts = bands(target.s.shape[-1])
    cosines = [np.abs(np.einsum("tlrr->tlr", q)) for q, _ in overlaps]
    log_ratio = np.log(path.s / target.s)

    def subspace(part: slice) -> np.ndarray:
        size = part.stop - part.start
        held = [
            (np.sum(q[..., part, part] ** 2, (-2, -1)) / size - size / n) / (1 - size / n)
            for q, n in overlaps
        ]
        return np.mean(held, axis=0)

    sine2 = np.mean([1 - np.minimum(c, 1) ** 2 for c in cosines], axis=0)
    return {
        "vector": _by_band(np.mean(cosines, axis=0), parts),
        "subspace": np.stack([subspace(part) for part in parts], -1),
        "log_ratio": _by_band(log_ratio, parts),
        "log_apart": _by_band(np.abs(log_ratio), parts),
        "rotation": np.sqrt(_by_band(sine2, parts)),
    }


def content(target: Factors, path: np.ndarray) -> np.ndarray:
    """How much of each band of a target matrix is there at every step, [T, L, B].

    ``<W_t, X_b> / ||X_b||_F^2`` with X_b the target's components of the band: 1 at the target. It
    is linear in W_t, so it knows no gaps between singular values.

    Args:
        target: Factors [L, ...].
        path: Matrices [T, L, I, O].
    """
    held = np.sum((np.swapaxes(target.u, -1, -2) @ path) * np.swapaxes(target.v, -1, -2), -1)
    weight, square = held * target.s, target.s**2
    parts = bands(target.s.shape[-1])
    return np.stack([weight[..., p].sum(-1) / square[..., p].sum(-1) for p in parts], -1)


def progress(base: Factors, change: np.ndarray) -> np.ndarray:
    """How much of the final change of each band of base's components is there, [T, L, B].

    ``<P_b D_t, P_b D_T> / ||P_b D_T||^2``, P_b the rows of U_b^T D and the columns of D V_b; linear
    in the change D, as `content` is.

    Args:
        base: Factors [L, ...] of where the course begins.
        change: W_t - W_0, [T, L, I, O].
    """
    left = np.swapaxes(base.u, -1, -2) @ change
    right = np.swapaxes(change @ base.v, -1, -2)
    along = np.sum(left * left[-1], -1) + np.sum(right * right[-1], -1)
    parts = bands(base.s.shape[-1])
    sums = np.stack([along[..., p].sum(-1) for p in parts], -1)
    return sums / sums[-1]


def shape_of(s: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of spectra [..., R], [...] each.

    Returns:
        ``effective_rank``: exp of the entropy of s / sum s; ``participation``: participation ratio,
        (sum s^2)^2 / sum s^4; ``top``: largest value; ``norm``: root of the sum of squares.
    """
    share = s / s.sum(-1, keepdims=True)
    entropy = -np.sum(np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0), -1)
    return {
        "effective_rank": np.exp(entropy),
        "participation": np.sum(s**2, -1) ** 2 / np.sum(s**4, -1),
        "top": s[..., 0],
        "norm": np.sqrt(np.sum(s**2, -1)),
    }


def settled(steps: np.ndarray, values: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """The step from which on values [T, ...] stay at or above a level, [...].

    Linear between kept steps; the first step where no value is below, NaN where the last one is.
    """
    low = values < level
    after = np.where(low.any(0), len(values) - np.argmax(low[::-1], axis=0), 0)
    last = np.clip(after, 1, len(values) - 1)
    index = last[None]
    below, above = (np.take_along_axis(values, index - k, 0)[0] for k in (1, 0))
    share = (level - below) / np.where(above == below, 1, above - below)
    found = steps[last - 1] + share * (steps[last] - steps[last - 1])
    return np.where(after == 0, steps[0], np.where(after == len(values), np.nan, found))


def _by_band(values: np.ndarray, parts: list[slice]) -> np.ndarray:
    return np.stack([values[..., part].mean(-1) for part in parts], -1)
