"""One form for all blocks that differ only in how scales are shared out between matrices.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim, `A` rotary
planes. `svdjax.fingerprint.matching` finds what the form leaves open: the order of neurons and
heads, the sign of a neuron, an orthogonal basis of each value head, a phase of each rotary plane.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from svdjax.fingerprint.layer import Layer

# Below this share of the largest eigenvalue a value head's basis is not balanced but only scaled:
# the balance would blow up what is rounding.
_LEAST = 1e-12


def canonical(layer: Layer) -> Layer:
    """The block with its scales shared out evenly, what it computes unchanged.

    - up and down: each neuron's column of up and row of down get the same norm;
    - v and o: the basis of each value head in which ``V^T V = sum_n O_n O_n^T``, over the query
      heads n of its group (any invertible H x H change of basis is undone up to a rotation);
    - q and k: each rotary plane of a kv head gets the norm of the mean query head of its group;
      where each head is normalised by itself, only its norm is free, and becomes 1.

    Norm scales are folded in by `svdjax.fingerprint.layer.read_layer`.
    """
    up, down = _balanced_neurons(layer.up, layer.down)
    v, o = _balanced_values(layer.v, layer.o)
    q, k = layer.q, layer.k
    if layer.qk_norm == "head":
        q, k = _unit_heads(q), _unit_heads(k)
    elif not layer.qk_norm:
        q, k = _balanced_planes(q, k, layer.planes)
    return dataclasses.replace(layer, q=q, k=k, v=v, o=o, up=up, down=down)


def _balanced_neurons(up: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factor = np.sqrt(_ratio(np.linalg.norm(down, axis=1), np.linalg.norm(up, axis=0)))
    return up * factor[None, :], down / factor[:, None]


def _ratio(size: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``size / other``, 1 where either is 0."""
    return np.divide(size, other, out=np.ones_like(other), where=(size > 0) & (other > 0))


def _balanced_values(v: np.ndarray, o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``V M`` and ``M^-1 O`` with M M^T = A^-1 # B, the geometric mean; A = V^T V, B = O O^T.

    S = A^-1 # B is the positive solution of S A S = B; so M^T A M = M^-1 B M^-T.
    """
    # Dimension by dimension first: scales far apart would drown the small ones in A and B.
    sizes = np.sqrt(np.sum(o**2, axis=(1, 3))), np.sqrt(np.sum(v**2, axis=0))  # [K, H]
    factor = np.sqrt(_ratio(*sizes))
    v, o = v * factor[None], o / factor[:, None, :, None]
    for head in range(v.shape[1]):
        a = v[:, head].T @ v[:, head]
        b = np.einsum("ghd,ged->he", o[head], o[head])
        m, inverse = _balance(a, b)
        v[:, head] = v[:, head] @ m
        o[head] = np.einsum("he,ged->ghd", inverse, o[head])
    return v, o


def _balance(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(a)
    least = min(values[0] / values[-1] if values[-1] > 0 else 0.0, _spread(b))
    if least < _LEAST:
        both = np.trace(a) > 0 and np.trace(b) > 0
        scale = (np.trace(b) / np.trace(a)) ** 0.25 if both else 1.0
        return scale * np.eye(len(a)), np.eye(len(a)) / scale
    root = (vectors * np.sqrt(values)) @ vectors.T
    back = (vectors / np.sqrt(values)) @ vectors.T
    s = back @ _power(root @ b @ root, 0.5) @ back
    return _power(s, 0.5), _power(s, -0.5)


def _spread(matrix: np.ndarray) -> float:
    values = np.linalg.eigvalsh(matrix)
    return values[0] / values[-1] if values[-1] > 0 else 0.0


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 1e-300) ** exponent) @ vectors.T


def _unit_heads(w: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.sum(w**2, axis=(0, -1), keepdims=True))
    return np.divide(w, size, out=np.zeros_like(w), where=size > 0)


def _balanced_planes(q: np.ndarray, k: np.ndarray, planes: int) -> tuple[np.ndarray, np.ndarray]:
    queries = np.mean(np.sum(q**2, axis=0), axis=1)  # [K, H]
    keys = np.sum(k**2, axis=0)
    rotary = slice(0, 2 * planes)
    for power in (queries, keys):
        pairs = power[:, rotary].reshape(len(power), 2, planes).sum(axis=1)
        power[:, rotary] = np.tile(pairs, (1, 2))
    factor = _ratio(queries, keys) ** 0.25
    return q / factor[None, :, None, :], k * factor[None]
