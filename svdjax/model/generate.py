"""Greedy decoding of a batch of prompts with a key-value cache.

Axes: `B` batch, `T` time, `S` cache slots, `V` vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.decoder import Cache, Decoder, Params, empty_cache

# Lengths are rounded up to multiples of this, so that prompts of like length share one trace.
_BLOCK = 32


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("cache",))
def _extend(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    valid: jax.Array | None,
    cache: Cache,
    dtype: Any,
) -> tuple[jax.Array, Cache]:
    """Append tokens [B, T] to the cache; the likeliest next tokens [B] and the cache."""
    decoder = Decoder(config, dtype)
    out: Any = decoder.apply({"params": params}, tokens, valid=valid, cache=cache)
    logits, cache = out
    return jnp.argmax(logits[:, -1], axis=-1).astype(jnp.int32), cache


def greedy(
    params: Params,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_tokens: Collection[int] = (),
    dtype: Any = jnp.float32,
) -> list[list[int]]:
    """Continue each prompt with the likeliest token, again and again.

    Prompts of different lengths share a batch: they are padded on the left, and padding is masked.

    Args:
        params: The model's parameters.
        config: The model.
        prompts: Token ids of each prompt; none may be empty.
        max_new_tokens: How many tokens to add at most.
        stop_tokens: A sequence ends before any of these.
        dtype: Compute dtype.

    Returns:
        The new tokens of each prompt, without prompt and stop token.

    Raises:
        ValueError: A prompt is empty.
    """
    if not prompts or max_new_tokens < 1:
        return [[] for _ in prompts]
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt is empty; give each at least one token (bos)")
    lengths = np.array([len(prompt) for prompt in prompts])
    sequences = [list(map(int, prompt)) for prompt in prompts]
    slots = _round_up(int(lengths.max())) + _round_up(max_new_tokens)
    switch = -1
    if config.rope.kind == "longrope":
        # Sequences that cross this length switch their rotary factors: all of their keys change,
        # and are computed anew in slots that start at another multiple of the block.
        switch = config.rope.original_max_position_embeddings
        slots += _BLOCK
    stops = np.array(sorted(stop_tokens), np.int64)
    running = np.ones(len(prompts), bool)
    token, cache = _prefill(params, config, sequences, slots, dtype)
    for step in range(max_new_tokens):
        chosen = np.asarray(token)
        running &= ~np.isin(chosen, stops)
        for row in np.flatnonzero(running):
            sequences[row].append(int(chosen[row]))
        if not running.any() or step + 1 == max_new_tokens:
            break
        if np.any(running & (lengths + step == switch)):
            # Finished rows ride along at their final length; their tokens are no longer read.
            token, cache = _prefill(params, config, sequences, slots, dtype)
        else:
            token, cache = _extend(params, config, token[:, None], None, cache, dtype)
    return [sequence[length:] for sequence, length in zip(sequences, lengths)]


def _round_up(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _prefill(
    params: Params, config: ModelConfig, sequences: list[list[int]], slots: int, dtype: Any
) -> tuple[jax.Array, Cache]:
    """A new cache that holds the sequences, padded on the left, and their next tokens."""
    width = _round_up(max(map(len, sequences)))
    tokens = np.zeros((len(sequences), width), np.int32)
    valid = np.zeros((len(sequences), width), bool)
    for row, sequence in enumerate(sequences):
        tokens[row, width - len(sequence) :] = sequence
        valid[row, width - len(sequence) :] = True
    cache = empty_cache(config, len(sequences), slots, dtype)
    return _extend(params, config, tokens, valid, cache, dtype)
