"""First order of what restorations leave of a change, for `tools.studies.survival`, in numpy.

docs/mathematics.md, 5: with K the change in base's singular frame, ``D_ij = (σ_j K_ij + σ_i K_ji) /
(σ_i + σ_j)`` is left of it by eq. 11, the same with σ_i and σ_j exchanged by eq. 16, and of what
lies outside the frame all where the complete side is changed, else nothing. The shares of both add
up to ``1 + Σ K_ij K_ji / ||Δ||²``: on its diagonal singular values that have changed, off it what
both sides turned alike.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import numpy as np


def change_of(base: np.ndarray, post: np.ndarray) -> np.ndarray:
    """Δ = W_post - α W_base, α of each matrix by least squares, [L, I, O] float64."""
    return post.astype(float) - scale_of(base, post)[:, None, None] * base.astype(float)


def scale_of(base: np.ndarray, post: np.ndarray) -> np.ndarray:
    """α of each matrix by least squares, [L]."""
    base, post = base.astype(float), post.astype(float)
    return np.sum(post * base, axis=(1, 2)) / np.sum(base * base, axis=(1, 2))


def first_order(base: np.ndarray, post: np.ndarray) -> dict[str, np.ndarray]:
    """What first order says of a pair of stacks [L, I, O], each [L].

    Returns:
        ``V``, ``U``: shares of Δ that eqs. 11 and 16 leave. ``diagonal``: Σ K_ii² / ||Δ||².
        ``rotation``: Σ K_ij K_ji / ||Δ||² off the diagonal, 1 for a common rotation of both sides
        and -1 for opposite ones. ``rotation_std``: its standard deviation if signs are random.
    """
    rows = [
        _first_order(alpha * w.astype(float), delta)
        for alpha, w, delta in zip(scale_of(base, post), base, change_of(base, post))
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _first_order(base: np.ndarray, delta: np.ndarray) -> dict[str, float]:
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    k = u.T @ delta @ vt.T
    whole = float(np.sum(delta * delta))
    outside = whole - float(np.sum(k * k))
    both = np.add.outer(s, s)
    left = (s[None, :] * k + s[:, None] * k.T) / both
    products = k * k.T / whole
    off = products - np.diag(np.diag(products))
    tall, wide = base.shape[0] > base.shape[1], base.shape[0] < base.shape[1]
    # ⟨D, K⟩ of the two restorations add up to ||K||² + Σ K_ij K_ji.
    kept = float(np.sum(left * k))
    other = float(np.sum(k * k)) + whole * float(products.sum()) - kept
    return {
        "V": (kept + outside * tall) / whole,
        "U": (other + outside * wide) / whole,
        "diagonal": float(np.trace(products)),
        "rotation": float(off.sum()),
        "rotation_std": float(np.sqrt(2 * np.sum(off * off))),
    }
