"""Long matrices by their Gram matrices alone: no factor [M, R] is formed.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O), `C` = min(corner, R).

Seen with the short side as rows, ``W = V S U^T`` with V [R, R]: the Gram matrix
``G = W W^T = V S^2 V^T`` holds V and S, and ``C = W_base W_post^T`` all that the long sides know of
each other. All matrices here are scaled (`svdjax.spectral.matmul.scale`), and lie transposed:
columns are rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.factors import backward_error
from svdjax.spectral.matmul import eigh, gram_of, inner_gram, matmul, outer, scale
from svdjax.spectral.stored import Stored
from svdjax.spectral.vectors import Ranks, Rotations, Vectors, leading

TOLERANCE = 1e-5
"""Largest estimated error up to which a Gram matrix is taken: of NF as a part of the level of
unrelated matrices, and of the smallest singular value as a part of itself. Rounding a checkpoint
to bf16 changes either by more than a hundred times that."""

SPREAD = 8.0
"""How far single entries of a Gram matrix may be off beyond the average one."""


class GramState(NamedTuple):
    """Spectrum of the Gram matrix of one matrix W, seen with its short side as rows.

    Attributes:
        s: Singular values of W, descending, [R].
        vt: Singular vectors of the short side, as rows, V^T [R, R].
        inv_sqrt: (W W^T)^(-1/2) = V S^-1 V^T of W as scaled [R, R]; nothing in particular of a
            matrix that is not of full rank. None where it was not asked for.
    """

    s: jax.Array
    vt: jax.Array
    inv_sqrt: jax.Array | None = None


def gram_state(w: Stored, dtype: str, *, inv_sqrt: bool) -> GramState:
    """`GramState` of W [I, O] as stored, worked out in `dtype`.

    Args:
        w: The matrix.
        dtype: Name of the working dtype.
        inv_sqrt: Whether (W W^T)^(-1/2) is wanted.
    """
    values, vectors = eigh(gram_of(w, dtype))
    s, vt = jnp.sqrt(jnp.maximum(values[::-1], 0)), vectors.T[::-1]
    root = inner_gram(vt / jnp.sqrt(divisors(s))[:, None]) if inv_sqrt else None
    return GramState(s / scale(w, dtype), vt, root)


class GramErrors(NamedTuple):
    """Errors of what a Gram matrix tells.

    Attributes:
        sigma: Absolute error of any singular value.
        polar: Frobenius error of the polar factor.
        good: Whether both are within `TOLERANCE`; a zero matrix loses nothing.
    """

    sigma: jax.Array
    polar: jax.Array
    good: jax.Array


def gram_errors(s: jax.Array, shape: tuple[int, int]) -> GramErrors:
    """Estimated errors of what ``W W^T`` tells, from the singular values [R] that it gave.

    With ``G + E`` in the place of G, E of entries e, the polar factor changes by
    ``E_ij / (s_j (s_i + s_j))`` in the singular frame, and s_j by ``E_jj / (2 s_j)`` (*derived*).
    The entries are `SPREAD` times the average of what eigh may leave, ``(3 + sqrt(R)) eps s_1^2``
    over R x R; measured, the estimate is at or above the true error.

    Args:
        s: The singular values.
        shape: (I, O).
    """
    r, eps = s.shape[0], float(jnp.finfo(s.dtype).eps)
    zero = s[0] == 0
    unit = jnp.maximum(jnp.where(zero, 1, s / jnp.where(zero, 1, s[0])), eps)
    backward = backward_error(r, eps)
    entry = SPREAD * backward / r**0.5
    polar = jnp.sqrt(jnp.sum(((1 / unit)[None, :] / (unit[:, None] + unit[None, :])) ** 2))
    polar = entry * polar + backward * r**0.5
    sigma = entry / (2 * unit[-1]) + 2 * backward
    level = (r * (1 + r / max(shape))) ** 0.5
    good = (sigma <= TOLERANCE * unit[-1]) & (polar <= TOLERANCE * level)
    return GramErrors(jnp.where(zero, 0, s[0] * sigma), jnp.where(zero, 0, polar), zero | good)


def measure_vectors(
    base: GramState, post: GramState, cross: jax.Array, stored: Ranks, *, tall: bool, corner: int
) -> Vectors:
    """What is measured of the rotations, without them, by one product less.

    With ``C = W_base W_post^T`` and ``M = C V_post S_post^-1``, ``Q_long = S_base^-1 V_base^T M``
    and ``V_base Q_long = (W_base W_base^T)^(-1/2) M``, which is to be compared with V_post
    (*derived*): V_base being orthogonal, nothing changes of norms and of products of columns. The
    distance on the directions that storage carries takes that product after all, where they are
    not all.

    Args:
        base: Of W_base, of full rank, with ``inv_sqrt``.
        post: Of W_post, of full rank.
        cross: C.
        stored: How many directions storage carries; see `svdjax.spectral.storage`.
        tall: Whether the short side is the output side.
        corner: C, if R is no less.
    """
    if base.inv_sqrt is None:
        raise ValueError("the inverse square root of base's Gram matrix was not asked for")
    image = outer(post.vt, cross) / divisors(post.s)[:, None]
    rotated = matmul(image, base.inv_sqrt)
    first, last = base.vt[:corner], post.vt[:corner]
    long = outer(first, image[:corner]) / divisors(base.s)[:corner, None]
    short = outer(first, last)
    orth = outer(rotated[:corner], last)
    if not tall:
        long, short, orth = short, long, orth.T
    difference = rotated - post.vt
    distance = jnp.linalg.norm(difference)

    def on_stored() -> jax.Array:
        carried = leading(len(post.vt), stored).T
        return jnp.linalg.norm(jnp.where(carried, outer(difference, base.vt), 0))

    complete = jnp.minimum(*stored) >= len(post.vt)
    return Vectors(
        distance=distance,
        stored_distance=jax.lax.cond(complete, lambda: distance, on_stored),
        overlap=jnp.sum(rotated**2) + len(post.vt),
        sim_u=jnp.abs(long),
        sim_v=jnp.abs(short),
        i_orth=orth,
        diag=jnp.sum(rotated * post.vt, axis=1),
    )


def rotations(base: GramState, post: GramState, cross: jax.Array, *, tall: bool) -> Rotations:
    """Q1 and Q2; ``Q_long = S_base^-1 (V_base^T C V_post) S_post^-1``; see `measure_vectors`."""
    long = outer(matmul(base.vt, cross), post.vt)
    long = long / divisors(base.s)[:, None] / divisors(post.s)[None, :]
    short = outer(base.vt, post.vt)
    return Rotations(long, short) if tall else Rotations(short, long)


def post_in_frame(base: GramState, cross: jax.Array, *, tall: bool) -> jax.Array:
    """W_post in base's singular frame: ``U_base^T W_post V_base`` [R, R].

    With ``W_base = V S U^T``, ``V^T W_post U = V^T C^T V S^-1`` (*derived*): two products with C,
    and post is not factorised. Arguments as in `measure_vectors`.
    """
    frame = outer(matmul(base.vt, cross), base.vt) / divisors(base.s)[:, None]
    return frame if tall else frame.T


def divisors(s: jax.Array) -> jax.Array:
    """s with ones in the place of zeros, [R]."""
    return jnp.where(s > 0, s, 1)
