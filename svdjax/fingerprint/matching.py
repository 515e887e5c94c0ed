"""Neurons and heads of the suspect matched to those of the reference, by their weights.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim, `A` rotary
planes, `E` experts.

Every choice is made for one tested matrix, and from other matrices than that one: neurons of gate
from up and down, of up from gate and down, of down from gate and up, and so experts, from the
router besides; heads of q and k from v and o,
and of v and o from q and k; the phases of q from k and of k from q, the bases of v from o and of o
from v. So the search cannot make unrelated matrices agree: given what the choice was made from, a
tested matrix that is independent of it is as random as before.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from svdjax.fingerprint.layer import Layer


class Heads(NamedTuple):
    """The suspect's heads in the order of the reference's.

    Attributes:
        groups: [K], the kv head of the suspect for each of the reference.
        within: [K, G], the query head within that group.
    """

    groups: np.ndarray
    within: np.ndarray

    def of_keys(self, w: np.ndarray) -> np.ndarray:
        """Keys or values [D, K, H] in this order."""
        return w[:, self.groups]

    def of_queries(self, q: np.ndarray) -> np.ndarray:
        """Queries [D, K, G, H] in this order."""
        return q[:, self.groups[:, None], self.within]

    def of_outputs(self, o: np.ndarray) -> np.ndarray:
        """Outputs [K, G, H, D] in this order."""
        return o[self.groups[:, None], self.within]


class Neurons(NamedTuple):
    """The suspect's neurons in the order of the reference's.

    Attributes:
        order: [F].
        signs: [F], 1 or -1, the factor of both up and down.
    """

    order: np.ndarray
    signs: np.ndarray


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
        router=None if layer.router is None else inward(layer.router),
    )


def nearest_rotation(product: np.ndarray) -> np.ndarray:
    """The orthogonal polar factors of a stack of square matrices: Procrustes' solutions."""
    u, _, vt = np.linalg.svd(product)
    return u @ vt


def match_heads(similarity: np.ndarray) -> Heads:
    """The best order of kv heads, and of query heads within them.

    Args:
        similarity: [K, G, K, G], of reference heads with suspect heads.
    """
    kv, group = similarity.shape[:2]
    values = np.empty((kv, kv))
    inner = np.empty((kv, kv, group), int)
    for i, j in np.ndindex(kv, kv):
        table = similarity[i, :, j]
        rows, columns = linear_sum_assignment(table, maximize=True)
        inner[i, j, rows] = columns
        values[i, j] = table[rows, columns].sum()
    _, groups = linear_sum_assignment(values, maximize=True)
    return Heads(groups, inner[np.arange(kv), groups])


def value_output_similarity(reference: Layer, suspect: Layer) -> np.ndarray:
    """Cosines of the products V O of all pairs of heads, [K, G, K, G].

    They do not depend on the bases of the value heads: tr((V O)^T V' O') of D x D matrices is
    sum((V^T V') * (O O'^T)) of H x H ones.
    """
    v = np.einsum("dkh,dle->klhe", reference.v, suspect.v, optimize=True)
    o = np.einsum("kghd,lmed->kglmhe", reference.o, suspect.o, optimize=True)
    products = np.einsum("klhe,kglmhe->kglm", v, o, optimize=True)

    def squares(layer: Layer) -> np.ndarray:
        v = np.einsum("dkh,dke->khe", layer.v, layer.v, optimize=True)
        o = np.einsum("kghd,kged->kghe", layer.o, layer.o, optimize=True)
        return np.einsum("khe,kghe->kg", v, o)

    return _cosines(products, squares(reference), squares(suspect))


