"""What a storage format carries of a matrix: the noise of its rounding (docs/mathematics.md, 7).

Axis legend: `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.factors import numerical_rank

ROUNDING = 1 / math.sqrt(32 * math.log(2))
"""Root mean square of the rounding error of an entry, over eps times that of the entries.

Of an entry in [2^e, 2^(e+1)) the error is uniform within half a spacing eps 2^e, of variance
eps^2 4^e / 12. Entries whose mantissas are log-uniform, as those of any density that is smooth over
a binade nearly are, have a mean of 4^e / w^2 of ``int_1^2 m^-3 dm / ln 2 = 3 / (8 ln 2)``
(*derived*); Gaussian ones are within 0.3 % of it whatever their scale.
"""

MARGIN = 2.5
"""How far above the spectral norm of even noise a direction is still counted as rounding.

Errors are as uneven as the entries: the noise of a matrix of rank 1 with Gaussian factors reaches
2.35 times the norm of even noise of its size, of rank 8 1.4 times, of rank 40 of 64 1.1 times. At
2.5 times the norm the vectors of a direction are off by some 0.4.
"""

ARITHMETIC = 8.0
"""Part of `MARGIN` for float32 and float64: what is stored in them has been computed in them.

Sums of products are off by several roundings of their result. What is stored in 16 bits was summed
in more.
"""

STRAY = 0.01
"""Part of the directions that may be below rounding without a word; one of them always may."""

NAMES = {2.0**-7: "bf16", 2.0**-10: "f16", 2.0**-23: "f32", 2.0**-52: "f64"}
"""Names of the storage formats by their eps."""


def eps_of(dtype: Any) -> float:
    """Distance from 1 to the next number of a floating dtype."""
    return float(jnp.finfo(dtype).eps)


def rounding_rms(
    norm: jax.Array, shape: tuple[int, int], dtype: Any, codes: jax.Array | None = None
) -> jax.Array:
    """Root mean square of the rounding errors of a stored matrix, scalar.

    ``eps ||W||_F / sqrt(I O) / sqrt(32 ln 2)``, from the norm alone, and beside it the error of
    numbers too small for their full precision, and of codes of evenly spaced numbers.

    Args:
        norm: ||W||_F.
        shape: (I, O).
        dtype: Storage dtype of W.
        codes: Where W was quantised, the eps of its codes and the root mean square of errors that
            do not depend on the entries, [2]; zeros where it was not.
    """
    info = jnp.finfo(dtype)
    # Subnormal numbers of float16 are evenly spaced. All others are flushed to zero: errors up to
    # the smallest normal number, those of a spacing of twice that.
    least = float(info.tiny)
    spacing = least * float(info.eps) if least > float(jnp.finfo(jnp.float32).tiny) else 2 * least
    least_rms = jnp.asarray(spacing / math.sqrt(12), norm.dtype)
    if codes is None:
        return jnp.hypot(_relative_rms(norm, shape, eps_of(dtype)), least_rms)
    eps = jnp.maximum(codes[0], jnp.asarray(eps_of(dtype), norm.dtype))
    rms = jnp.hypot(_relative_rms(norm, shape, eps), least_rms)
    return jnp.where(codes[1] > 0, jnp.hypot(rms, codes[1]), rms)


def storage_eps(
    norm: jax.Array, shape: tuple[int, int], dtype: Any, codes: jax.Array | None = None
) -> jax.Array:
    """Distance from 1 to the next number of floats that would round as much, scalar.

    Arguments are those of `rounding_rms`; that of the dtype where W was not quantised.
    """
    eps = jnp.asarray(eps_of(dtype), norm.dtype)
    if codes is None:
        return eps
    eps = jnp.maximum(codes[0], eps)
    unit = _relative_rms(norm, shape, 1.0)
    even = jnp.hypot(eps, codes[1] / jnp.where(unit > 0, unit, 1))
    return jnp.where((codes[1] > 0) & (unit > 0), even, eps)


def _relative_rms(norm: jax.Array, shape: tuple[int, int], eps: jax.Array | float) -> jax.Array:
    return ROUNDING * eps / math.sqrt(shape[0] * shape[1]) * norm


def equal_eps(eps: float, step: float, w: np.ndarray) -> float:
    """Distance from 1 to the next number of floats that would round a matrix as much.

    Args:
        eps: That of the numbers it is stored in.
        step: Root mean square of errors that do not depend on the entries.
        w: The matrix.
    """
    rms = float(np.sqrt(np.mean(np.square(w, dtype=np.float64)))) if step else 0.0
    return math.hypot(eps, step / (ROUNDING * rms)) if rms else eps


def rounding_norm(rms: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Spectral norm of the rounding errors of a matrix [I, O], ``rms (sqrt(I) + sqrt(O))``.

    No singular value is further off (Weyl).

    Args:
        rms: As `rounding_rms` returned it.
        shape: (I, O).
    """
    return rms * (math.sqrt(shape[0]) + math.sqrt(shape[1]))


