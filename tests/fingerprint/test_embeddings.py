"""Embeddings and heads: agreement from second moments against polar factors by their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svdjax.fingerprint.embeddings import EmbeddingSums, RowSums, Tokens
from svdjax.fingerprint.matching import nearest_rotation


def sums(reference: np.ndarray, suspect: np.ndarray) -> RowSums:
    halves = [(reference[half::2], suspect[half::2]) for half in (0, 1)]
    return RowSums(
        np.stack([r.T @ r for r, _ in halves]),
        np.stack([s.T @ s for _, s in halves]),
        np.stack([s.T @ r for r, s in halves]),
        (len(halves[0][0]), len(halves[1][0])),
    )


def ends(reference: np.ndarray, suspect: np.ndarray) -> EmbeddingSums:
    both = sums(reference, suspect)
    rows = np.arange(len(reference))
    return EmbeddingSums(Tokens((rows, rows), "row"), {"embeddings": both}, both.normalised())


def polar(w: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    live = s > 1e-10 * s[0]
    return u[:, live] @ vt[live]


def turn(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((width, width)))[0]


@pytest.mark.parametrize("count", [61, 12, 7])
@pytest.mark.parametrize("rotated", [False, True])
def test_agreement_of_rows_is_that_of_their_polar_factors(count, rotated):
    rng = np.random.default_rng(1)
    width = 12
    reference = rng.standard_normal((count, width))
    suspect = reference + 0.4 * rng.standard_normal((count, width))
    rotation = turn(rng, width) if rotated else None
    agreement = ends(reference, suspect).agreements(rotation)["embeddings"]
    moved = suspect if rotation is None else suspect @ rotation
    rank = min(count, width)
    # Gram matrices square condition numbers below 1e3: eps * 1e6 is left.
    trace = float(np.sum(polar(reference) * polar(moved)))
    assert agreement.trace == pytest.approx(trace, abs=1e-8)
    assert agreement.size == rank
    assert agreement.variance == pytest.approx(rank**2 / (count * width))
    if count >= width:
        inner = polar(moved).T @ polar(reference)
        expected = np.linalg.norm(inner - np.eye(width)) / width
        assert agreement.nf == pytest.approx(expected, abs=1e-8)
    else:
        assert math.isnan(agreement.nf)


def test_rows_of_low_rank_count_with_their_rank():
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((50, 4)) @ rng.standard_normal((4, 9))
    agreement = ends(reference, 3 * reference).agreements(None)["embeddings"]
    assert agreement.size == 4
    assert agreement.effect == pytest.approx(1, abs=1e-6)
    nothing = ends(np.zeros((5, 3)), np.zeros((5, 3))).agreements(None)["embeddings"]
    assert math.isnan(nothing.effect)


def test_each_half_of_the_tokens_is_judged_by_the_rotation_of_the_other():
    rng = np.random.default_rng(3)
    width = 8
    rotation = turn(rng, width)
    reference = rng.standard_normal((64, width))
    same = ends(reference, reference @ rotation.T)
    for agreement in same.agreements_in_halves()["embeddings"]:
        assert agreement.effect == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(same.rotation(), rotation, atol=1e-9)
    # Unrelated rows: what is fitted to one half says nothing in the other, z is N(0, 1), and the
    # mean of 200 lies within 4 / sqrt(200).
    z = []
    for _ in range(100):
        one, other = rng.standard_normal((2, 64, width))
        apart = ends(one, other)
        z += [agreement.z for agreement in apart.agreements_in_halves()["embeddings"]]
        # Fitted to all, it would be far off.
        assert apart.agreements(nearest_rotation(other.T @ one))["embeddings"].z > 2
    assert abs(np.mean(z)) < 4 / math.sqrt(200)
    assert np.std(z) < 1 + 4 / math.sqrt(400)
