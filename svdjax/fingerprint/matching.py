"""Which neuron and which head of the suspect is which of the reference, found from the weights.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim, `A` rotary
planes.

Every choice is made for one tested matrix, and from other matrices than that one (`tests` below):
neurons of gate from up and down, of up from gate and down, of down from gate and up; heads of q
and k from v and o, and of v and o from q and k; the phases of q from k and of k from q, the bases
of v from o and of o from v. So the search cannot make unrelated matrices agree: given what the
choice was made from, a tested matrix that is independent of it is as random as before.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from svdjax.fingerprint.layer import Layer


class Heads(NamedTuple):
    """Which heads of the suspect stand where those of the reference are.

    Attributes:
      groups: [K], the kv head of the suspect for each of the reference.
      within: [K, G], the query head within that group.
    """

    groups: np.ndarray
    within: np.ndarray


def rotated(layer: Layer, rotation: np.ndarray | None) -> Layer:
    """The block in the residual basis of the reference: in-sides R^T W, out-sides W R."""
    if rotation is None:
        return layer
    r = rotation

    def inward(w: np.ndarray) -> np.ndarray:
        return (r.T @ w.reshape(len(w), -1)).reshape(r.shape[1], *w.shape[1:])

    return dataclasses.replace(
        layer,
        q=inward(layer.q),
        k=inward(layer.k),
        v=inward(layer.v),
        o=layer.o @ r,
        gate=inward(layer.gate),
        up=inward(layer.up),
        down=layer.down @ r,
    )


def match_heads(similarity: np.ndarray) -> Heads:
    """Best order of kv heads, and of query heads within them.

    Args:
      similarity: [K, G, K, G], of reference heads with suspect heads.
    """
    kv, group = similarity.shape[:2]
    values = np.empty((kv, kv))
    inner = np.empty((kv, kv, group), int)
    for here in range(kv):
        for there in range(kv):
            table = similarity[here, :, there]
            rows, columns = linear_sum_assignment(table, maximize=True)
            inner[here, there, rows] = columns
            values[here, there] = table[rows, columns].sum()
    _, groups = linear_sum_assignment(values, maximize=True)
    return Heads(groups, inner[np.arange(kv), groups])


def value_output_similarity(reference: Layer, suspect: Layer) -> np.ndarray:
    """Cosines of the products V O of all pairs of heads, [K, G, K, G].

    They do not depend on the bases of the value heads: tr((V O)^T V' O') of D x D matrices is
    sum((V^T V') * (O O'^T)) of H x H ones.
    """

    def products(a: Layer, b: Layer) -> np.ndarray:
        left = np.einsum("dkh,dle->klhe", a.v, b.v, optimize=True)
        right = np.einsum("kghd,lmed->kglmhe", a.o, b.o, optimize=True)
        return np.einsum("klhe,kglmhe->kglm", left, right, optimize=True)

    return _cosines(products(reference, suspect), _own_products(reference), _own_products(suspect))


def query_key_similarity(reference: Layer, suspect: Layer) -> np.ndarray:
    """Cosines of what q and k of all pairs of heads compute, [K, G, K, G].

    Plane by plane as complex vectors, Re sum_j (q_j^H q'_j) conj(k_j^H k'_j): scores under the
    rotary embedding do not change when k_j is multiplied by c and q_j divided by conj(c), and
    neither does this. Dimensions that do not turn are taken as they are.
    """
    q, qs = _complex(reference.q, reference.planes), _complex(suspect.q, suspect.planes)
    k, ks = _complex(reference.k, reference.planes), _complex(suspect.k, suspect.planes)

    def products(q: np.ndarray, k: np.ndarray, qs: np.ndarray, ks: np.ndarray) -> np.ndarray:
        asked = np.einsum("dkgj,dlmj->kglmj", q.conj(), qs, optimize=True)
        told = np.einsum("dkj,dlj->klj", k.conj(), ks, optimize=True)
        return np.einsum("kglmj,klj->kglm", asked, told.conj(), optimize=True).real

    return _cosines(products(q, k, qs, ks), _own_planes(q, k), _own_planes(qs, ks))


def _own_products(layer: Layer) -> np.ndarray:
    left = np.einsum("dkh,dke->khe", layer.v, layer.v, optimize=True)
    right = np.einsum("kghd,kged->kghe", layer.o, layer.o, optimize=True)
    return np.einsum("khe,kghe->kg", left, right)


def _own_planes(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    asked = np.sum(np.abs(q) ** 2, axis=0)  # [K, G, A]
    told = np.sum(np.abs(k) ** 2, axis=0)  # [K, A]
    return np.einsum("kgj,kj->kg", asked, told)


def _cosines(products: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = np.sqrt(own[:, :, None, None] * other[None, None])
    return np.divide(products, size, out=np.zeros_like(products), where=size > 0)


def _complex(w: np.ndarray, planes: int) -> np.ndarray:
    """[..., H] as complex planes, then the dimensions that do not turn, [..., A + rest]."""
    turned = w[..., :planes] + 1j * w[..., planes : 2 * planes]
    return np.concatenate([turned, w[..., 2 * planes :]], axis=-1)


def _real(w: np.ndarray, planes: int) -> np.ndarray:
    real, imaginary = np.real(w), np.imag(w)
    parts = [real[..., :planes], imaginary[..., :planes], real[..., planes:]]
    return np.concatenate(parts, axis=-1)


def phases(w: np.ndarray, target: np.ndarray, planes: int) -> np.ndarray:
    """The unit complex number of each rotary plane that brings w nearest to target.

    Args:
      w: [D, K, H] keys or [D, K, G, H] queries (one phase then serves the heads of a group).
      target: likewise.
      planes: A.

    Returns:
      [K, A + rest], 1 for the dimensions that do not turn.
    """
    product = _complex(w, planes).conj() * _complex(target, planes)
    axes = (0, *range(2, w.ndim - 1))
    total = product.sum(axis=axes)
    size = np.abs(total)
    unit = np.divide(total, size, out=np.ones_like(total), where=size > 0)
    unit[:, planes:] = 1
    return unit


def turned(w: np.ndarray, turn: np.ndarray, planes: int) -> np.ndarray:
    """Multiply the rotary planes of w [D, K, (G,) H] by the phases."""
    return _real(_complex(w, planes) * turn, planes)


def nearest_rotation(product: np.ndarray) -> np.ndarray:
    """The orthogonal polar factors of a stack of square matrices: Procrustes' solutions."""
    u, _, vt = np.linalg.svd(product)
    return u @ vt
