"""Grouped-query attention: projections, rotary embedding, masks, soft-capping and key-value cache.

Axes: `B` batch, `T` time (queries), `S` time (keys: T, or the slots of the cache), `N` heads,
`K` kv heads, `G` query heads per kv head (N = K G), `H` head dim, `D` model, `A` rotary angles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.rope import rotate

NO_WINDOW = 2**30


class Context(NamedTuple):
    """What all layers share in one call.

    Attributes:
        cos, sin: [B, T, A] float32 rotary angles.
        queries: [B, T] int32 positions of the queries.
        keys: [B, S] int32 positions of the keys.
        valid: [B, S] bool, which keys are tokens (not padding, not empty slots); None: all are.
        slot: int32 scalar, the first cache slot that this call fills (0 without a cache).
    """

    cos: jax.Array
    sin: jax.Array
    queries: jax.Array
    keys: jax.Array
    valid: jax.Array | None
    slot: jax.Array


def linear(features: int, bias: bool, dtype: Any, scale: float, name: str) -> nn.Dense:
    """A projection `x W + b` with W [in, out], in full float32 precision on every device."""
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        param_dtype=jnp.float32,
        kernel_init=nn.initializers.normal(scale),
        # Some accelerators would otherwise round float32 operands to TF32.
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )


def visible(context: Context, window: jax.Array | None) -> jax.Array:
    """Which keys each query sees: no later ones, tokens only, at most `window` back.

    Returns:
        [B or 1, T, S] bool.
    """
    back = context.queries[:, :, None] - context.keys[:, None, :]
    mask = back >= 0
    if window is not None:
        mask = mask & (back < window)
    return mask if context.valid is None else mask & context.valid[:, None, :]


class Attention(nn.Module):
    """`softmax(cap(s q k^T)) v`, then the output projection (s: query scale, cap: soft-capping)."""

    config: ModelConfig
    dtype: Any
    init_scale: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: Context,
        window: jax.Array | None,
        cache: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Attend.

        Args:
            x: [B, T, D] normalised hidden states.
            context: What all layers share.
            window: int32 scalar, how many tokens back a query sees (itself included); None: all.
            cache: This layer's keys and values, each [B, S, K, H]; None: no cache.

        Returns:
            [B, T, D] and the cache with this call's keys and values in it.
        """
        c = self.config
        q, k, v = self._project(x)
        q, k = rotate(q, context.cos, context.sin), rotate(k, context.cos, context.sin)
        if cache is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(
                    old, new.astype(old.dtype), context.slot, axis=1
                )
                for old, new in zip(cache, (k, v))
            )
            cache = (k, v)
        B, T = x.shape[:2]
        q = q.reshape(B, T, c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim)
        high = jax.lax.Precision.HIGHEST
        scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k.astype(q.dtype), precision=high)
        scores = scores.astype(jnp.float32) * c.query_scale
        if c.attn_logit_softcap is not None:
            scores = c.attn_logit_softcap * jnp.tanh(scores / c.attn_logit_softcap)
        # Finite, so that a padding query, which sees nothing, stays finite too.
        hidden = jnp.finfo(jnp.float32).min
        scores = jnp.where(visible(context, window)[:, None, None], scores, hidden)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v.astype(weights.dtype), precision=high)
        out = out.reshape(B, T, c.num_heads * c.head_dim)
        bias = c.attention_out_bias
        return linear(c.hidden_size, bias, self.dtype, self.init_scale, "o_proj")(out), cache

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, N, H], keys and values [B, T, K, H]."""
        c = self.config
        heads = {"q_proj": c.num_heads, "k_proj": c.num_kv_heads, "v_proj": c.num_kv_heads}
        sizes = [count * c.head_dim for count in heads.values()]
        bias, dtype, scale = c.attention_bias, self.dtype, self.init_scale
        if c.fused_qkv:
            fused = linear(sum(sizes), bias, dtype, scale, "qkv_proj")(x)
            parts = jnp.split(fused, [sizes[0], sizes[0] + sizes[1]], axis=-1)
        else:
            parts = [linear(size, bias, dtype, scale, name)(x) for name, size in zip(heads, sizes)]
        q, k, v = (
            part.reshape(*x.shape[:2], count, c.head_dim)
            for part, count in zip(parts, heads.values())
        )
        return q, k, v
