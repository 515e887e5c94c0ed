"""Matrices with known factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

SHAPES = ((24, 24), (40, 16), (16, 40))
IN_FLOAT32 = ((24, 24), (16, 40))
"""Those for the route in float32: as in float64, a wide matrix is factorised as a tall one."""


def orthonormal(rng, rows, columns):
    """Haar-random orthonormal columns [rows, columns]."""
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


def assemble(u, s, v, dtype: DTypeLike = np.float64):
    """U diag(s) V^T, rounded to a storage dtype."""
    return ((u * s) @ v.T).astype(dtype)


def pair(rng, shape, kappa, *, turn=0.05, scale=0.9, dtype: DTypeLike = np.float64):
    """Base with singular values from 3 to 3 / kappa, and a post that is turned and scaled a little.

    Turning by factors, not by adding noise, keeps post's conditioning near that of base.
    """
    r = min(shape)
    u, v = orthonormal(rng, shape[0], r), orthonormal(rng, shape[1], r)
    s = 3 * np.geomspace(1, 1 / kappa, r) * np.linspace(1, 0.99, r)
    up = np.linalg.qr(u + turn * rng.standard_normal(u.shape) / np.sqrt(r))[0]
    vp = np.linalg.qr(v + turn * rng.standard_normal(v.shape) / np.sqrt(r))[0]
    up, vp = up * np.sign(np.sum(up * u, 0)), vp * np.sign(np.sum(vp * v, 0))
    s_post = scale * s * (1 + 0.01 * np.sin(np.arange(r)))
    return assemble(u, s, v, dtype), assemble(up, s_post, vp, dtype)


def stack(rng, shape, kappas, dtype: DTypeLike = np.float64, **how):
    """One pair per conditioning, stacked [L, in, out]."""
    pairs = [pair(rng, shape, kappa, dtype=dtype, **how) for kappa in kappas]
    return np.stack([b for b, _ in pairs]), np.stack([p for _, p in pairs])
