"""The decoder of all five families: embedding, scanned layers, norm and head.

Axes: `L` layers, `B` batch, `T` time, `S` cache slots, `K` kv heads, `H` head dim, `D` model,
`V` vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import NO_WINDOW, Context, linear
from svdjax.model.layers import Block, RMSNorm
from svdjax.model.rope import angles

Params = Any


class Cache(NamedTuple):
    """Keys and values of the tokens so far, in `S` slots per sequence.

    Attributes:
        k, v: [L, B, S, K, H], keys already turned.
        positions: [B, S] int32.
        valid: [B, S] bool, which slots hold tokens.
        used: int32 scalar, how many slots are filled.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    valid: jax.Array
    used: jax.Array


def empty_cache(config: ModelConfig, batch: int, slots: int, dtype: Any = jnp.float32) -> Cache:
    """A cache with nothing in it."""
    shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
    return Cache(
        jnp.zeros(shape, dtype),
        jnp.zeros(shape, dtype),
        jnp.zeros((batch, slots), jnp.int32),
        jnp.zeros((batch, slots), bool),
        jnp.zeros((), jnp.int32),
    )


class Decoder(nn.Module):
    """A causal language model; its parameters are the stacked pytree of `svdjax.checkpoint`.

    Attributes:
        config: The model.
        dtype: Compute dtype; norms and attention scores are float32 in any case.
        unroll: Layers per iteration of the scan; `num_layers` compiles longer and trains faster on
            CPUs.
        init_scale: Standard deviation of freshly drawn weights.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    unroll: int = 1
    init_scale: float = 0.02

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        valid: jax.Array | None = None,
        cache: Cache | None = None,
    ) -> Any:
        """Predict the next token after each token.

        Args:
            tokens: [B, T] int32.
            positions: [B, T] int32; counted over the valid tokens if None.
            valid: [B, T] bool, False for padding (on either side); None: all are tokens.
            cache: Earlier keys and values; this call's are appended.

        Returns:
            Logits [B, T, V] in the compute dtype; with a cache: (logits, cache).
        """
        c = self.config
        tokens = tokens.astype(jnp.int32)
        context, cache = self._context(tokens, positions, valid, cache)
        embed = nn.Embed(
            c.vocab_size,
            c.hidden_size,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(self.init_scale),
            name="embed_tokens",
        )
        x = embed(tokens)
        if c.embedding_scale is not None:
            x = x * jnp.asarray(c.embedding_scale, x.dtype)
        windows = None
        if any(window is not None for window in c.windows):
            windows = jnp.asarray([NO_WINDOW if w is None else w for w in c.windows], jnp.int32)
        axes: Any = (0, 0, nn.broadcast)
        stack: Any = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=c.num_layers,
            unroll=self.unroll,
        )(c, self.dtype, self.init_scale, name="layers")
        x, kept = stack(x, windows, None if cache is None else (cache.k, cache.v), context)
        x = RMSNorm(c, self.dtype, name="norm")(x)
        if c.tie_word_embeddings:
            table = embed.embedding.astype(self.dtype)
            logits = jnp.einsum("BTD,VD->BTV", x, table, precision=jax.lax.Precision.HIGHEST)
        else:
            logits = linear(c.vocab_size, False, self.dtype, self.init_scale, "lm_head")(x)
        if c.final_logit_softcap is not None:
            logits = c.final_logit_softcap * jnp.tanh(logits / c.final_logit_softcap)
        return logits if cache is None else (logits, cache._replace(k=kept[0], v=kept[1]))

    def _context(
        self,
        tokens: jax.Array,
        positions: jax.Array | None,
        valid: jax.Array | None,
        cache: Cache | None,
    ) -> tuple[Context, Cache | None]:
        """Positions, angles and masks of the call, and the cache with its slots marked."""
        B, T = tokens.shape
        if positions is None:
            if valid is None:
                positions = jnp.arange(T, dtype=jnp.int32)[None, :]
            else:
                positions = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
            if cache is not None:
                seen = jnp.sum(cache.valid, axis=1, dtype=jnp.int32)
                positions = positions + seen[:, None]
        positions = positions.astype(jnp.int32)
        cos, sin = angles(self.config, positions)
        if cache is None:
            slot = jnp.zeros((), jnp.int32)
            return Context(cos, sin, positions, positions, valid, slot), None
        slot = cache.used
        marks = jnp.ones((B, T), bool) if valid is None else valid
        update = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=1)
        cache = cache._replace(
            positions=update(cache.positions, jnp.broadcast_to(positions, (B, T))),
            valid=update(cache.valid, marks),
            used=slot + T,
        )
        return Context(cos, sin, positions, cache.positions, cache.valid, slot), cache


def init_params(config: ModelConfig, key: jax.Array, scale: float = 0.02) -> Params:
    """Draw parameters for training: normal weights with deviation `scale`, zero biases, unit norms.

    Returns:
        Nested dict of float32 arrays, layers stacked on the leading axis.
    """
    decoder = Decoder(config, init_scale=scale)
    tokens = np.zeros((1, 1), np.int32)
    return jax.jit(lambda k: decoder.init(k, tokens)["params"])(key)


@functools.partial(jax.jit, static_argnames=("config", "dtype", "unroll"))
def forward(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    valid: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
    dtype: Any = jnp.float32,
    unroll: int = 1,
) -> jax.Array:
    """Logits [B, T, V] of tokens [B, T]; arguments as in `Decoder`. Jitted: one trace per shape."""
    decoder = Decoder(config, dtype, unroll)
    logits: Any = decoder.apply({"params": params}, tokens, positions=positions, valid=valid)
    return logits
