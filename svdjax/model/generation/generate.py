"""Continuous batching: requests enter a batch as rows become free, and leave it when they end.

The host hands out rows and reads tokens a few steps at a time; all else happens on the devices
(see `state`). What is compiled depends on the batch size, on a handful of prompt lengths, and on a
handful of cache sizes: lengths are rounded up (`bucket`), and the cache, laid out in advance for
the next steps, doubles when sequences outgrow it.

Axes: `B` rows of the batch, `G` rows that enter together, `T` time.
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
    Rule,
    decode,
    empty_cache,
    empty_rows,
    grown,
    insert,
    prefill,
    settled,
)
from svdjax.model.placing import ROWS, decoder_mesh, place, sharding

# Steps between two looks of the host.
_STRIDE = 16
_LEAST_SLOTS = 128
# Prompt tokens that are prefilled at once.
_PREFILL_TOKENS = 8192


@dataclass(frozen=True)
class Request:
    """A sequence to be continued.

    Attributes:
        tokens: Token ids, at least one.
        max_new_tokens: How many may follow.
        stream: Number of its random stream; requests with equal streams draw equal numbers.
        stop_when: Asked now and then with the new tokens so far; True ends the request there.
    """

    tokens: Sequence[int]
    max_new_tokens: int
    stream: int = 0
    stop_when: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Completion:
    """A continued sequence.

    Attributes:
        index: Which request.
        tokens: The new tokens, without the stop token.
        stopped: It ended by itself, not by `max_new_tokens`.
    """

    index: int
    tokens: tuple[int, ...]
    stopped: bool


def bucket(length: int) -> int:
    """`length` rounded up to 32, or to a power of two or one and a half of one."""
    power = 1 << max(5, math.ceil(math.log2(max(length, 1))))
    between = power // 4 * 3
    return between if between >= max(length, 33) else power


class Generator:
    """A model on its devices, ready to continue any number of requests.

    Args:
        params: As `svdjax.checkpoint.load_params` gives them, host arrays of any float dtype; they
            are put on the devices layer by layer, in the compute dtype.
        config: The model.
        batch_size: Rows decoded together; rounded up to a multiple of the devices that share them.
        stop_tokens: A sequence ends before any of these.
        sampling: How tokens are chosen.
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
        parts = self.mesh.shape[ROWS]
        self.batch = -(-max(batch_size, 1) // parts) * parts
        self.stops = frozenset(int(token) for token in stop_tokens)
        self.sampling = sampling or Sampling()
        self._params = place(separate_layers(params), self.mesh, dtype)

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Continue all requests; each is yielded as soon as it ends, in no particular order.

        A request's tokens do not depend on the others.

        Raises:
            ValueError: A request has no tokens.
        """
        if not all(len(one.tokens) for one in requests):
            raise ValueError("a prompt is empty; give each at least one token (bos)")
        return _Run(self, requests).completions()

    @property
    def _how(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "drawing": self.sampling.temperature > 0}

    def _rule(self) -> Rule:
        # A few sizes only: the number of stop tokens is part of the compiled shape.
        stops = np.full(-(-max(len(self.stops), 1) // 8) * 8, -1, np.int32)
        stops[: len(self.stops)] = sorted(self.stops)
        how = self.sampling
        whole = sharding(self.mesh)
        values = (np.float32(how.temperature), np.float32(how.top_p), np.uint32(how.seed), stops)
        return Rule(*(jax.device_put(value, whole) for value in values))


class _Run:
    """One call of `Generator.run`: the batch, and which request sits where."""

    def __init__(self, generator: Generator, requests: Sequence[Request]):
        self.gen, self.requests = generator, requests
        self.new: list[list[int]] = [[] for _ in requests]
        # Short ones first: those that enter together are then about equally long.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].tokens))
        self.waiting = collections.deque(i for i in order if requests[i].max_new_tokens > 0)
        self.empty = [i for i in order if requests[i].max_new_tokens <= 0]
        self.seat: list[int | None] = [None] * generator.batch
        self.rule = generator._rule()
        self.slots = 0
        self.cache: Any = None
        self.rows = empty_rows(generator.mesh, generator.batch)

    def completions(self) -> Iterator[Completion]:
        for index in self.empty:
            yield Completion(index, (), False)
        while self.waiting or any(index is not None for index in self.seat):
            self._admit()
            yield from self._advance()

    def _admit(self) -> None:
        free = [row for row, index in enumerate(self.seat) if index is None]
        together = max(1, self.gen.batch // 4)
        # Waiting for a whole group costs idle rows, entering one by one a prefill each.
        while self.waiting and len(free) >= min(together, len(self.waiting)):
            length = self._length(self.waiting[0])
            most = max(1, min(together, _PREFILL_TOKENS // bucket(length)))
            members = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
            rows, free = free[: len(members)], free[len(members) :]
            self._enter(members, rows, most)

    def _enter(self, members: Sequence[int], rows: Sequence[int], group: int) -> None:
        """Prefill sequences, all in one call of `group` rows, and give them their rows."""
        width = bucket(max(self._length(i) for i in members))
        tokens = np.zeros((group, width), np.int32)
        lengths, drawn, left = (np.ones(group, np.int32) for _ in range(3))
        stream = np.zeros(group, np.uint32)
        where = np.full(group, self.gen.batch, np.int32)  # outside: padding of the group
        for line, (index, row) in enumerate(zip(members, rows)):
            sequence = self._tokens(index)
            tokens[line, : len(sequence)] = sequence
            lengths[line], drawn[line] = len(sequence), len(self.new[index])
            left[line] = self.requests[index].max_new_tokens - len(self.new[index]) - 1
            stream[line] = self.requests[index].stream
            where[line], self.seat[row] = row, index
        self._reserve(int(lengths.max()) + 1)
        gen = self.gen
        spread = ROWS if group % gen.mesh.shape[ROWS] == 0 else None
        tokens, lengths, drawn, left, stream, where = jax.device_put(
            (tokens, lengths, drawn, left, stream, where), sharding(gen.mesh, spread)
        )
        token, kept = prefill(
            gen._params, gen.config, tokens, lengths, self.rule, stream, drawn, **gen._how
        )
        new = Rows(token, lengths, left, left > 0, stream, drawn + 1)
        self.cache, self.rows = insert(
            gen.config, self.cache, self.rows, kept, self.rule, lengths, where, new
        )
        self._settle()
        for index, one in zip(members, np.asarray(token).tolist()):
            self.new[index].append(one)

    def _advance(self) -> Iterator[Completion]:
        seated = [index for index in self.seat if index is not None]
        steps = min(
            _STRIDE, max(self.requests[i].max_new_tokens - len(self.new[i]) for i in seated)
        )
        if steps > 0:
            self._reserve(max(self._length(i) for i in seated) + steps)
            gen = self.gen
            self.cache, self.rows, out = decode(
                gen._params,
                gen.config,
                self.cache,
                self.rows,
                self.rule,
                np.int32(steps),
                most=_STRIDE,
                **gen._how,
            )
            self._settle()
            for row, tokens in zip(self.seat, np.asarray(out).tolist()):
                if row is not None:
                    self.new[row] += [token for token in tokens if token >= 0]
        for row, index in enumerate(self.seat):
            if index is None:
                continue
            found = self._ended(index)
            if found is not None:
                self.seat[row] = None
                yield found
            elif self._turns(index):
                self.seat[row] = None
                self.waiting.appendleft(index)

    def _ended(self, index: int) -> Completion | None:
        request, new = self.requests[index], self.new[index]
        if new[-1] in self.gen.stops:
            return Completion(index, tuple(new[:-1]), True)
        if request.stop_when is not None and request.stop_when(new):
            return Completion(index, tuple(new), True)
        if len(new) >= request.max_new_tokens:
            return Completion(index, tuple(new), False)
        return None

    def _turns(self, index: int) -> bool:
        """Whether the next token is the first with longrope's long factors (see `state`)."""
        rope = self.gen.config.rope
        length = self._length(index)
        return rope.kind == "longrope" and length - 1 == rope.original_max_position_embeddings

    def _length(self, index: int) -> int:
        return len(self.requests[index].tokens) + len(self.new[index])

    def _tokens(self, index: int) -> list[int]:
        return [*self.requests[index].tokens, *self.new[index]]

    def _reserve(self, length: int) -> None:
        """Slots for sequences of `length` tokens."""
        if length <= self.slots:
            return
        self.slots = max(_LEAST_SLOTS, 1 << (length - 1).bit_length())
        gen = self.gen
        if self.cache is None:
            self.cache = empty_cache(gen.config, gen.mesh, gen.batch, self.slots, gen.dtype)
        else:
            self.cache = grown(self.cache, gen.config, self.slots)
            self._settle()

    def _settle(self) -> None:
        self.cache, self.rows = settled(self.cache, self.rows, self.gen.config, self.gen.mesh)


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
    generator = Generator(
        params,
        config,
        batch_size=min(64, max(1, len(prompts))),
        stop_tokens=stop_tokens,
        dtype=dtype,
    )
    found: list[list[int]] = [[] for _ in prompts]
    for one in generator.run([Request(prompt, max_new_tokens) for prompt in prompts]):
        found[one.index] = list(one.tokens)
    return found
