"""One transformer block: norms, attention and the gated feed-forward part.

Axes: `B` batch, `T` time, `D` model, `F` ffn.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import KV, Attention, Context, linear
from svdjax.model.taps import Taps


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * w`, or `* (1 + w)` in gemma; the norm itself in float32."""

    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of x [..., D]; the result has the compute dtype."""
        c = self.config
        init = nn.initializers.zeros if c.norm_plus_one else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + c.rms_norm_eps)
        if c.norm_plus_one:
            return (x * (1.0 + scale)).astype(self.dtype)
        return x.astype(self.dtype) * scale.astype(self.dtype)


class FeedForward(nn.Module):
    """`(act(x W_gate) * (x W_up)) W_down`."""

    config: ModelConfig
    dtype: Any
    init_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [B, T, D] to [B, T, D]."""
        c, dtype, scale = self.config, self.dtype, self.init_scale
        F, bias = c.intermediate_size, c.mlp_bias
        if c.fused_gate_up:
            fused = linear(2 * F, bias, dtype, scale, "gate_up_proj")(x)
            gate, up = jnp.split(fused, 2, axis=-1)
        else:
            gate = linear(F, bias, dtype, scale, "gate_proj")(x)
            up = linear(F, bias, dtype, scale, "up_proj")(x)
        gate = jax.nn.silu(gate) if c.hidden_act == "silu" else jax.nn.gelu(gate, approximate=True)
        return linear(c.hidden_size, bias, dtype, scale, "down_proj")(gate * up)


class Block(nn.Module):
    """One layer: the carry of `nn.scan` is x; window and cache come per layer.

    Attributes:
        keep: Return keys and values; a scan over many layers would stack them all.
    """

    config: ModelConfig
    dtype: Any
    init_scale: float
    keep: bool = False
    taps: Taps | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, window: Any, cache: KV | None, context: Context
    ) -> tuple[jax.Array, KV | None]:
        """Map x [B, T, D] to [B, T, D]; see `Attention` for the other arguments."""
        parts = (self.config, self.dtype)

        def norm(name: str) -> RMSNorm:
            return RMSNorm(*parts, name=name)

        attention = Attention(*parts, self.init_scale, self.taps, name="self_attn")
        feed_forward = FeedForward(*parts, self.init_scale, name="mlp")
        out, kept = attention(norm("input_layernorm")(x), context, window, cache)
        if self.config.post_norms:
            x = x + norm("post_attention_layernorm")(out)
            out = feed_forward(norm("pre_feedforward_layernorm")(x))
            x = x + norm("post_feedforward_layernorm")(out)
        else:
            x = x + out
            x = x + feed_forward(norm("post_attention_layernorm")(x))
        if self.taps is not None:
            self.taps.hidden(self, x, context.valid)
        return x, kept if self.keep else None
