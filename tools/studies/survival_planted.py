"""Changes whose truth is known, for `tools.studies.survival`, in numpy float64.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import numpy as np
import scipy.optimize


def gaussian(base: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """W_base + a matrix of independent normal numbers.

    Args:
        base: W_base [L, I, O].
        size: ||W_post - W_base||_F, [L].
        rng: Of the change.

    Returns:
        W_post [L, I, O] float32.
    """
    noise = rng.standard_normal(base.shape)
    noise *= (size / np.linalg.norm(noise, axis=(1, 2)))[:, None, None]
    return (base + noise).astype(np.float32)


def rotated(
    base: np.ndarray, size: np.ndarray, rng: np.random.Generator, *, sign: int = 1
) -> np.ndarray:
    """(U_base Q) Σ_base (V_base Q')ᵀ, Q a random rotation of the angle that gives the size.

    Args:
        base: W_base [L, I, O].
        size: ||W_post - W_base||_F, [L]; where no rotation moves so far it is the farthest.
        rng: Of the rotation.
        sign: 1 for Q' = Q, one rotation of both sides; -1 for Q' = Q⁻¹, opposite ones.

    Returns:
        W_post [L, I, O] float32.
    """
    return np.stack(
        [_rotated(w.astype(float), far, rng, sign) for w, far in zip(base, size)]
    ).astype(np.float32)


def _rotated(base: np.ndarray, size: float, rng: np.random.Generator, sign: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    skew = rng.standard_normal((len(s), len(s)))
    angles, vectors = np.linalg.eigh(1j * (skew - skew.T))  # exp(tA) = X exp(-i t angles) Xᴴ
    angles = angles / np.abs(angles).max()

    def turn(t: float) -> np.ndarray:
        return ((vectors * np.exp(-1j * t * angles)) @ vectors.conj().T).real

    def core(t: float) -> np.ndarray:
        return (turn(t) * s) @ turn(sign * t).T

    def moved(t: float) -> float:
        return float(np.linalg.norm(core(t) - np.diag(s)))

    if moved(most := np.pi / 2) <= size:
        return u @ core(most) @ vt
    t = scipy.optimize.brentq(lambda t: moved(t) - size, 0.0, most, xtol=1e-7)
    return u @ core(float(t)) @ vt  # type: ignore[arg-type]
