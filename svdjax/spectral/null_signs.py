"""The change in base's singular frame, and its copies with random signs (docs/mathematics.md, 6).

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `E` = min(max(I, O) - R, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.factorisation import get_factorisation
from svdjax.spectral.factors import singular_values
from svdjax.spectral.lift import lift
from svdjax.spectral.matmul import eigh, inner, inner_gram, matmul

FACTORISATION = "gram_f64"
Array = jax.Array | np.ndarray


class FramedChange(NamedTuple):
    """Delta = W_post - alpha W_base seen from base's singular vectors; float64.

    Of a wide matrix everything is that of its transpose. With a leading `L` after mapping.

    Attributes:
        values: Singular values of Delta, descending, [R].
        inside: K = U_base^T Delta V_base, [R, R].
        outside: A matrix with the Gram matrix of the part of Delta V_base that is orthogonal to
            U_base, [E, R]; without rows for square matrices. ``[inside; outside]`` has the singular
            values of Delta.
        top_half: ||K[:h, :h]||_F^2 / ||Delta||_F^2 with h = R // 2, scalar: the part of the change
            between the leading halves of both sides' singular vectors; NaN without a change.
    """

    values: Array
    inside: Array
    outside: Array
    top_half: Array


def framed_change(
    base: Array, post: Array, alpha: Array, *, mesh: jax.sharding.Mesh | None = None
) -> FramedChange:
    """Brings the change of every layer into base's singular frame.

    Args:
        base: W_base [L, I, O] as stored, any floating dtype.
        post: W_post [L, I, O].
        alpha: Scale of each layer, [L].
        mesh: As in `svdjax.spectral.analyse_stack`.

    Returns:
        `FramedChange`, every field with a leading `L`.

    Raises:
        RuntimeError: 64-bit types are off; enter `svdjax.spectral.working_precision` first.
    """
    return _frame((base, post, np.asarray(alpha, np.float64)), mesh=mesh)


@lift
def _frame(parts) -> FramedChange:
    factor = get_factorisation(FACTORISATION)
    base, post, alpha = parts
    base, post = factor.upcast(base), factor.upcast(post)
    if base.shape[0] < base.shape[1]:
        base, post = base.T, post.T
    delta = post - alpha * base
    u, _, v = factor(base).factors
    image = matmul(delta, v)
    inside = inner(u, image)
    half = inside.shape[0] // 2
    top_half = jnp.sum(inside[:half, :half] ** 2) / jnp.sum(delta**2)
    # Not the difference of two Gram matrices, which cancels where little lies outside.
    outside = _root(inner_gram(image - matmul(u, inside)), base.shape[0] - base.shape[1])
    return FramedChange(singular_values(delta), inside, outside, top_half)


def _root(gram: jax.Array, rank: int) -> jax.Array:
    """A matrix of at most `rank` rows with this Gram matrix, [min(rank, R), R]."""
    rows = min(rank, gram.shape[0])
    if not rows:
        return gram[:0]
    values, vectors = eigh(gram)
    lengths = jnp.sqrt(jnp.maximum(values[-rows:], 0))
    return lengths[:, None] * vectors[:, -rows:].T


def with_random_signs(key: jax.Array, change: FramedChange, sigma: jax.Array) -> jax.Array:
    """The change with the signs of its rows and columns in base's frame drawn anew.

    ``K_ij`` becomes ``a_i K_ij b_j``, the part outside ``T`` becomes ``T_ij b_j``, with independent
    a and b of +1 and -1: all magnitudes, all singular values of the change and so its rank stay as
    they are, and ``K_ij K_ji`` gets the sign ``a_i b_i a_j b_j``. As the real change is orthogonal
    to W_base, what the new one has along it is taken off its diagonal.

    Args:
        key: Of this draw.
        change: Of one layer, without a leading axis.
        sigma: Singular values of W_base, [R].

    Returns:
        The new change in base's frame, [R + E, R].
    """
    rows, columns = jax.random.rademacher(key, (2, sigma.shape[0]), sigma.dtype)
    inside = rows[:, None] * change.inside * columns[None, :]
    along = jnp.sum(sigma * jnp.diagonal(inside)) / jnp.sum(sigma**2)
    inside = inside - jnp.diag(along * sigma)
    return jnp.concatenate([inside, change.outside * columns[None, :]])