def query_key_similarity(reference: Layer, suspect: Layer) -> np.ndarray:
    """Cosines of the scores that q and k of all pairs of heads compute, [K, G, K, G].

    Plane by plane as complex vectors, Re sum_j (q_j^H q'_j) conj(k_j^H k'_j): scores under the
    rotary embedding do not change when k_j is multiplied by c and q_j divided by conj(c), and
    neither does this. Dimensions that do not rotate are taken as they are.
    """
    (q, k), (other_q, other_k) = (
        (_complex(layer.q, layer.planes), _complex(layer.k, layer.planes))
        for layer in (reference, suspect)
    )
    queries = np.einsum("dkgj,dlmj->kglmj", q.conj(), other_q, optimize=True)
    keys = np.einsum("dkj,dlj->klj", k.conj(), other_k, optimize=True)
    products = np.einsum("kglmj,klj->kglm", queries, keys.conj(), optimize=True).real

    def squares(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        queries, keys = np.sum(np.abs(q) ** 2, axis=0), np.sum(np.abs(k) ** 2, axis=0)
        return np.einsum("kgj,kj->kg", queries, keys)

    return _cosines(products, squares(q, k), squares(other_q, other_k))


def _cosines(products: np.ndarray, squares: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = np.sqrt(squares[:, :, None, None] * other[None, None])
    return np.divide(products, size, out=np.zeros_like(products), where=size > 0)


def phases(w: np.ndarray, target: np.ndarray, planes: int) -> np.ndarray:
    """The unit complex number of each rotary plane that brings w nearest to target.

    Args:
        w: [D, K, H] keys or [D, K, G, H] queries (one phase then serves the heads of a group).
        target: Keys or queries of the reference, shaped as `w`.
        planes: A.

    Returns:
        [K, A + rest], 1 for the dimensions that do not rotate.
    """
    product = _complex(w, planes).conj() * _complex(target, planes)
    total = product.sum(axis=(0, *range(2, w.ndim - 1)))
    size = np.abs(total)
    unit = np.divide(total, size, out=np.ones_like(total), where=size > 0)
    unit[:, planes:] = 1
    return unit


def rotate_planes(w: np.ndarray, phases: np.ndarray, planes: int) -> np.ndarray:
    """The rotary planes of w [D, K, (G,) H] multiplied by phases."""
    product = _complex(w, planes) * phases
    real, imaginary = np.real(product), np.imag(product)
    parts = [real[..., :planes], imaginary[..., :planes], real[..., planes:]]
    return np.concatenate(parts, axis=-1)


def _complex(w: np.ndarray, planes: int) -> np.ndarray:
    """[..., H] as complex planes, then the dimensions that do not rotate, [..., A + rest]."""
    rotary = w[..., :planes] + 1j * w[..., planes : 2 * planes]
    return np.concatenate([rotary, w[..., 2 * planes :]], axis=-1)


def match_neurons(reference: Layer, suspect: Layer) -> tuple[Neurons, Neurons, Neurons]:
    """An order of the neurons for each of gate, up and down, found from the other two.

    A neuron's cosines with another are added up over the two matrices. Up and down may both have
    changed sign (act(g) * (-u) times -d is the same), gate may not.

    Args:
        reference: A block with norms folded in, scales balanced.
        suspect: Such a block, in the residual basis of the reference.
    """
    ours, theirs = (
        (unit_rows(layer.gate.T), unit_rows(layer.up.T), unit_rows(layer.down))
        for layer in (reference, suspect)
    )
    gate, up, down = _assign_neurons(reference, suspect, ours, theirs)

    def signs(part: int, order: np.ndarray) -> np.ndarray:
        cosines = np.einsum("fd,fd->f", ours[part], theirs[part][order])
        return np.where(cosines < 0, -1.0, 1.0)

    return (
        Neurons(gate, np.ones(len(gate))),
        Neurons(up, signs(2, up)),
        Neurons(down, signs(1, down)),
    )


def match_experts(reference: Layer, suspect: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order of the suspect's experts for each of gate, up and down, from the rest, [E] each.

    Cosines of the router's columns, less their mean over the experts (which the router's softmax
    does not see), and of how much of the other two matrices lies in each dimension of the residual
    stream, less the mean too: the order and the signs of an expert's neurons do not change these.
    """
    assert reference.router is not None
    count = reference.router.shape[1]

    def features(layer: Layer) -> list[np.ndarray]:
        assert layer.router is not None
        slices = layer.expert_slices[:count]
        energies = [
            np.array([np.sum(w[part] ** 2, axis=0) for part in slices])
            for w in (layer.gate.T, layer.up.T, layer.down)
        ]
        each = [layer.router.T, *map(np.sqrt, energies)]
        return [unit_rows(rows - rows.mean(axis=0)) for rows in each]

    router, *cosines = (a @ b.T for a, b in zip(features(reference), features(suspect)))
    gate, up, down = (
        assign(router + sum(table for k, table in enumerate(cosines) if k != part))
        for part in range(3)
    )
    return gate, up, down


def _assign_neurons(
    reference: Layer, suspect: Layer, ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]
) -> list[np.ndarray]:
    """Orders of the neurons for gate, up and down, [F] each: those of an expert stay together."""
    slices = reference.expert_slices
    own = np.arange(len(slices))
    orders = [own] * 3
    if reference.router is not None:
        found = match_experts(reference, suspect)
        orders = [np.concatenate([order, own[len(order) :]]) for order in found]
    result = [np.empty(len(reference.down), int) for _ in range(3)]
    for expert, place in enumerate(slices):
        tables: dict[int, tuple[jax.Array, ...]] = {}
        for part, order in enumerate(orders):
            other = int(order[expert])
            there = suspect.expert_slices[other]
            if other not in tables:
                sides = [w[place] for w in ours], [w[there] for w in theirs]
                tables[other] = _neuron_cosines(*map(tuple, sides))
            result[part][place] = there.start + assign(np.asarray(tables[other][part]))
    return result


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
def _neuron_cosines(vectors, others):
    gate, up, down = (
        jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) for a, b in zip(vectors, others)
    )
    return jnp.abs(up + down), gate + jnp.abs(down), gate + jnp.abs(up)
