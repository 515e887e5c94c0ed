"""One transformer block: norms, attention and the feed-forward part.

Axes: `B` batch, `T` time, `D` model.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import KV, Attention, SequenceInfo
from svdjax.model.experts import SparseFeedForward
from svdjax.model.feed_forward import FeedForward
from svdjax.model.norm import RMSNorm
from svdjax.model.taps import Taps


class Block(nn.Module):
    """One layer: the carry of `nn.scan` is x; window and cache come per layer.

    Attributes:
        return_kv: Return keys and values; a scan over many layers would stack them all.
    """

    config: ModelConfig
    dtype: Any
    init_scale: float
    return_kv: bool = False
    taps: Taps | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, window: Any, cache: KV | None, sequence: SequenceInfo
    ) -> tuple[jax.Array, KV | None]:
        """Output [B, T, D] for x [B, T, D]; the other arguments are those of `Attention`."""
        c, dtype = self.config, self.dtype

        def pre_norm(x: jax.Array, name: str) -> jax.Array:
            return RMSNorm(c, dtype, name=name)(x) if c.pre_norms else x

        def residual(x: jax.Array, out: jax.Array, name: str) -> jax.Array:
            if c.post_norms:
                out = RMSNorm(c, dtype, name=name)(out)
            if c.residual_scale is not None:
                out = out * jnp.asarray(c.residual_scale, out.dtype)
            return x + out

        attention = Attention(c, dtype, self.init_scale, self.taps, name="self_attn")
        module = SparseFeedForward if c.num_experts else FeedForward
        feed_forward = module(c, dtype, self.init_scale, name="mlp")
        out, kv = attention(pre_norm(x, "input_layernorm"), sequence, window, cache)
        x = residual(x, out, "post_attention_layernorm")
        # Hugging Face's name of the second norm depends on whether there is one after attention.
        second = "pre_feedforward_layernorm" if c.post_norms else "post_attention_layernorm"
        x = residual(x, feed_forward(pre_norm(x, second)), "post_feedforward_layernorm")
        if self.taps is not None:
            self.taps.hidden(self, x, sequence.valid)
        return x, kv if self.return_kv else None
