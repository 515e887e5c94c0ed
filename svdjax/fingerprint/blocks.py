"""Blocks of the suspect matched to those of the reference, whatever their order and number.

Axes: `L` layers of the reference, `M` layers of the suspect, `R` singular values.

From the singular values alone: they know nothing of rotations, orders and signs, and by themselves
say nothing about the singular vectors that the test then looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from svdjax.checkpoint.depth import assign_layers
from svdjax.spectral import top_count

Blocks = Sequence[tuple[int, int]]
"""Pairs (reference layer, suspect layer)."""
Spectra = Mapping[str, np.ndarray]
"""Singular values by projection, descending."""

# Logarithms of singular values of equal matrices stored in float32 differ by up to about 1e-6:
# below that, one pair is no nearer than another.
_ROUNDING = 1e-12


def assign_blocks(
    reference: Sequence[Spectra], suspect: Sequence[Spectra]
) -> list[tuple[int, int]]:
    """The pairs of blocks with the nearest singular values, in the order of the suspect.

    By `svdjax.checkpoint.depth.assign_layers` on `spectral_distance`.

    Args:
        reference: Singular values of each of L layers.
        suspect: Singular values of each of M layers.

    Returns:
        Pairs (reference layer, suspect layer), min(L, M) of them or M if that is more.
    """
    return assign_layers(np.array([[spectral_distance(a, b) for b in suspect] for a in reference]))


def spectral_distance(reference: Spectra, suspect: Spectra) -> float:
    """Logarithm of the variance of differences of log singular values, mean over the projections.

    The variance is of the top 90 % (the tails are what noise and rounding change most) and does not
    depend on a factor. Its logarithm is the likelihood of a normal difference whose variance each
    pair of matrices has for itself: pairs that agree outweigh any number that do not, so that a few
    copied blocks are found among unrelated ones.
    """
    logarithms = []
    for name, sigma in reference.items():
        top = top_count(len(sigma))
        difference = _logs(sigma[:top]) - _logs(suspect[name][:top])
        logarithms.append(np.log(np.var(difference) + _ROUNDING))
    return float(np.mean(logarithms))


def halves(blocks: Blocks) -> list[int]:
    """0 or 1 for each pair: blocks of the reference in turns, copies of one in the same half."""
    order = sorted({reference for reference, _ in blocks})
    return [order.index(reference) % 2 for reference, _ in blocks]


def _logs(sigma: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(sigma, 1e-12 * max(float(sigma[0]), 1e-300)))
