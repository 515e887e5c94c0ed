"""Decoder of all families: embedding, layers (scanned or separate), norm and head.

Axes: `B` batch, `T` time, `D` model, `V` vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import KV, NO_WINDOW, SequenceInfo, linear
from svdjax.model.layers import Block
from svdjax.model.norm import RMSNorm
from svdjax.model.rope import angles
from svdjax.model.taps import COLLECTION, Taps

Params = Any


class Decoder(nn.Module):
    """A causal language model.

    Attributes:
        config: The model.
        dtype: Compute dtype; norms and attention scores are float32 in any case.
        unroll: Layers per iteration of the scan; `num_layers` compiles longer and trains faster on
            CPUs.
        init_scale: Standard deviation of freshly drawn weights.
        separate: False: the parameters are the stacked pytree of `svdjax.checkpoint`, and the
            layers are scanned. True: every layer has its own, as `separate_layers` makes them, and
            its own cache, as generation needs it.
        taps: Numbers that every layer stores in `taps.COLLECTION` (scanned layers only).
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    unroll: int = 1
    init_scale: float = 0.02
    separate: bool = False
    taps: Taps | None = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        valid: jax.Array | None = None,
        cache: Sequence[KV] | None = None,
        at: jax.Array | None = None,
    ) -> Any:
        """Logits of the token after each token.

        Args:
            tokens: [B, T] int32.
            positions: [B, T] int32; counted over the valid tokens if None.
            valid: [B, T] bool, False for padding (on either side); None: all are tokens.
            cache: Earlier keys and values by layer, for T = 1 (separate layers only).
            at: [B] int32, the only index in T whose logits are computed; None: all.

        Returns:
            Logits [B, T, V] (with `at` [B, V]) in the compute dtype; with separate layers: (logits,
            one `KV` per layer): the cache with this token in it, or all keys and values.
        """
        c = self.config
        tokens = tokens.astype(jnp.int32)
        sequence = self._sequence(tokens, positions, valid)
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
        kv: list[Any] = []
        if self.separate:
            for layer, window in enumerate(c.windows):
                block = Block(c, self.dtype, self.init_scale, return_kv=True, name=f"layer_{layer}")
                x, layer_kv = block(x, window, None if cache is None else cache[layer], sequence)
                kv.append(layer_kv)
        else:
            x = self._scanned(x, sequence)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]
        x = RMSNorm(c, self.dtype, name="norm")(x)
        if c.tie_word_embeddings:
            table = embed.embedding.astype(self.dtype)
            logits = jnp.einsum("...D,VD->...V", x, table, precision=jax.lax.Precision.HIGHEST)
        else:
            logits = linear(c.vocab_size, False, self.dtype, self.init_scale, "lm_head")(x)
        if c.logit_scale is not None:
            logits = logits * jnp.asarray(c.logit_scale, logits.dtype)
        if c.final_logit_softcap is not None:
            logits = c.final_logit_softcap * jnp.tanh(logits / c.final_logit_softcap)
        return (logits, kv) if self.separate else logits

    def _scanned(self, x: jax.Array, sequence: SequenceInfo) -> jax.Array:
        c = self.config
        windows = None
        if any(window is not None for window in c.windows):
            windows = jnp.asarray([NO_WINDOW if w is None else w for w in c.windows], jnp.int32)
        axes: Any = (0, nn.broadcast, nn.broadcast)
        stack: Any = nn.scan(
            Block,
            variable_axes={"params": 0, COLLECTION: 0},
            split_rngs={"params": True},
            in_axes=axes,
            length=c.num_layers,
            unroll=self.unroll,
        )(c, self.dtype, self.init_scale, taps=self.taps, name="layers")
        return stack(x, windows, None, sequence)[0]

    def _sequence(
        self, tokens: jax.Array, positions: jax.Array | None, valid: jax.Array | None
    ) -> SequenceInfo:
        if positions is None:
            if valid is None:
                positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
            else:
                positions = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
        positions = positions.astype(jnp.int32)
        c, local = self.config, None
        if c.local_rope is not None:
            local = angles(c.local_rope, c.head_dim, positions)
        return SequenceInfo(*angles(c.rope, c.head_dim, positions), local, positions, valid)


def separate_layers(params: Params) -> Params:
    """Parameters for `Decoder(separate=True)`: {"embed_tokens", "norm", "layer_0", ...}.

    Leaves of host arrays are views.
    """
    rest = {name: tree for name, tree in params.items() if name != "layers"}
    count = len(jax.tree.leaves(params["layers"])[0])
    layers = {
        f"layer_{layer}": jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
        for layer in range(count)
    }
    return rest | layers


def init_params(config: ModelConfig, key: jax.Array, scale: float = 0.02) -> Params:
    """Random parameters: normal weights with deviation `scale`, zero biases, unit norms.

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
