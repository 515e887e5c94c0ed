"""Paths that are no training, of the same sizes as one: what they show, training need not explain.

Axis legend: `T` kept steps, `L` matrices of one shape, `I` in, `O` out.
"""

from __future__ import annotations

import numpy as np

KINDS = ("training", "line", "noise", "walk")
"""The course itself, and its controls.

``line``: straight from the first matrix to the last, at every step as far from the last as the
course is. Everything comes in the same proportion, so what it shows of an order is due to the
spectra alone: leading components stand out of the start first, and have wider gaps.

``noise``: the last matrix and, added to it, a random one as large as what the course still lacks.

``walk``: from the first matrix by random steps, each as large as the course's, to an end of its
own.
"""


def path_of(kind: str, course: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The path [T, L, I, O] of one of `KINDS` for a course of that shape."""
    if kind == "training":
        return course
    first, last = course[:1], course[-1:]
    left = _norm(course - last)
    if kind == "line":
        return last + (left / left[:1]) * (first - last)
    if kind == "noise":
        return last + left * _unit(rng.standard_normal(last.shape))
    if kind == "walk":
        steps = np.diff(course, axis=0)
        noise = _norm(steps) * _unit(rng.standard_normal(steps.shape))
        return np.concatenate([first, first + np.cumsum(noise, 0)])
    raise ValueError(f"no null of this kind: {kind}")


def _norm(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=(-2, -1), keepdims=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / _norm(x)
