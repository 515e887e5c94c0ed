"""Which block of the suspect is which of the reference, where layers were left out.

Axes: `L` layers of the deeper model, `M` of the shallower one, `R` singular values.

From the singular values alone: they know nothing of rotations, orders and signs, and by themselves
say nothing about the singular vectors that the test then looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from svdjax.spectral import top_count

Spectra = Mapping[str, np.ndarray]


def match_depth(reference: Sequence[Spectra], suspect: Sequence[Spectra]) -> list[tuple[int, int]]:
    """Pairs (reference layer, suspect layer), both increasing, one for each layer of the shallower.

    Minimises the sum of `spectral_distance` over increasing choices of layers of the deeper model.

    Args:
      reference: singular values by projection, for each layer, descending.
      suspect: likewise.
    """
    if len(reference) == len(suspect):
        return [(layer, layer) for layer in range(len(reference))]
    if len(reference) < len(suspect):
        return [(a, b) for b, a in match_depth(suspect, reference)]
    costs = np.array([[spectral_distance(a, b) for b in suspect] for a in reference])
    return [(layer, i) for i, layer in enumerate(increasing(costs))]


def spectral_distance(one: Spectra, other: Spectra) -> float:
    """Mean squared difference of the logarithms of singular values, up to a factor per matrix.

    Of the top 90 %; the tails are what noise and rounding change most.
    """
    total = []
    for name, sigma in one.items():
        top = top_count(len(sigma))
        difference = _logs(sigma[:top]) - _logs(other[name][:top])
        total.append(np.var(difference))
    return float(np.mean(total))


def increasing(costs: np.ndarray) -> list[int]:
    """The increasing choice of a row for each column that has the least sum of costs [L, M]."""
    rows, columns = costs.shape
    best = np.full((rows + 1, columns + 1), np.inf)
    best[:, 0] = 0
    for i in range(1, rows + 1):
        for j in range(1, min(i, columns) + 1):
            best[i, j] = min(best[i - 1, j], best[i - 1, j - 1] + costs[i - 1, j - 1])
    chosen, i = [], rows
    for j in range(columns, 0, -1):
        while i > j and best[i - 1, j] <= best[i, j]:
            i -= 1
        chosen.append(i - 1)
        i -= 1
    return chosen[::-1]


def _logs(sigma: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(sigma, 1e-12 * max(float(sigma[0]), 1e-300)))
