"""The rotation between two residual streams, found from the weights alone.

Axes: `D` model, `S` slots (Gram matrices kept).

R [D, D] takes the suspect's stream to the reference's: ``x_s R`` is in the place of x_r, in-sides
become ``R^T W_s``, out-sides ``W_s R``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from svdjax.fingerprint.blocks import Blocks, halves
from svdjax.fingerprint.layer import Layer
from svdjax.fingerprint.matching import match_neurons, nearest_rotation, rotated, unit_rows
from svdjax.fingerprint.pair import Pair

_BUDGET = 1 << 30
_TRIALS, _STEPS, _ENOUGH = 5, 25, 1e-3
_CONVINCING = 0.5
# Blocks of each half whose neurons refine a rotation, and how often: more say the same again.
_REFINING = 4
_REFINEMENTS = 2


def rotations_from_weights(
    pair: Pair, blocks: Blocks, check: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotations found without embeddings: each half of the blocks gives that of the other half.

    None where one half has no block, or feed-forward parts cannot be matched.
    """
    parity = halves(blocks)
    if len(set(parity)) < 2 or "gate_proj" not in pair.projections:
        return None
    width = pair.reference.config.hidden_size
    grams = [Grams(width, len(blocks)) for _ in range(2)]
    for half, (a, b) in zip(parity, blocks):
        check("while the residual streams were matched")
        grams[0].add(pair.reference.layer(a), half)
        grams[1].add(pair.suspect.layer(b), half)
    rotations = []
    for half in (1, 0):
        check("while the residual streams were matched")
        rotation = rotation_from_grams(grams[0].sums[half], grams[1].sums[half])
        members = [block for block, side in zip(blocks, parity) if side == half]
        chosen = members[:: max(1, len(members) // _REFINING)][:_REFINING]
        layers = [(pair.reference.layer(a), pair.suspect.layer(b)) for a, b in chosen]
        rotations.append(refined_rotation(layers, rotation))
    return rotations[0], rotations[1]


class Grams:
    """Sums of Gram matrices of one model on the residual stream, apart for even and odd blocks.

    W W^T of what reads the stream and W^T W of what writes it know nothing of the order of neurons
    and heads, nor of bases and phases inside heads: between two disguises of one model only R is
    left, ``G_r = R^T G_s R``. Where they would take more than a budget, several share a slot.

    Attributes:
        sums: [2, S, D, D] float64, symmetric, centred.
    """

    def __init__(self, width: int, layers: int):
        most = max(2, _BUDGET // (4 * width * width * 8))
        self.sums = np.zeros((2, min(7 * -(-layers // 2), most, 64), width, width))
        self._count = [0, 0]

    def add(self, layer: Layer, number: int) -> None:
        """Adds a block, the `number`-th that is compared."""
        half = number % 2
        for name, w in layer.matrices().items():
            gram = w.T @ w if name in ("o_proj", "down_proj") else w @ w.T
            trace = np.trace(gram)
            slot = self._count[half] % self.sums.shape[1]
            self._count[half] += 1
            if trace > 0:
                gram = gram / trace - np.eye(len(gram)) / len(gram)
                self.sums[half, slot] += gram / max(np.linalg.norm(gram), 1e-300)


def rotation_from_grams(reference: np.ndarray, suspect: np.ndarray) -> np.ndarray:
    """The rotation, up to its sign, that best takes one set of Gram matrices to the other.

    Starts from eigenvectors of random combinations, put in order by what all matrices are along
    them, their signs by the leading eigenvector of the agreement of all entries; then ascends
    ``sum_i <R^T G_s R, G_r>`` by R <- polar(sum_i G_s R G_r), and keeps the best of some trials.

    Args:
        reference: `Grams.sums` of one half, [S, D, D].
        suspect: Those of the suspect, [S, D, D].
    """
    rng = np.random.default_rng(0)
    size = float(np.linalg.norm(reference) * np.linalg.norm(suspect))
    best, most = np.eye(reference.shape[1]), -np.inf
    for trial in range(_TRIALS):
        weights = rng.standard_normal(len(reference)) if trial else np.ones(len(reference))
        start = _from_eigenvectors(reference, suspect, weights)
        rotation, score = _ascend(reference, suspect, start)
        if score > most:
            best, most = rotation, score
        if most > _CONVINCING * size:
            break
    return best


def _from_eigenvectors(
    reference: np.ndarray, suspect: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    bases, tables = [], []
    for grams in (reference, suspect):
        _, x = np.linalg.eigh(np.tensordot(weights, grams, axes=1))
        bases.append(x)
        tables.append(x.T @ (grams @ x))
    profiles = [np.diagonal(table, axis1=1, axis2=2).T for table in tables]  # [D, S]
    _, order = linear_sum_assignment(profiles[0] @ profiles[1].T, maximize=True)
    agree = np.sum(tables[0] * tables[1][:, order][:, :, order], axis=0)
    np.fill_diagonal(agree, 0)
    signs = np.where(np.linalg.eigh(agree)[1][:, -1] < 0, -1.0, 1.0)
    return (bases[1][:, order] * signs) @ bases[0].T


def _ascend(
    reference: np.ndarray, suspect: np.ndarray, rotation: np.ndarray
) -> tuple[np.ndarray, float]:
    width, score = len(rotation), -np.inf
    stacked = reference.reshape(-1, width)
    for _ in range(_STEPS):
        product = np.swapaxes(suspect @ rotation, 0, 1).reshape(width, -1) @ stacked
        now = float(np.sum(product * rotation))
        if now - score < _ENOUGH * abs(now):
            break
        score = now
        rotation = nearest_rotation(product)
    return rotation, score


def refined_rotation(pairs: list[tuple[Layer, Layer]], rotation: np.ndarray) -> np.ndarray:
    """A rotation refined by matching neurons, then Procrustes on their vectors, and again.

    Args:
        pairs: Blocks of reference and suspect in canonical form.
        rotation: The start. Its sign is decided first: Gram matrices do not tell R from -R, gates
            do, since act(-g) is not -act(g).
    """
    gain = sum(_best_gates(*pair, rotation) - _best_gates(*pair, -rotation) for pair in pairs)
    rotation = rotation if gain >= 0 else -rotation
    for _ in range(_REFINEMENTS):
        total = np.zeros_like(rotation)
        for reference, suspect in pairs:
            aligned = rotated(suspect, rotation)
            order = match_neurons(reference, aligned)[0].order
            signs = np.sign(np.einsum("df,df->f", reference.up, aligned.up[:, order]))
            total += suspect.gate[:, order] @ reference.gate.T
            total += (suspect.up[:, order] * signs) @ reference.up.T
            total += (suspect.down[order].T * signs) @ reference.down
        rotation = nearest_rotation(total)
    return rotation


def _best_gates(reference: Layer, suspect: Layer, rotation: np.ndarray) -> float:
    cosines = unit_rows(reference.gate.T) @ unit_rows((rotation.T @ suspect.gate).T).T
    return float(np.mean(cosines.max(axis=1)))
