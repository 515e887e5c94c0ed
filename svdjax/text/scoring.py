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
from svdjax.model.sharding import ROWS, named_sharding, shard_params
from svdjax.text.likelihood import log_probabilities

# Logits of one batch, in float32, where the caller leaves the number of rows open.
_BATCH_BYTES = 256 << 20
_MOST_ROWS = 64
_LEAST_TARGETS = 8


class ScoredContinuation(NamedTuple):
    """Likelihood of a continuation under a model.

    Attributes:
        index: Position of its request.
        log_likelihood: `sum of log p(token | all before)` over the continuation, nats; NaN where
            a logit is not finite.
        is_greedy: Whether every token is the likeliest one at its position (the first of equals).
    """

    index: int
    log_likelihood: float
    is_greedy: bool


@dataclass
class _Row:
    """A sequence the model reads, and its scored targets.

    Attributes:
        tokens: Token ids.
        targets: (position, next token).
        requests: (index of the request, its first target, number of targets).
    """

    tokens: tuple[int, ...]
    targets: list[tuple[int, int]] = field(default_factory=list)
    requests: list[tuple[int, int, int]] = field(default_factory=list)


class Scorer:
    """Log-likelihoods of continuations under a model on its devices.

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
        self._params = shard_params(params, self.mesh, dtype)

    def run(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[ScoredContinuation]:
        """Scores all requests, the longest first; yields each as soon as it is known.

        Args:
            requests: (context, continuation) token ids, at least one of each.

        Raises:
            ValueError: A context or a continuation is empty.
        """
        rows = sorted(_rows(requests), key=lambda row: (-len(row.tokens), row.tokens))
        for width, members in itertools.groupby(rows, key=lambda row: bucket(len(row.tokens))):
            size = self._batch_size(width)
            while batch := list(itertools.islice(members, size)):
                yield from self._score(batch, size, width)

    def _batch_size(self, width: int) -> int:
        fitting = _BATCH_BYTES // (4 * width * self.config.vocab_size)
        size = self.batch_size or min(max(fitting, 1), _MOST_ROWS)
        shards = self.mesh.shape[ROWS]
        return -(-size // shards) * shards

    def _score(self, rows: Sequence[_Row], size: int, width: int) -> Iterator[ScoredContinuation]:
        """Scores one batch of `size` rows and `width` tokens."""
        count = _target_count(max(len(row.targets) for row in rows), width)
        tokens = np.zeros((size, width), np.int32)
        lengths = np.ones(size, np.int32)
        positions, targets = (np.zeros((size, count), np.int32) for _ in range(2))
        for line, row in enumerate(rows):
            # Padded with a token of its own: even a masked key spreads a NaN of its embedding.
            tokens[line] = row.tokens[0]
            tokens[line, : len(row.tokens)] = row.tokens
            lengths[line] = len(row.tokens)
            scored = slice(len(row.targets))
            positions[line, scored], targets[line, scored] = zip(*row.targets)
        arrays = jax.device_put(
            (tokens, lengths, positions, targets), named_sharding(self.mesh, ROWS)
        )
        logs, likeliest = map(
            np.asarray, _next_tokens(self._params, self.config, *arrays, dtype=self.dtype)
        )
        for line, row in enumerate(rows):
            for index, start, length in row.requests:
                scored = slice(start, start + length)
                total = logs[line, scored].sum(dtype=np.float64)
                yield ScoredContinuation(index, float(total), bool(likeliest[line, scored].all()))


def _rows(requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Row]:
    """Rows that serve all requests; a row has no more targets than its bucket is long."""
    rows: list[_Row] = []
    open_rows: dict[tuple[int, ...], _Row] = {}
    for index, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise ValueError("a context or continuation is empty; give each at least one token")
        tokens, count = (*context, *continuation[:-1]), len(continuation)
        row = open_rows.get(tokens)
        if row is None or len(row.targets) + count > bucket(len(tokens)):
            row = open_rows[tokens] = _Row(tokens)
            rows.append(row)
        row.requests.append((index, len(row.targets), count))
        row.targets += zip(range(len(tokens) - count, len(tokens)), continuation)
    return rows


def _target_count(count: int, width: int) -> int:
    """`count` rounded up to 8, 32, 128, …, but not above `width`."""
    rounded = _LEAST_TARGETS
    while rounded < count:
        rounded *= 4
    return min(rounded, width)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _next_tokens(
    params: Any,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    positions: jax.Array,
    targets: jax.Array,
    *,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of `targets` [B, N] after `positions` [B, N] of tokens [B, T].

    Returns:
        [B, N] float32, and whether they are the likeliest tokens, [B, N] bool.
    """
    # Causal masks hide padding on the right by themselves, but longrope looks at the last position.
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    logits = forward(params, config, tokens, valid, dtype=dtype)
    logits = jnp.take_along_axis(logits, positions[..., None], axis=1)
    log = log_probabilities(logits)
    log = jnp.take_along_axis(log, targets[..., None], axis=-1)[..., 0]
    return log, jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets
