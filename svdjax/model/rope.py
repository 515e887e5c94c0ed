"""Rotary position embedding: angles of positions, and the rotation of queries and keys.

Axes: `B` batch, `T` time, `N` heads (query or kv heads), `H` head dim; `A` angles (half of the
rotated dimensions).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint.config import Rope


def inverse_frequencies(rope: Rope, head_dim: int, *, long: bool = False) -> np.ndarray:
    """Radians per position of each angle: `1 / (stretch_j theta^(2j / dim))`.

    `dim = head_dim * partial_rotary_factor`. The stretch is 1 (default, and dynamic up to the
    original length), `factor` (linear), between 1 and `factor` by wavelength (llama3, Llama 3.1
    release) or by number of the angle (yarn, arXiv 2309.00071), or listed per angle (longrope).

    Args:
        rope: Kind and fields of the embedding.
        head_dim: `H`.
        long: Take the factors for sequences beyond the original length (longrope only).

    Returns:
        [A], float64.
    """
    dim = int(head_dim * rope.partial_rotary_factor)
    plain = rope.theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "longrope":
        return plain / np.asarray(rope.long_factor if long else rope.short_factor, np.float64)
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * plain / (2.0 * math.pi)
        smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return plain * (smooth + (1.0 - smooth) / rope.factor)
    if rope.kind == "yarn":
        # The angles, not whole ones, that turn so many times within the original length.
        radians = math.log(rope.original_max_position_embeddings / (2.0 * math.pi))
        low, high = (
            dim * (radians - math.log(turns)) / (2.0 * math.log(rope.theta))
            for turns in (rope.beta_fast, rope.beta_slow)
        )
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low or 0.001
        stretched = np.clip((np.arange(dim // 2) - low) / width, 0.0, 1.0)
        return plain * (1.0 - stretched + stretched / rope.factor)
    return plain


def angles(rope: Rope, head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for every position.

    longrope takes its long factors for each sequence whose last position lies beyond the original
    context length, as transformers does for a single sequence. dynamic stretches the wavelengths of
    such a sequence by its length n: the base is multiplied by `s^(dim / (dim - 2))`,
    `s = factor n / original - (factor - 1)`. A step on a cache turns the new token alone, by the
    length so far, and leaves earlier keys as they were turned, as transformers does.

    Args:
        rope: Kind and fields of the embedding.
        head_dim: `H`.
        positions: [B, T] int32.

    Returns:
        cos, sin: [B, T, A] float32, times the attention factor.
    """
    frequency = jnp.asarray(inverse_frequencies(rope, head_dim), jnp.float32)[None, None, :]
    if rope.kind == "longrope":
        long = inverse_frequencies(rope, head_dim, long=True)
        last = jnp.max(positions, axis=1)[:, None, None]
        frequency = jnp.where(
            last >= rope.original_max_position_embeddings,
            jnp.asarray(long, jnp.float32)[None, None, :],
            frequency,
        )
    if rope.kind == "dynamic":
        original, count = rope.original_max_position_embeddings, frequency.shape[-1]
        length = jnp.max(positions, axis=1)[:, None, None].astype(jnp.float32) + 1.0
        scale = 1.0 + rope.factor * jnp.maximum(length / original - 1.0, 0.0)
        exponent = -jnp.arange(count, dtype=jnp.float32)[None, None, :] / (count - 1)
        frequency = frequency * scale**exponent
    angle = positions.astype(jnp.float32)[:, :, None] * frequency
    return jnp.cos(angle) * rope.attention_factor, jnp.sin(angle) * rope.attention_factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (j, j + A) of the first 2A head dimensions; the others pass unchanged.

    Args:
        x: [B, T, N, H], any float dtype.
        cos: [B, T, A] float32 (a leading axis of length 1 serves every sequence).
        sin: Shape and dtype of cos.

    Returns:
        [B, T, N, H] in the dtype of x.
    """
    half = cos.shape[-1]
    cos, sin = cos.astype(x.dtype)[:, :, None, :], sin.astype(x.dtype)[:, :, None, :]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate([*rotated, rest] if rest.shape[-1] else rotated, axis=-1)
