"""Root mean square normalisation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * w`, or `* (1 + w)` in gemma; the norm itself in float32."""

    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalised x [..., D] along its last axis, in the compute dtype."""
        c = self.config
        init = nn.initializers.zeros if c.norm_plus_one else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + c.rms_norm_eps)
        if c.norm_plus_one:
            return (x * (1.0 + scale)).astype(self.dtype)
        return x.astype(self.dtype) * scale.astype(self.dtype)
