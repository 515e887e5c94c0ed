"""Loss and KL in float64 numpy, written from their definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from svdjax.text.divergence import Divergence
from svdjax.text.texts import Rows

Logits = Callable[[np.ndarray], np.ndarray]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[..., V], float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(-1, keepdims=True)
    # The largest is 1; what is added to it may be too small to be seen in the sum.
    others = np.sort(np.exp(x), axis=-1)[..., :-1]
    return x - np.log1p(others.sum(-1, keepdims=True))


def random_rows(lengths: Sequence[int], seed: int = 0, vocabulary: int = 128) -> Rows:
    """Random tokens of which some seven in ten count, and the last one always."""
    rng = np.random.default_rng(seed)
    tokens = tuple(rng.integers(3, vocabulary, length).astype(np.int32) for length in lengths)
    weights = tuple((rng.random(length - 1) < 0.7).astype(np.float32) for length in lengths)
    for row in weights:
        row[-1] = 1.0
    return Rows(tokens, weights)


def expected(original: Logits, edited: Logits, rows: Rows) -> Divergence:
    """From two functions tokens [1, T] -> logits [1, T, V]; one row at a time, without padding."""
    sums = np.zeros(4)
    for tokens, weights in zip(rows.tokens, rows.weights):
        p, q = (log_softmax(each(tokens[None, :-1])[0]) for each in (original, edited))
        index = np.arange(len(weights))
        kl = np.sum(np.exp(p) * (p - q), axis=-1)
        same = p.argmax(-1) == q.argmax(-1)
        each = [-q[index, tokens[1:]], kl, same, -p[index, tokens[1:]]]
        sums += np.sum(weights * np.array(each), axis=1)
    count = int(sum(row.sum() for row in rows.weights))
    loss, kl, same, start = (sums / count).tolist()
    return Divergence(loss, kl, 100 * same, start, count)
