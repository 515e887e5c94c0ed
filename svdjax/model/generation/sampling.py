"""Sampling of the next token: greedy, or temperature and top-p with a random stream per request.

Axes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Draw from the fewest tokens whose probabilities add up to this, the one that
            reaches it included; 1 draws from all.
        seed: Seed of all streams.

    Raises:
        ValueError: A value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected 0 or more")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0 and at most 1")


def draw_keys(seed: jax.Array, stream: jax.Array, draws: jax.Array) -> jax.Array:
    """Key [B] of each row's next draw, from seed, stream and number of earlier draws alone.

    So a request draws the same numbers in whatever batch, row and order it is decoded.

    Args:
        seed: uint32 scalar.
        stream: [B] uint32, number of each row's random stream.
        draws: [B] int32, number of tokens drawn from it.
    """
    root = jax.random.key(seed)
    fold = jax.vmap(lambda s, d: jax.random.fold_in(jax.random.fold_in(root, s), d))
    return fold(stream, draws.astype(jnp.uint32))


def sample(
    logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_p: jax.Array
) -> jax.Array:
    """Draws a token per row from `softmax(logits / temperature)` cut to its nucleus.

    Holtzman et al. 2020: tokens are kept in falling order until their probabilities reach `top_p`
    (those as likely as the last one are kept too); the first always is.

    Args:
        logits: [B, V], any float dtype.
        keys: [B] PRNG keys.
        temperature: float32 scalar > 0.
        top_p: float32 scalar in (0, 1].

    Returns:
        [B] int32.
    """
    scaled = logits.astype(jnp.float32) / temperature
    descending = jnp.flip(jnp.sort(scaled, axis=-1), axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1)
    # The last token of the nucleus is the first whose mass reaches top_p.
    last = jnp.sum((mass < top_p).astype(jnp.int32), axis=-1, keepdims=True)
    least = jnp.take_along_axis(descending, jnp.minimum(last, descending.shape[-1] - 1), axis=-1)
    # Rounding may keep a mass of 1 below 1, or above it before the end.
    nucleus = (scaled >= least) | (top_p >= 1.0)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32))(keys)
    return jnp.argmax(jnp.where(nucleus, scaled + noise, -jnp.inf), axis=-1).astype(jnp.int32)
