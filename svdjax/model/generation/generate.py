"""Continuous batching: requests enter a batch as rows become free, and leave it when they end.

The host hands out rows and reads tokens a few steps at a time; all else happens on the devices
(`state`). Programs are compiled for the batch size, a handful of prompt lengths and a handful of
cache sizes: lengths are rounded up (`bucket`), and the cache, reserved in advance for the next
steps, doubles when sequences outgrow it.

Axes: `B` rows of the batch, `G` rows that are prefilled together, `T` time.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from svdjax.checkpoint.config import ModelConfig
from svdjax.model.decoder import Params, separate_layers
from svdjax.model.generation.sampling import Sampling
from svdjax.model.generation.state import (
    Rows,
    SamplingArrays,
    decode,
    empty_cache,
    empty_rows,
    grow,
    insert,
    prefill,
    reshard,
)
from svdjax.model.sharding import ROWS, decoder_mesh, named_sharding, shard_params

_STRIDE = 16  # decoding steps between two reads of the host
_LEAST_SLOTS = 128
_PREFILL_TOKENS = 8192  # prompt tokens of one prefill


@dataclass(frozen=True)
class Request:
    """A sequence to be continued.

    Attributes:
        tokens: Token ids, at least one.
        max_new_tokens: Number of tokens that may follow.
        stream: Number of its random stream; requests with equal streams draw equal numbers.
        stop_when: Called now and then with the new tokens so far; True ends the request there.
    """

    tokens: Sequence[int]
    max_new_tokens: int
    stream: int = 0
    stop_when: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Completion:
    """A continued sequence.

    Attributes:
        index: Position of its request.
        tokens: The new tokens, without the stop token.
        stopped: Whether it ended by itself, not by `max_new_tokens`.
    """

    index: int
    tokens: tuple[int, ...]
    stopped: bool


def bucket(length: int) -> int:
    """`length` rounded up to 32, or to a power of two or one and a half of one."""
    power = 1 << max(5, math.ceil(math.log2(max(length, 1))))
    three_quarters = power // 4 * 3
    return three_quarters if three_quarters >= max(length, 33) else power


class Generator:
    """Continuations of any number of requests by a model on its devices.

    Args:
        params: As `svdjax.checkpoint.load_params` gives them, host arrays of any float dtype; they
            are put on the devices layer by layer, in the compute dtype.
        config: The model.
        batch_size: Rows decoded together; rounded up to a multiple of the devices that share them.
        stop_tokens: A sequence ends before any of these.
        sampling: Sampling parameters; greedy by default.
        mesh: From `decoder_mesh`; None: the first device.
        dtype: Compute dtype.
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        *,
        batch_size: int = 32,
        stop_tokens: Collection[int] = (),
        sampling: Sampling | None = None,
        mesh: Mesh | None = None,
        dtype: Any = jnp.float32,
    ):
        self.config, self.dtype = config, dtype
        self.mesh = decoder_mesh(1) if mesh is None else mesh
        shards = self.mesh.shape[ROWS]
        self.batch = -(-max(batch_size, 1) // shards) * shards
        self.stops = frozenset(int(token) for token in stop_tokens)
        self.sampling = sampling or Sampling()
        self._params = shard_params(separate_layers(params), self.mesh, dtype)

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Continues all requests; yields each as soon as it ends, in no particular order.

        A request's tokens do not depend on the others.

        Raises:
            ValueError: A request has no tokens.
        """
        if not all(len(request.tokens) for request in requests):
            raise ValueError("a prompt is empty; give each at least one token (bos)")
        return _Batch(self, requests).completions()

    @property
    def _static(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "do_sample": self.sampling.temperature > 0}

    def _sampling_arrays(self) -> SamplingArrays:
        # A few sizes only: the number of stop tokens is part of the compiled shape.
        stops = np.full(-(-max(len(self.stops), 1) // 8) * 8, -1, np.int32)
        stops[: len(self.stops)] = sorted(self.stops)
        s = self.sampling
        values = (np.float32(s.temperature), np.float32(s.top_p), np.uint32(s.seed), stops)
        return SamplingArrays(*jax.device_put(values, named_sharding(self.mesh)))


class _Batch:
    """One call of `Generator.run`: the batch, and the request in each of its rows."""

    def __init__(self, generator: Generator, requests: Sequence[Request]):
        self.gen, self.requests = generator, requests
        self.new: list[list[int]] = [[] for _ in requests]
        # Short ones first: requests that are prefilled together are then about equally long.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].tokens))
        self.waiting = collections.deque(i for i in order if requests[i].max_new_tokens > 0)
        self.empty = [i for i in order if requests[i].max_new_tokens <= 0]
        self.row_request: list[int | None] = [None] * generator.batch
        self.sampling = generator._sampling_arrays()
        self.slots = 0
        self.cache: Any = None
        self.rows = empty_rows(generator.mesh, generator.batch)

    def completions(self) -> Iterator[Completion]:
        for index in self.empty:
            yield Completion(index, (), False)
        while self.waiting or any(index is not None for index in self.row_request):
            self._admit()
            yield from self._decode()

    def _admit(self) -> None:
        free = [row for row, index in enumerate(self.row_request) if index is None]
        group = max(1, self.gen.batch // 4)
        # Waiting for a whole group costs idle rows, admitting one by one a prefill each.
        while self.waiting and len(free) >= min(group, len(self.waiting)):
            length = self._length(self.waiting[0])
            size = max(1, min(group, _PREFILL_TOKENS // bucket(length)))
            members = [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]
            rows, free = free[: len(members)], free[len(members) :]
            self._prefill(members, rows, size)

    def _prefill(self, members: Sequence[int], rows: Sequence[int], size: int) -> None:
        """Prefills requests in one call of `size` sequences, and gives them their rows."""
        width = bucket(max(self._length(i) for i in members))
        tokens = np.zeros((size, width), np.int32)
        lengths, draws, remaining = (np.ones(size, np.int32) for _ in range(3))
        stream = np.zeros(size, np.uint32)
        row_index = np.full(size, self.gen.batch, np.int32)  # outside: padding of the group
        for line, (index, row) in enumerate(zip(members, rows)):
            sequence = [*self.requests[index].tokens, *self.new[index]]
            tokens[line, : len(sequence)] = sequence
            lengths[line], draws[line] = len(sequence), len(self.new[index])
            remaining[line] = self.requests[index].max_new_tokens - len(self.new[index]) - 1
            stream[line] = self.requests[index].stream
            row_index[line], self.row_request[row] = row, index
        self._reserve(int(lengths.max()) + 1)
        gen = self.gen
        axis = ROWS if size % gen.mesh.shape[ROWS] == 0 else None
        tokens, lengths, draws, remaining, stream, row_index = jax.device_put(
            (tokens, lengths, draws, remaining, stream, row_index), named_sharding(gen.mesh, axis)
        )
        token, kv = prefill(
            gen._params, gen.config, tokens, lengths, self.sampling, stream, draws, **gen._static
        )
        new = Rows(token, lengths, remaining, remaining > 0, stream, draws + 1)
        self.cache, self.rows = insert(
            gen.config, self.cache, self.rows, kv, self.sampling, lengths, row_index, new
        )
        self._reshard()
        for index, next_token in zip(members, np.asarray(token).tolist()):
            self.new[index].append(next_token)

    def _decode(self) -> Iterator[Completion]:
        running = [index for index in self.row_request if index is not None]
        steps = min(
            _STRIDE, max(self.requests[i].max_new_tokens - len(self.new[i]) for i in running)
        )
        if steps > 0:
            self._reserve(max(self._length(i) for i in running) + steps)
            gen = self.gen
            self.cache, self.rows, tokens = decode(
                gen._params,
                gen.config,
                self.cache,
                self.rows,
                self.sampling,
                np.int32(steps),
                max_steps=_STRIDE,
                **gen._static,
            )
            self._reshard()
            for index, row in zip(self.row_request, np.asarray(tokens).tolist()):
                if index is not None:
                    self.new[index] += [token for token in row if token >= 0]
        for row, index in enumerate(self.row_request):
            if index is None:
                continue
            completion = self._completion(index)
            if completion is not None:
                self.row_request[row] = None
                yield completion
            elif self._changes_rope(index):
                self.row_request[row] = None
                self.waiting.appendleft(index)

    def _completion(self, index: int) -> Completion | None:
        request, new = self.requests[index], self.new[index]
        if new[-1] in self.gen.stops:
            return Completion(index, tuple(new[:-1]), True)
        if request.stop_when is not None and request.stop_when(new):
            return Completion(index, tuple(new), True)
        if len(new) >= request.max_new_tokens:
            return Completion(index, tuple(new), False)
        return None

    def _changes_rope(self, index: int) -> bool:
        """Whether the next token is the first with longrope's long factors."""
        rope = self.gen.config.rope
        length = self._length(index)
        return rope.kind == "longrope" and length - 1 == rope.original_max_position_embeddings

    def _length(self, index: int) -> int:
        return len(self.requests[index].tokens) + len(self.new[index])

    def _reserve(self, length: int) -> None:
        """Makes room in the cache for sequences of `length` tokens."""
        if length <= self.slots:
            return
        self.slots = max(_LEAST_SLOTS, 1 << (length - 1).bit_length())
        gen = self.gen
        if self.cache is None:
            self.cache = empty_cache(gen.config, gen.mesh, gen.batch, self.slots, gen.dtype)
        else:
            self.cache = grow(self.cache, gen.config, self.slots)
            self._reshard()

    def _reshard(self) -> None:
        self.cache, self.rows = reshard(self.cache, self.rows, self.gen.config, self.gen.mesh)


def greedy(
    params: Params,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_tokens: Collection[int] = (),
    dtype: Any = jnp.float32,
) -> list[list[int]]:
    """Greedy continuations of prompts.

    Args:
        params: The model's parameters.
        config: The model.
        prompts: Token ids of each prompt; none may be empty.
        max_new_tokens: Number of tokens to add at most.
        stop_tokens: A sequence ends before any of these.
        dtype: Compute dtype.

    Returns:
        The new tokens of each prompt, without prompt and stop token.

    Raises:
        ValueError: A prompt is empty.
    """
    generator = Generator(
        params,
        config,
        batch_size=min(64, max(1, len(prompts))),
        stop_tokens=stop_tokens,
        dtype=dtype,
    )
    new: list[list[int]] = [[] for _ in prompts]
    for completion in generator.run([Request(prompt, max_new_tokens) for prompt in prompts]):
        new[completion.index] = list(completion.tokens)
    return new
