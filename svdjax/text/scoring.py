"""Log-likelihoods of continuations under a decoder, batched on the devices.

Axes: `B` batch, `T` time, `N` scored tokens of a row, `V` vocabulary.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from svdjax.checkpoint import ModelConfig
from svdjax.model import decoder_mesh, forward
from svdjax.model.generation.generate import bucket
from svdjax.model.placing import ROWS, place, sharding
from svdjax.text.likelihood import log_probabilities

# Logits of one batch, in float32, where the caller leaves the number of rows open.
_BATCH_BYTES = 256 << 20
_MOST_ROWS = 64
_LEAST_SLOTS = 8


class Score(NamedTuple):
    """What a model thinks of a continuation.

    Attributes:
        index: Which request.
        log_likelihood: `sum of log p(token | all before)` over the continuation, nats; NaN where
            a logit is not finite.
        is_greedy: Every token is the likeliest one at its place (the first of equals).
    """

    index: int
    log_likelihood: float
    is_greedy: bool


@dataclass
class _Row:
    """A sequence the model reads, and what is asked of it: (position, next token)."""

    tokens: tuple[int, ...]
    slots: list[tuple[int, int]] = field(default_factory=list)
    # (request, its first slot, how many).
    asked: list[tuple[int, int, int]] = field(default_factory=list)


class Scorer:
    """A model on its devices, ready to score continuations.

    Requests that make the model read the same tokens, such as the one-letter answers to a
    question, share a row. Rows are batched by length, padded to a handful of lengths (`bucket`),
    and every batch of one length has the same number of rows, so that few shapes are compiled.

    Args:
        params: As `svdjax.checkpoint.load_params` gives them.
        config: The model.
        batch_size: Rows read together, rounded up to a multiple of the devices that share them; 0:
            as many as have 256 MB of float32 logits, at most 64.
        mesh: From `decoder_mesh`; None: the first device.
        dtype: Compute dtype; softmax and sums are float32 in any case.
    """

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        *,
        batch_size: int = 0,
        mesh: Mesh | None = None,
        dtype: Any = jnp.float32,
    ):
        self.config, self.batch_size, self.dtype = config, batch_size, dtype
        self.mesh = decoder_mesh(1) if mesh is None else mesh
        self._params = place(params, self.mesh, dtype)

    def run(self, requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[Score]:
        """Score all requests, the longest first; each is yielded as soon as it is known.

        Args:
            requests: (context, continuation) token ids, at least one of each.

        Raises:
            ValueError: A context or a continuation is empty.
        """
        rows = sorted(_rows(requests), key=lambda row: (-len(row.tokens), row.tokens))
        for width, members in itertools.groupby(rows, key=lambda row: bucket(len(row.tokens))):
            size = self._size(width)
            for some in _chunks(members, size):
                yield from self._score(some, size, width)

    def _size(self, width: int) -> int:
        most = _BATCH_BYTES // (4 * width * self.config.vocab_size)
        size = self.batch_size or min(max(most, 1), _MOST_ROWS)
        parts = self.mesh.shape[ROWS]
        return -(-size // parts) * parts

    def _score(self, rows: Sequence[_Row], size: int, width: int) -> Iterator[Score]:
        """Score one batch of `size` rows and `width` tokens."""
        slots = _slots(max(len(row.slots) for row in rows), width)
        tokens = np.zeros((size, width), np.int32)
        lengths = np.ones(size, np.int32)
        at, targets = (np.zeros((size, slots), np.int32) for _ in range(2))
        for line, row in enumerate(rows):
            # Padded with a token of its own: even a masked key spreads a NaN of its embedding.
            tokens[line] = row.tokens[0]
            tokens[line, : len(row.tokens)] = row.tokens
            lengths[line] = len(row.tokens)
            at[line, : len(row.slots)], targets[line, : len(row.slots)] = zip(*row.slots)
        arrays = jax.device_put((tokens, lengths, at, targets), sharding(self.mesh, ROWS))
        logs, likeliest = map(
            np.asarray, _next_tokens(self._params, self.config, *arrays, dtype=self.dtype)
        )
        for line, row in enumerate(rows):
            for index, start, count in row.asked:
                part = slice(start, start + count)
                total = logs[line, part].sum(dtype=np.float64)
                yield Score(index, float(total), bool(likeliest[line, part].all()))


def _rows(requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Row]:
    """The rows that answer all requests; a row has no more slots than its bucket is long."""
    rows: list[_Row] = []
    reading: dict[tuple[int, ...], _Row] = {}
    for index, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise ValueError("a context or continuation is empty; give each at least one token")
        tokens, count = (*context, *continuation[:-1]), len(continuation)
        row = reading.get(tokens)
        if row is None or len(row.slots) + count > bucket(len(tokens)):
            row = reading[tokens] = _Row(tokens)
            rows.append(row)
        row.asked.append((index, len(row.slots), count))
        row.slots += zip(range(len(tokens) - count, len(tokens)), continuation)
    return rows


def _chunks(rows: Iterator[_Row], size: int) -> Iterator[list[_Row]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _slots(count: int, width: int) -> int:
    """`count` rounded up to 8, 32, 128, …, but not above `width`."""
    slots = _LEAST_SLOTS
    while slots < count:
        slots *= 4
    return min(slots, width)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _next_tokens(
    params: Any,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    at: jax.Array,
    targets: jax.Array,
    *,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of `targets` [B, N] after the positions `at` [B, N] of tokens [B, T].

    Returns:
        [B, N] float32, and whether they are the likeliest tokens, [B, N] bool.
    """
    # Causal masks hide padding on the right by themselves, but longrope looks at the last position.
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    logits = forward(params, config, tokens, valid, dtype=dtype)
    logits = jnp.take_along_axis(logits, at[..., None], axis=1)
    log = log_probabilities(logits)
    found = jnp.take_along_axis(log, targets[..., None], axis=-1)[..., 0]
    return found, jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets
