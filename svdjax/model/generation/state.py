"""What lies on the devices while a batch is decoded, and the three jitted steps on it.

Axes: `B` rows of the batch, `G` rows that enter together, `T` time, `S` cache slots, `K` kv heads,
`H` head dim.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.attention import KV
from svdjax.model.decoder import Decoder, Params
from svdjax.model.generation.sampling import keys_of, sample
from svdjax.model.placing import ROWS, WEIGHTS, sharding


class Rows(NamedTuple):
    """The rows of a batch, each [B].

    Attributes:
        token: int32, the latest token, not yet in the cache.
        position: int32, where it stands in its sequence.
        left: int32, how many tokens may follow.
        active: bool; the others are done, waiting for the host, or empty.
        stream: uint32, number of the random stream.
        drawn: int32, tokens drawn from it.
    """

    token: jax.Array
    position: jax.Array
    left: jax.Array
    active: jax.Array
    stream: jax.Array
    drawn: jax.Array


class Rule(NamedTuple):
    """How tokens are chosen, and when a row ends; scalars but `stops` [n], padded with -1."""

    temperature: jax.Array
    top_p: jax.Array
    seed: jax.Array
    stops: jax.Array


def empty_cache(
    config: ModelConfig, mesh: Mesh, batch: int, slots: int, dtype: Any
) -> tuple[KV, ...]:
    """One `KV` per layer; layers with a window have no more slots than it is wide."""
    where = _places(config, mesh)

    def layer(slots: int) -> KV:
        shapes = ((config.head_dim, slots), (slots, config.head_dim))
        lead = (batch, config.num_kv_heads)
        return KV(*(jnp.zeros((*lead, *shape), dtype, device=where) for shape in shapes))

    return tuple(layer(_slots(slots, window)) for window in config.windows)


def empty_rows(mesh: Mesh, batch: int) -> Rows:
    """No requests."""
    dtypes = (jnp.int32, jnp.int32, jnp.int32, bool, jnp.uint32, jnp.int32)
    where = sharding(mesh, ROWS)
    return Rows(*(jnp.zeros(batch, dtype, device=where) for dtype in dtypes))


def settled(
    cache: tuple[KV, ...], rows: Rows, config: ModelConfig, mesh: Mesh
) -> tuple[tuple[KV, ...], Rows]:
    """Both where `empty_cache` and `empty_rows` put them.

    The compiler may say of the same place in other words, and each wording compiles anew.
    """
    by_row = sharding(mesh, ROWS)
    return jax.device_put(cache, _places(config, mesh)), jax.device_put(rows, by_row)


def _places(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    heads = WEIGHTS if config.num_kv_heads % mesh.shape[WEIGHTS] == 0 else None
    return sharding(mesh, ROWS, heads)


def grown(cache: tuple[KV, ...], config: ModelConfig, slots: int) -> tuple[KV, ...]:
    """The cache with more slots; no position may have been beyond the old ones."""

    def pad(old: KV, window: int | None) -> KV:
        more = (0, _slots(slots, window) - old.v.shape[2])
        if more == (0, 0):
            return old
        same = (0, 0)
        return KV(
            jnp.pad(old.k, (same, same, same, more)), jnp.pad(old.v, (same, same, more, same))
        )

    return tuple(pad(kv, window) for kv, window in zip(cache, config.windows))


def _slots(slots: int, window: int | None) -> int:
    return slots if window is None else min(slots, window)


def _chosen(logits: jax.Array, rule: Rule, stream: jax.Array, drawn: jax.Array, drawing: bool):
    if not drawing:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys = keys_of(rule.seed, stream, drawn)
    return sample(logits, keys, rule.temperature, rule.top_p)


def _goes_on(config: ModelConfig, rule: Rule, token: jax.Array, position: jax.Array, left: Any):
    """Which rows may be decoded further without the host: [B] bool."""
    on = (left > 0) & ~jnp.any(token[:, None] == rule.stops[None, :], axis=1)
    if config.rope.kind == "longrope":
        # Here a sequence changes its rotary factors, and all of its keys with them.
        on = on & (position != config.rope.original_max_position_embeddings)
    return on


@functools.partial(jax.jit, static_argnames=("config", "dtype", "drawing"))
def prefill(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    rule: Rule,
    stream: jax.Array,
    drawn: jax.Array,
    *,
    dtype: Any,
    drawing: bool,
) -> tuple[jax.Array, tuple[KV, ...]]:
    """Run sequences [G, T], padded on the right, and choose the token that follows each.

    Returns:
        The tokens [G], and keys and values [G, T, K, H] of every layer.
    """
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    decoder = Decoder(config, dtype, separate=True)
    at = jnp.maximum(lengths - 1, 0)
    out: Any = decoder.apply({"params": params}, tokens, valid=valid, at=at)
    logits, kept = out
    return _chosen(logits, rule, stream, drawn, drawing), tuple(kept)


@functools.partial(jax.jit, static_argnames=("config",), donate_argnames=("cache", "rows"))
def insert(
    config: ModelConfig,
    cache: tuple[KV, ...],
    rows: Rows,
    kept: tuple[KV, ...],
    rule: Rule,
    lengths: jax.Array,
    where: jax.Array,
    new: Rows,
) -> tuple[tuple[KV, ...], Rows]:
    """Put prefilled sequences into the rows `where` [G]; those outside the batch are dropped.

    Args:
        config: The model.
        cache: Of the batch.
        rows: Of the batch.
        kept: Keys and values [G, T, K, H] by layer.
        rule: When a row ends.
        lengths: [G], of the sequences.
        where: [G].
        new: What the rows are to be, [G] each; `active` is found here.
    """

    def put(old: KV, fresh: KV) -> KV:
        slots = old.v.shape[2]
        last = lengths[:, None] - 1
        # The latest position that belongs in each slot; negative where there is none yet.
        source = last - (last - jnp.arange(slots, dtype=jnp.int32)[None, :]) % slots
        source = jnp.clip(source, 0, fresh.k.shape[1] - 1)[:, :, None, None]
        k, v = (jnp.take_along_axis(each, source, axis=1) for each in fresh)
        k, v = jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2)
        return KV(
            old.k.at[where].set(k.astype(old.k.dtype), mode="drop"),
            old.v.at[where].set(v.astype(old.v.dtype), mode="drop"),
        )

    cache = tuple(put(old, fresh) for old, fresh in zip(cache, kept))
    active = _goes_on(config, rule, new.token, new.position, new.left)
    new = new._replace(active=active)
    return cache, Rows(*(o.at[where].set(n, mode="drop") for o, n in zip(rows, new)))


@functools.partial(
    jax.jit,
    static_argnames=("config", "dtype", "drawing", "most"),
    donate_argnames=("cache", "rows"),
)
def decode(
    params: Params,
    config: ModelConfig,
    cache: tuple[KV, ...],
    rows: Rows,
    rule: Rule,
    steps: jax.Array,
    *,
    dtype: Any,
    drawing: bool,
    most: int,
) -> tuple[tuple[KV, ...], Rows, jax.Array]:
    """Decode up to `steps` <= `most` tokens in every active row, on the devices alone.

    The loop carries the cache, which is therefore updated in place.

    Returns:
        Cache, rows, and the tokens [B, most], -1 where there is none.
    """
    decoder = Decoder(config, dtype, separate=True)

    def step(carry: Any) -> Any:
        count, cache, rows, out = carry
        found: Any = decoder.apply(
            {"params": params},
            rows.token[:, None],
            positions=rows.position[:, None],
            cache=cache,
            at=jnp.zeros_like(rows.token),
        )
        logits, cache = found
        token = _chosen(logits, rule, rows.stream, rows.drawn, drawing)
        moved = rows.active.astype(jnp.int32)
        position, left = rows.position + moved, rows.left - moved
        token = jnp.where(rows.active, token, rows.token)
        out = jax.lax.dynamic_update_slice_in_dim(
            out, jnp.where(rows.active, token, -1)[:, None], count, axis=1
        )
        active = rows.active & _goes_on(config, rule, token, position, left)
        rows = Rows(token, position, left, active, rows.stream, rows.drawn + moved)
        return count + 1, tuple(cache), rows, out

    def more(carry: Any) -> jax.Array:
        return (carry[0] < steps) & jnp.any(carry[2].active)

    out = jnp.full((rows.token.shape[0], most), -1, jnp.int32)
    carry = (jnp.zeros((), jnp.int32), cache, rows, out)
    _, cache, rows, out = jax.lax.while_loop(more, step, carry)
    return cache, rows, out
