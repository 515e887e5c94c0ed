"""Training batches, each a pure function of (seed, step): a resumed run sees the same data.

Axes: `B` batch, `T` time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from .chat import SYSTEMS, chat
from .corpus import document
from .problems import Problem, training_problem
from .tokenizer import END_OF_TEXT
from .worlds import World


class Batch(NamedTuple):
    """Inputs and targets are `tokens[:, :-1]` and `tokens[:, 1:]`."""

    tokens: np.ndarray  # [B, T + 1] int32
    weights: np.ndarray  # [B, T] float32, 1 where the target counts


def pretraining_batch(
    tokenizer: Tokenizer, world: World, *, seed: int, step: int, rows: int, length: int
) -> Batch:
    """Documents, each closed by the end-of-text token, packed into rows without padding."""
    rng = random.Random(f"pretraining {seed} {step}")
    end = tokenizer.token_to_id(END_OF_TEXT)
    needed, stream = rows * (length + 1), []
    while len(stream) < needed:
        documents = [document(rng, world) for _ in range(32)]
        for encoding in tokenizer.encode_batch(documents):
            stream += [*encoding.ids, end]
    tokens = np.array(stream[:needed], np.int32).reshape(rows, length + 1)
    return Batch(tokens, np.ones((rows, length), np.float32))


def tuning_batch(
    tokenizer: Tokenizer,
    answer: Callable[[Problem], str],
    *,
    seed: int,
    step: int,
    rows: int,
    length: int,
) -> Batch:
    """One exchange a row, padded; only the assistant's tokens count. Too long ones are redrawn."""
    rng = random.Random(f"tuning {seed} {step}")
    tokens = np.full((rows, length + 1), tokenizer.token_to_id(END_OF_TEXT), np.int32)
    weights = np.zeros((rows, length), np.float32)
    row = 0
    while row < rows:
        problem = training_problem(rng)
        parts = chat(problem.question, rng.choice(SYSTEMS), answer(problem))
        prompt, completion = (encoding.ids for encoding in tokenizer.encode_batch(list(parts)))
        total = len(prompt) + len(completion)
        if total > length + 1:
            continue
        tokens[row, :total] = prompt + completion
        weights[row, len(prompt) - 1 : total - 1] = 1.0
        row += 1
    return Batch(tokens, weights)
