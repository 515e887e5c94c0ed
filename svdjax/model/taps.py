"""What is read off inside the decoder while it runs: attention entropy, maps, hidden states.

Each layer leaves its own numbers in the variable collection `COLLECTION`, so that no more than one
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
    """Which numbers every layer leaves. Rows are padded on the right, if at all.

    Attributes:
        positions: `S`: hidden states of that many leading positions are summed over the rows
            ("positions" [S, D]); 0 for none.
        maps: Keep the attention maps, averaged over the heads ("map" [B, T, T]).

    Always left: "entropy_last" and "entropy_mean" [B, N], the entropy `-sum p ln p` in nats of the
    attention of each row's last token, and its mean over all tokens (arXiv 2509.17866, C.2);
    "tokens" [B, D], the mean hidden state after the block over a row's tokens. All float32.
    """

    positions: int = 0
    maps: bool = False

    def attention(self, module: nn.Module, weights: jax.Array, valid: jax.Array | None) -> None:
        """Leave what attention weights [B, N, T, T] tell."""
        p = weights.astype(jnp.float32)
        # 0 ln 0 = 0, which is also what padding and later positions contribute.
        entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
        marks = _marks(valid, entropy.shape[0], entropy.shape[2])
        count = _count(marks)
        last = (count - 1).astype(jnp.int32)
        mean = jnp.sum(entropy * marks[:, None, :], axis=-1) / count[:, None]
        module.put_variable(COLLECTION, "entropy_mean", mean)
        final = jnp.take_along_axis(entropy, last[:, None, None], axis=-1)[..., 0]
        module.put_variable(COLLECTION, "entropy_last", final)
        if self.maps:
            module.put_variable(COLLECTION, "map", jnp.mean(p, axis=1))

    def hidden(self, module: nn.Module, x: jax.Array, valid: jax.Array | None) -> None:
        """Leave what hidden states [B, T, D] tell."""
        x = x.astype(jnp.float32)
        marks = _marks(valid, *x.shape[:2])[..., None]
        mean = jnp.sum(x * marks, axis=1) / _count(marks[..., 0])[:, None]
        module.put_variable(COLLECTION, "tokens", mean)
        if self.positions:
            first = (x * marks)[:, : self.positions]
            module.put_variable(COLLECTION, "positions", jnp.sum(first, axis=0))


def _marks(valid: jax.Array | None, rows: int, length: int) -> jax.Array:
    """[B, T] float32, 1 for tokens."""
    if valid is None:
        return jnp.ones((rows, length), jnp.float32)
    return jnp.broadcast_to(valid, (rows, length)).astype(jnp.float32)


def _count(marks: jax.Array) -> jax.Array:
    """Tokens of each row [B]; 1 for rows that hold none, whose numbers mean nothing."""
    return jnp.maximum(jnp.sum(marks, axis=1), 1.0)
