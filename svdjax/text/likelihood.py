"""Log-probabilities and their divergence in float32, accurate for confident and for like models.

Axis: `V` vocabulary, the last one.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Up to here the series of `_excess` is exact to float32; beyond, the closed form loses one digit.
_SERIES_BELOW = 0.5
_TERMS = 8


def log_probabilities(logits: jax.Array) -> jax.Array:
    """`log softmax(x)` as `x - m - log1p(sum of exp(x - m) over all but one maximum m)`.

    Small losses keep their relative accuracy: the usual logarithm of a sum close to 1 has an
    absolute error of 6e-8, 1e-4 of the loss of a model that is 99.94 % sure.

    Args:
        logits: [..., V], any float dtype.

    Returns:
        [..., V] float32; all NaN where any logit is not finite.
    """
    x = logits.astype(jnp.float32)
    x = jnp.where(jnp.all(jnp.isfinite(x), axis=-1, keepdims=True), x, jnp.nan)
    x = x - jnp.max(x, axis=-1, keepdims=True)
    top = jnp.argmax(x, axis=-1, keepdims=True)
    index = jax.lax.broadcasted_iota(top.dtype, x.shape, x.ndim - 1)
    others = jnp.where(index == top, 0.0, jnp.exp(x))
    return x - jnp.log1p(jnp.sum(others, axis=-1, keepdims=True))


def kl_divergence(p: jax.Array, q: jax.Array) -> jax.Array:
    """`KL(p || q) = sum p (d + exp(-d) - 1)`, d = log p - log q, of log-probabilities [..., V].

    Equal to `sum p d`, as both distributions add up to 1, but no term is negative: nothing cancels,
    and the divergence of nearly equal models is not lost in the rounding of float32.

    Returns:
        [...] float32, nats; NaN where either is NaN.
    """
    d = p - q
    near = jnp.exp(p) * _excess(d)
    far = jnp.exp(p) * (d - 1.0) + jnp.exp(q)
    return jnp.sum(jnp.where(jnp.abs(d) < _SERIES_BELOW, near, far), axis=-1)


def _excess(d: jax.Array) -> jax.Array:
    """`d + exp(-d) - 1` for small d by its series, `d^2 (1/2! - d/3! + d^2/4! - …)`."""
    series = jnp.zeros_like(d)
    for power in range(_TERMS, 1, -1):
        series = 1.0 / math.factorial(power) - d * series
    return d * d * series
