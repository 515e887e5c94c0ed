"""Attention entropies, attention maps and hidden states, stored while the decoder runs.

Each layer stores its numbers in the variable collection `COLLECTION`, so that no more than one
layer's attention maps exist at a time.

Axes: `B` batch, `T` time, `S` leading positions, `N` heads, `D` model.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "taps"


@dataclass(frozen=True)
class Taps:
    """Numbers that every layer stores, all float32. Rows are padded on the right, if at all.

    Always: "entropy_last" and "entropy_mean" [B, N], the entropy `-sum p ln p` in nats of the
    attention of each row's last token, and its mean over all tokens (arXiv 2509.17866, C.2);
    "tokens" [B, D], the mean hidden state after the block over a row's tokens.

    Attributes:
        positions: `S`: hidden states of that many leading positions are summed over the rows
            ("positions" [S, D]); 0 for none.
        maps: Store the attention maps, averaged over the heads ("map" [B, T, T]).
    """

    positions: int = 0
    maps: bool = False

    def attention(self, module: nn.Module, weights: jax.Array, valid: jax.Array | None) -> None:
        """Stores entropies, and maps where asked, of attention weights [B, N, T, T]."""
        p = weights.astype(jnp.float32)
        # 0 ln 0 = 0, which is also what padding and later positions contribute.
        entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
        mask = _token_mask(valid, entropy.shape[0], entropy.shape[2])
        count = _count(mask)
        last = (count - 1).astype(jnp.int32)
        mean = jnp.sum(entropy * mask[:, None, :], axis=-1) / count[:, None]
        module.put_variable(COLLECTION, "entropy_mean", mean)
        final = jnp.take_along_axis(entropy, last[:, None, None], axis=-1)[..., 0]
        module.put_variable(COLLECTION, "entropy_last", final)
        if self.maps:
            module.put_variable(COLLECTION, "map", jnp.mean(p, axis=1))

    def hidden(self, module: nn.Module, x: jax.Array, valid: jax.Array | None) -> None:
        """Stores means, and sums of positions where asked, of hidden states [B, T, D]."""
        x = x.astype(jnp.float32)
        mask = _token_mask(valid, *x.shape[:2])[..., None]
        mean = jnp.sum(x * mask, axis=1) / _count(mask[..., 0])[:, None]
        module.put_variable(COLLECTION, "tokens", mean)
        if self.positions:
            first = (x * mask)[:, : self.positions]
            module.put_variable(COLLECTION, "positions", jnp.sum(first, axis=0))


def _token_mask(valid: jax.Array | None, rows: int, length: int) -> jax.Array:
    """[B, T] float32, 1 for tokens."""
    if valid is None:
        return jnp.ones((rows, length), jnp.float32)
    return jnp.broadcast_to(valid, (rows, length)).astype(jnp.float32)


def _count(mask: jax.Array) -> jax.Array:
    """Tokens of each row [B]; 1 for rows without any, whose numbers mean nothing."""
    return jnp.maximum(jnp.sum(mask, axis=1), 1.0)
