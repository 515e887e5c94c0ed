"""Which neuron of the suspect is which of the reference: assignment on cosines of weights.

Axes: `D` model, `F` ffn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from svdjax.fingerprint.layer import Layer


class Neurons(NamedTuple):
    """Which neurons of the suspect stand where those of the reference are.

    Attributes:
      order: [F].
      signs: [F], 1 or -1: by which up and down are both multiplied.
    """

    order: np.ndarray
    signs: np.ndarray


def match_neurons(reference: Layer, suspect: Layer) -> dict[str, Neurons]:
    """An order of the neurons for each of gate, up and down, found from the other two.

    A neuron's cosines with another are added up over the two matrices. Up and down may both have
    changed sign (act(g) * (-u) times -d is the same), gate may not.

    Args:
      reference: with norms folded in, scales balanced.
      suspect: likewise, in the residual basis of the reference.
    """
    vectors = [
        (unit_rows(one.gate.T), unit_rows(one.up.T), unit_rows(one.down))
        for one in (reference, suspect)
    ]
    tables = [np.asarray(each) for each in _tables(*vectors)]
    found = {}
    for name, table in zip(("gate_proj", "up_proj", "down_proj"), tables):
        order = assign(table)
        signs = np.ones(len(order))
        if name != "gate_proj":
            part = 2 if name == "up_proj" else 1
            cosines = np.einsum("fd,fd->f", vectors[0][part], vectors[1][part][order])
            signs = np.where(cosines < 0, -1.0, 1.0)
        found[name] = Neurons(order, signs)
    return found


def assign(table: np.ndarray) -> np.ndarray:
    """The permutation of columns that maximises the sum of the chosen entries, [F].

    Where the best entries of all rows lie in different columns they are the optimum; else it is
    scipy's `linear_sum_assignment`.
    """
    best = table.argmax(axis=1)
    if len(np.unique(best)) == len(best):
        return best
    return linear_sum_assignment(table, maximize=True)[1]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of a matrix at length 1, in float32; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit.astype(np.float32)


@jax.jit
def _tables(one, other):
    gate, up, down = (
        jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) for a, b in zip(one, other)
    )
    return jnp.abs(up + down), gate + jnp.abs(down), gate + jnp.abs(up)
