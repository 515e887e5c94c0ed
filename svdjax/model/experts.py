"""Mixture of experts: the router, the experts a token is sent to, and the one all tokens go to.

Axes: `B` batch, `T` time, `M` tokens, `K` experts of a token, `P` = M K places, `D` model, `F` ffn,
`E` experts, `R` rows of a block.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import linear
from svdjax.model.feed_forward import FeedForward, activated

_HIGH = jax.lax.Precision.HIGHEST
_LEAST_ROWS, _MOST_ROWS = 8, 256


class SparseFeedForward(nn.Module):
    """Sum of a token's experts by the router's weights; no token is ever dropped.

    The weights are the `experts_per_token` largest of `softmax(x W_router)`, divided by their sum
    where `norm_topk_prob`; beside them the shared expert counts by `sigmoid(x w)` (qwen2_moe).
    """

    config: ModelConfig
    dtype: Any
    init_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Output [B, T, D] for x [B, T, D]."""
        c, dtype, scale = self.config, self.dtype, self.init_scale
        tokens = x.reshape(-1, c.hidden_size)
        logits = linear(c.num_experts, False, jnp.float32, scale, "gate")(tokens)
        weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), c.experts_per_token)
        if c.norm_topk_prob:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        # The places of every expert side by side, and back.
        order = jnp.argsort(chosen.reshape(-1), stable=True)
        sizes = jnp.bincount(chosen.reshape(-1), length=c.num_experts).astype(jnp.int32)
        experts = Experts(c, dtype, scale, name="experts")
        out = experts(tokens[order // c.experts_per_token], sizes)
        out = out[jnp.argsort(order)].reshape(*chosen.shape, c.hidden_size)
        out = jnp.sum(out * weights[..., None].astype(dtype), axis=1)
        if c.shared_expert_size:
            shared = FeedForward(c, dtype, scale, c.shared_expert_size, name="shared_expert")
            share = linear(1, False, dtype, scale, "shared_expert_gate")(tokens)
            out = out + jax.nn.sigmoid(share) * shared(tokens)
        return out.reshape(x.shape)


class Kernels(nn.Module):
    """The kernels of one projection, `[E, in, out]`."""

    shape: tuple[int, int, int]
    init_scale: float

    @nn.compact
    def __call__(self) -> jax.Array:
        """The parameter."""
        init = nn.initializers.normal(self.init_scale)
        return self.param("kernel", init, self.shape, jnp.float32)


class Experts(nn.Module):
    """`(act(x W_gate) * (x W_up)) W_down` by the expert that each row belongs to."""

    config: ModelConfig
    dtype: Any
    init_scale: float

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array) -> jax.Array:
        """Outputs of rows that lie expert by expert.

        `jax.lax.ragged_dot` would be three of these products, but multiplies every row by every
        expert and copies the rows E times, on CPUs and where no kernel of its own is compiled. So
        blocks of R rows, each of one expert, are multiplied one after the other: what an expert's
        last block has too many is written over by the next.

        Args:
            x: [P, D].
            sizes: [E] int32, the rows of each expert; they add up to P.

        Returns:
            [P, D].
        """
        c, scale = self.config, self.init_scale
        D, F, E, P = c.hidden_size, c.expert_size, c.num_experts, len(x)
        shapes = {"gate_proj": (E, D, F), "up_proj": (E, D, F), "down_proj": (E, F, D)}
        gate, up, down = (
            jnp.asarray(Kernels(shape, scale, name=name)(), self.dtype)
            for name, shape in shapes.items()
        )
        rows = block_rows(P, E)
        ends = jnp.cumsum(sizes)
        blocks = -(-sizes // rows)
        last = jnp.cumsum(blocks)
        padded = jnp.pad(x.astype(self.dtype), ((0, rows), (0, 0)))

        def block(number: jax.Array, out: jax.Array) -> jax.Array:
            expert = jnp.searchsorted(last, number, side="right").astype(jnp.int32)
            done = number - (last[expert] - blocks[expert])
            start = ends[expert] - sizes[expert] + done * rows
            part = jax.lax.dynamic_slice_in_dim(padded, start, rows)

            def product(x: jax.Array, kernels: jax.Array) -> jax.Array:
                return jnp.matmul(x, kernels[expert], precision=_HIGH)

            hidden = activated(c, product(part, gate), product(part, up))
            return jax.lax.dynamic_update_slice_in_dim(out, product(hidden, down), start, 0)

        return jax.lax.fori_loop(0, last[-1], block, jnp.zeros_like(padded))[:P]


def block_rows(places: int, experts: int) -> int:
    """Rows of a block: about as many as an expert has, a power of two within bounds."""
    power = 1 << max(places // experts - 1, 0).bit_length()
    return min(max(power, _LEAST_ROWS), _MOST_ROWS)