def stored_rank(
    s: jax.Array, rms: jax.Array, shape: tuple[int, int], eps: jax.Array | float
) -> jax.Array:
    """Number of leading singular values that stand out of the rounding, int32 scalar.

    The smallest k beyond which all may be rounding, by the largest and by all of them together:
    ``s_(k+1) <= c rms (sqrt(I - k) + sqrt(O - k))`` and
    ``sum_(j > k) s_j^2 <= c^2 / 2 rms^2 (I - k) (O - k)``, c = `MARGIN`: the noise left beside k
    directions is that of a matrix [I - k, O - k]. The smallest singular values of a matrix of full
    rank may be below the norm of the whole noise, which hardly reaches them, and even meet the
    first condition, but grow too quickly for the second. No more than the numerical rank.

    Args:
        s: Singular values, descending, [R].
        rms: Of the rounding errors; see `rounding_rms`.
        shape: (I, O).
        eps: Distance from 1 to the next number of the storage dtype.
    """
    top = jnp.where(s[0] > 0, s[0], 1)
    unit, noise = s / top, rms / top
    margin = MARGIN * jnp.where(eps < eps_of(jnp.float16) / 2, ARITHMETIC, 1.0).astype(s.dtype)
    k = jnp.arange(s.shape[0], dtype=s.dtype)
    rows, columns = shape[0] - k, shape[1] - k
    rest = jnp.cumsum(unit[::-1] ** 2)[::-1]
    below = unit <= margin * noise * (jnp.sqrt(rows) + jnp.sqrt(columns))
    below &= rest <= (margin * noise) ** 2 / 2 * rows * columns
    count = jnp.where(jnp.any(below), jnp.argmax(below), s.shape[0]).astype(jnp.int32)
    return jnp.minimum(count, numerical_rank(s, shape))


def carried_rank(s: jax.Array, eps: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """`stored_rank` where more than stray directions are below it, else the numerical rank, int32.

    Args:
        s: Singular values, descending, [R].
        eps: Distance from 1 to the next number of the storage dtype; 0 for exact matrices.
        shape: (I, O).
    """
    rms = _relative_rms(jnp.linalg.norm(s), shape, eps)
    rank, stored = numerical_rank(s, shape), stored_rank(s, rms, shape, eps)
    return jnp.where(is_limited(rank, stored, shape), stored, rank)


def rounding_nf(
    s: tuple[jax.Array, jax.Array],
    rms: tuple[jax.Array, jax.Array],
    ranks: tuple[jax.Array, jax.Array],
    alpha: jax.Array,
    shape: tuple[int, int],
) -> jax.Array:
    """NF on the common rank that rounding alone makes of a matrix and alpha times it, scalar.

    To first order (docs/mathematics.md, 6), with k the ranks,
    ``k_base k_post NF^2 = sum_(i != j) 2 (alpha^2 rms_base^2 + rms_post^2) / (alpha s_i + s_j)^2``
    over i < k_base, j < k_post; no more than the level of unrelated matrices. NaN where a rank is
    0.

    Args:
        s: Singular values of base and post, [R] each.
        rms: Of their rounding errors; see `rounding_rms`.
        ranks: How many directions count, int32 scalars.
        alpha: Scale of base that fits post best.
        shape: (I, O).
    """
    alpha = jnp.abs(alpha)
    noise = jnp.hypot(alpha * rms[0], rms[1])
    index = jnp.arange(s[0].shape[0], dtype=jnp.int32)
    live = (index < ranks[0])[:, None] & (index < ranks[1])[None, :]
    live &= index[:, None] != index[None, :]
    sums = jnp.where(live, (alpha * s[0])[:, None] + s[1][None, :], 1)
    squares = jnp.sum(jnp.where(live, 2 * (noise / sums) ** 2, 0))
    count = ranks[0].astype(s[0].dtype) * ranks[1].astype(s[0].dtype)
    level = math.sqrt(1 / shape[0] + 1 / shape[1])
    nf = jnp.minimum(jnp.sqrt(squares / jnp.where(count > 0, count, 1)), level)
    return jnp.where(count > 0, nf, jnp.nan)


def is_limited(rank: Any, stored: Any, shape: Sequence[int]) -> Any:
    """Whether more than stray directions of matrices are below their rounding, bool.

    More than one, and more than 1 % of R.

    Args:
        rank: Numerical ranks, an array of any shape.
        stored: `stored_rank` of the same matrices.
        shape: (I, O).
    """
    return rank - stored > max(1, math.floor(STRAY * min(shape)))
