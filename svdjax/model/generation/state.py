"""State of a batch on the devices, and the jitted prefill, insertion and decoding.

Axes: `B` rows of the batch, `G` rows that are prefilled together, `T` time, `S` cache slots,
`K` kv heads, `H` head dim.
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
from svdjax.model.generation.sampling import draw_keys, sample
from svdjax.model.sharding import ROWS, WEIGHTS, named_sharding


class Rows(NamedTuple):
    """The rows of a batch, each [B].

    Attributes:
        token: int32, the latest token, not yet in the cache.
        position: int32, its position in its sequence.
        remaining: int32, how many tokens may follow.
        active: bool; the others are done, waiting for the host, or empty.
        stream: uint32, number of the random stream.
        draws: int32, number of tokens drawn from it.
    """

    token: jax.Array
    position: jax.Array
    remaining: jax.Array
    active: jax.Array
    stream: jax.Array
    draws: jax.Array


class SamplingArrays(NamedTuple):
    """Sampling parameters (scalars) and stop tokens [n], padded with -1, on the devices."""

    temperature: jax.Array
    top_p: jax.Array
    seed: jax.Array
    stop_tokens: jax.Array


def empty_cache(
    config: ModelConfig, mesh: Mesh, batch: int, slots: int, dtype: Any
) -> tuple[KV, ...]:
    """One `KV` of zeros per layer; layers with a window have no more slots than it is wide."""
    sharding = _cache_sharding(config, mesh)

    def layer(slots: int) -> KV:
        shapes = ((config.head_dim, slots), (slots, config.head_dim))
        lead = (batch, config.num_kv_heads)
        return KV(*(jnp.zeros((*lead, *shape), dtype, device=sharding) for shape in shapes))

    return tuple(layer(_slots(slots, window)) for window in config.windows)


def empty_rows(mesh: Mesh, batch: int) -> Rows:
    """Rows without requests."""
    dtypes = (jnp.int32, jnp.int32, jnp.int32, bool, jnp.uint32, jnp.int32)
    sharding = named_sharding(mesh, ROWS)
    return Rows(*(jnp.zeros(batch, dtype, device=sharding) for dtype in dtypes))


def reshard(
    cache: tuple[KV, ...], rows: Rows, config: ModelConfig, mesh: Mesh
) -> tuple[tuple[KV, ...], Rows]:
    """Cache and rows with the shardings of `empty_cache` and `empty_rows`.

    The compiler may return an equivalent sharding, for which the next call would compile anew.
    """
    by_row = named_sharding(mesh, ROWS)
    return jax.device_put(cache, _cache_sharding(config, mesh)), jax.device_put(rows, by_row)


def _cache_sharding(config: ModelConfig, mesh: Mesh) -> NamedSharding:
    heads = WEIGHTS if config.num_kv_heads % mesh.shape[WEIGHTS] == 0 else None
    return named_sharding(mesh, ROWS, heads)


def grow(cache: tuple[KV, ...], config: ModelConfig, slots: int) -> tuple[KV, ...]:
    """The cache with more slots; no position may have been beyond the old ones."""

    def pad(kv: KV, window: int | None) -> KV:
        added = _slots(slots, window) - kv.v.shape[2]
        if not added:
            return kv
        k = jnp.pad(kv.k, ((0, 0), (0, 0), (0, 0), (0, added)))
        return KV(k, jnp.pad(kv.v, ((0, 0), (0, 0), (0, added), (0, 0))))

    return tuple(pad(kv, window) for kv, window in zip(cache, config.windows))


def _slots(slots: int, window: int | None) -> int:
    return slots if window is None else min(slots, window)


def _next_token(
    logits: jax.Array,
    sampling: SamplingArrays,
    stream: jax.Array,
    draws: jax.Array,
    do_sample: bool,
) -> jax.Array:
    if not do_sample:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys = draw_keys(sampling.seed, stream, draws)
    return sample(logits, keys, sampling.temperature, sampling.top_p)


def _continues(config: ModelConfig, sampling: SamplingArrays, rows: Rows) -> jax.Array:
    """Whether each row may be decoded further without the host, [B] bool."""
    stopped = jnp.any(rows.token[:, None] == sampling.stop_tokens[None, :], axis=1)
    active = (rows.remaining > 0) & ~stopped
    if config.rope.kind == "longrope":
        # Here a sequence changes its rotary factors, and all of its keys with them.
        active = active & (rows.position != config.rope.original_max_position_embeddings)
    return active


@functools.partial(jax.jit, static_argnames=("config", "dtype", "do_sample"))
def prefill(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    sampling: SamplingArrays,
    stream: jax.Array,
    draws: jax.Array,
    *,
    dtype: Any,
    do_sample: bool,
) -> tuple[jax.Array, tuple[KV, ...]]:
    """Token that follows each sequence [G, T], padded on the right.

    Returns:
        The tokens [G], and keys and values [G, T, K, H] of every layer.
    """
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    decoder = Decoder(config, dtype, separate=True)
    at = jnp.maximum(lengths - 1, 0)
    out: Any = decoder.apply({"params": params}, tokens, valid=valid, at=at)
    logits, kv = out
    return _next_token(logits, sampling, stream, draws, do_sample), tuple(kv)


@functools.partial(jax.jit, static_argnames=("config",), donate_argnames=("cache", "rows"))
def insert(
    config: ModelConfig,
    cache: tuple[KV, ...],
    rows: Rows,
    prefilled: tuple[KV, ...],
    sampling: SamplingArrays,
    lengths: jax.Array,
    index: jax.Array,
    new: Rows,
) -> tuple[tuple[KV, ...], Rows]:
    """Cache and rows with prefilled sequences in the rows `index`.

    Args:
        config: The model.
        cache: The batch's cache.
        rows: The batch's rows.
        prefilled: Keys and values [G, T, K, H] by layer.
        sampling: Its stop tokens say which rows end.
        lengths: Length of each sequence, [G].
        index: Row of each sequence, [G]; those outside the batch are dropped.
        new: State of the sequences, [G] each; `active` is computed here.
    """

    def put(old: KV, kv: KV) -> KV:
        slots = old.v.shape[2]
        last = lengths[:, None] - 1
        # The latest position that belongs in each slot; negative where there is none yet.
        source = last - (last - jnp.arange(slots, dtype=jnp.int32)[None, :]) % slots
        source = jnp.clip(source, 0, kv.k.shape[1] - 1)[:, :, None, None]
        k = jnp.moveaxis(jnp.take_along_axis(kv.k, source, axis=1), 1, 3)
        v = jnp.moveaxis(jnp.take_along_axis(kv.v, source, axis=1), 1, 2)
        return KV(
            old.k.at[index].set(k.astype(old.k.dtype), mode="drop"),
            old.v.at[index].set(v.astype(old.v.dtype), mode="drop"),
        )

    cache = tuple(put(old, kv) for old, kv in zip(cache, prefilled))
    new = new._replace(active=_continues(config, sampling, new))
    return cache, Rows(*(o.at[index].set(n, mode="drop") for o, n in zip(rows, new)))


@functools.partial(
    jax.jit,
    static_argnames=("config", "dtype", "do_sample", "max_steps"),
    donate_argnames=("cache", "rows"),
)
def decode(
    params: Params,
    config: ModelConfig,
    cache: tuple[KV, ...],
    rows: Rows,
    sampling: SamplingArrays,
    steps: jax.Array,
    *,
    dtype: Any,
    do_sample: bool,
    max_steps: int,
) -> tuple[tuple[KV, ...], Rows, jax.Array]:
    """Decodes up to `steps` <= `max_steps` tokens in every active row, on the devices alone.

    The loop carries the cache, which is therefore updated in place.

    Returns:
        Cache, rows, and the tokens [B, max_steps], -1 where there is none.
    """
    decoder = Decoder(config, dtype, separate=True)

    def decode_token(carry: Any) -> Any:
        count, cache, rows, tokens = carry
        out: Any = decoder.apply(
            {"params": params},
            rows.token[:, None],
            positions=rows.position[:, None],
            cache=cache,
            at=jnp.zeros_like(rows.token),
        )
        logits, cache = out
        token = _next_token(logits, sampling, rows.stream, rows.draws, do_sample)
        column = jnp.where(rows.active, token, -1)[:, None]
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, column, count, axis=1)
        step = rows.active.astype(jnp.int32)
        rows = rows._replace(
            token=jnp.where(rows.active, token, rows.token),
            position=rows.position + step,
            remaining=rows.remaining - step,
            draws=rows.draws + step,
        )
        rows = rows._replace(active=rows.active & _continues(config, sampling, rows))
        return count + 1, tuple(cache), rows, tokens

    def is_unfinished(carry: Any) -> jax.Array:
        return (carry[0] < steps) & jnp.any(carry[2].active)

    tokens = jnp.full((rows.token.shape[0], max_steps), -1, jnp.int32)
    carry = (jnp.zeros((), jnp.int32), cache, rows, tokens)
    _, cache, rows, tokens = jax.lax.while_loop(is_unfinished, decode_token, carry)
    return cache, rows, tokens
