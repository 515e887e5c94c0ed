"""Attention entropy, attention maps and mean hidden states of a model that reads prompts.

Prompts are read in batches of like length; of every batch only small arrays per layer and prompt
come back (`svdjax.model.Taps`), and no more than one layer's attention maps exist at a time.

Axes: `L` blocks, `N` heads, `P` prompts, `S` leading positions, `T` time, `D` model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from svdjax.checkpoint import ModelConfig
from svdjax.model import Decoder, Taps
from svdjax.model.sharding import ROWS, named_sharding
from svdjax.model.taps import COLLECTION

_BLOCK = 32


class Activations(NamedTuple):
    """Statistics of a model's activations, all float32 but the entropies.

    Attributes:
        entropy_last: [L, N] float64, nats: entropy of the last position's attention, the mean over
            the prompts (arXiv 2509.17866, C.2).
        entropy_mean: [L, N] float64: mean over all positions of a prompt, then over the prompts.
        tokens: [L, P, D]: hidden states after each block, mean over a prompt's tokens.
        positions: [L, S, D]: the same, mean over the prompts at each position (eq. 17).
        maps: [L, T, T]: attention of the first prompt, mean over the heads; None without `maps`.
    """

    entropy_last: np.ndarray
    entropy_mean: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    maps: np.ndarray | None


def probe(
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    mesh: Mesh,
    positions: int = 0,
    maps: bool = False,
    dtype: Any = jnp.float32,
    batch_bytes: int = 256 << 20,
    done: Callable[[int], None] = lambda count: None,
) -> Activations:
    """Attention entropies, mean hidden states and maps of a model that reads prompts.

    Args:
        params: Weights, on the devices by `svdjax.model.shard_params`.
        config: The model.
        prompts: Token ids of each, at least one.
        mesh: Devices from `decoder_mesh`.
        positions: `S`, at most the length of the shortest prompt; 0 for that.
        maps: Also return the attention maps of the first prompt.
        dtype: Compute dtype.
        batch_bytes: Budget of one layer's attention maps in one batch, which holds one prompt per
            device at least.
        done: Called with the number of prompts read; may raise to stop.

    Raises:
        ValueError: There is no prompt, one is empty, or `positions` is beyond the shortest.
    """
    if not prompts or not all(map(len, prompts)):
        raise ValueError("a prompt is empty, or there is none; expected at least one token each")
    shortest = min(map(len, prompts))
    if positions > shortest:
        raise ValueError(f"positions is {positions}, and the shortest prompt has {shortest}")
    taps = Taps(positions or shortest)
    entropies: dict[str, Any] = {}
    tokens: Any = None
    summed: Any = 0.0
    count = 0
    devices = mesh.shape[ROWS]

    def row_bytes(width: int) -> int:
        return 8 * config.num_heads * width * width

    for members, rows, lengths in prompt_batches(prompts, devices, batch_bytes, row_bytes):
        tapped = _tapped(params, config, *put(mesh, rows, lengths), taps, dtype)
        tapped = jax.device_get(tapped)
        for name in ("entropy_last", "entropy_mean"):
            values = tapped["self_attn"][name][:, : len(members)].astype(np.float64)
            entropies[name] = entropies.get(name, 0.0) + values.sum(axis=1)
        hidden = tapped["tokens"][:, : len(members)]
        if tokens is None:
            tokens = np.empty((hidden.shape[0], len(prompts), hidden.shape[2]), np.float32)
        tokens[:, members] = hidden
        summed = summed + tapped["positions"].astype(np.float64)
        count += len(members)
        done(count)
    first = None
    if maps:
        # By itself, without padding beyond its bucket's, and as one row on every device.
        length = len(prompts[0])
        (_, rows, lengths), *_ = prompt_batches(prompts[:1], devices, batch_bytes, row_bytes)
        tapped = _tapped(params, config, *put(mesh, rows, lengths), Taps(maps=True), dtype)
        first = np.asarray(tapped["self_attn"]["map"][:, 0, :length, :length])
    return Activations(
        entropies["entropy_last"] / len(prompts),
        entropies["entropy_mean"] / len(prompts),
        tokens,
        (summed / len(prompts)).astype(np.float32),
        first,
    )


@functools.partial(jax.jit, static_argnames=("config", "taps", "dtype"))
def _tapped(
    params: Any,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    taps: Taps,
    dtype: Any,
) -> Any:
    """The taps of every layer, the layers on the leading axis."""
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    decoder = Decoder(config, dtype, taps=taps)
    # The logits are not wanted: one position of them is the least there is.
    at = jnp.zeros_like(lengths)
    _, state = decoder.apply({"params": params}, tokens, valid=valid, at=at, mutable=[COLLECTION])
    return state[COLLECTION]["layers"]


def put(mesh: Mesh, *arrays: np.ndarray) -> list[jax.Array]:
    """Arrays on the devices, their rows shared out."""
    return [jax.device_put(array, named_sharding(mesh, ROWS)) for array in arrays]


def prompt_batches(
    prompts: Sequence[Sequence[int]],
    devices: int,
    batch_bytes: int,
    row_bytes: Callable[[int], int],
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Batches of prompts of like length.

    Args:
        prompts: Token ids of each.
        devices: How many share the rows of a batch.
        batch_bytes: Budget of a batch, which holds one prompt per device at least.
        row_bytes: What a row of so many tokens takes of it.

    Yields:
        Indices of prompts, tokens [B, T] padded on the right, lengths [B] (0 for empty rows).
    """
    by_width: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_width.setdefault(-(-len(prompt) // _BLOCK) * _BLOCK, []).append(index)
    for width, members in sorted(by_width.items()):
        most = max(1, batch_bytes // row_bytes(width))
        size = -(-min(most, len(members)) // devices) * devices
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            tokens = np.zeros((size, width), np.int32)
            lengths = np.zeros(size, np.int32)
            for row, index in enumerate(batch):
                tokens[row, : len(prompts[index])] = prompts[index]
                lengths[row] = len(prompts[index])
            yield batch, tokens, lengths
