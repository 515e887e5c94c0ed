"""The gated feed-forward part.

Axes: `D` model, `F` ffn.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import linear


class FeedForward(nn.Module):
    """`(act(x W_gate) * (x W_up)) W_down`.

    Attributes:
        size: `F`; 0: the model's.
    """

    config: ModelConfig
    dtype: Any
    init_scale: float
    size: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Output [..., D] for x [..., D]."""
        c, dtype, scale = self.config, self.dtype, self.init_scale
        F, bias = self.size or c.intermediate_size, c.mlp_bias
        if c.fused_gate_up:
            fused = linear(2 * F, bias, dtype, scale, "gate_up_proj")(x)
            gate, up = jnp.split(fused, 2, axis=-1)
        else:
            gate = linear(F, bias, dtype, scale, "gate_proj")(x)
            up = linear(F, bias, dtype, scale, "up_proj")(x)
        return linear(c.hidden_size, bias, dtype, scale, "down_proj")(activated(c, gate, up))


def activated(config: ModelConfig, gate: jax.Array, up: jax.Array) -> jax.Array:
    """`act(gate) * up`."""
    silu = config.hidden_act == "silu"
    return (jax.nn.silu(gate) if silu else jax.nn.gelu(gate, approximate=True)) * up
