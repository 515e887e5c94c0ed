"""Two blocks compared: the suspect's polar factors brought to the place of the reference's.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim.

All that is applied here is orthogonal (a rotation of the residual stream, orders, signs, phases,
bases of value heads), so it is applied to the polar factors themselves: P(A W B) = A P(W) B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from svdjax.fingerprint import matching
from svdjax.fingerprint.layer import Layer
from svdjax.fingerprint.matching import nearest_rotation, rotated
from svdjax.fingerprint.statistic import (
    Agreement,
    Polar,
    agreement,
    along_leading,
    outlier,
    polar_stack,
)

Apply = Callable[[Layer], dict[str, np.ndarray]]


class FactoredLayer(NamedTuple):
    """A block in canonical form and the polar factors of what is compared of it.

    Attributes:
        layer: The matrices.
        factors: `Polar` of one matrix by projection: no leading axis.
    """

    layer: Layer
    factors: Mapping[str, Polar]


def factor_layers(
    layers: tuple[Layer, Layer], mesh: jax.sharding.Mesh | None, names: tuple[str, ...]
) -> tuple[FactoredLayer, FactoredLayer]:
    """Polar factors of two blocks, matrices of one shape together in a stack."""
    matrices = [layer.matrices() for layer in layers]
    shapes: dict[tuple[int, ...], list[tuple[int, str]]] = {}
    for side in range(2):
        for name in names:
            shapes.setdefault(matrices[side][name].shape, []).append((side, name))
    factors: tuple[dict[str, Polar], ...] = ({}, {})
    for members in shapes.values():
        stack = np.stack([matrices[side][name] for side, name in members])
        polar = polar_stack(stack, mesh, [layers[side].eps for side, _ in members])
        for index, (side, name) in enumerate(members):
            factors[side][name] = Polar(*(leaf[index] for leaf in polar))
    return FactoredLayer(layers[0], factors[0]), FactoredLayer(layers[1], factors[1])


def compare_layers(
    reference: FactoredLayer, suspect: FactoredLayer, rotation: np.ndarray | None
) -> tuple[dict[str, Agreement], dict[str, float]]:
    """Agreement of every factorised projection of two blocks, after their alignment.

    Args:
        reference: The block of the reference.
        suspect: The block of the suspect.
        rotation: R [D, D] that takes the suspect's residual stream to the reference's; None is I.

    Returns:
        Agreement by projection, and shares of heads and neurons that had to be moved.
    """
    a, b = reference.layer, rotated(suspect.layer, rotation)
    factors = suspect.factors
    polar, leading = (
        rotated(suspect.layer.like(matrices), rotation)
        for matrices in (
            {name: f.p for name, f in factors.items()},
            {name: f.u @ f.v.T for name, f in factors.items()},
        )
    )
    aligned: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    shares: dict[str, float] = {}
    for name, align in (("q_proj", _align_heads), ("gate_proj", _align_neurons)):
        if name in factors:
            apply, moved = align(a, b)
            shares |= moved
            directions = apply(leading)
            aligned |= {name: (p, directions[name]) for name, p in apply(polar).items()}
    agreements = {}
    for name, (p, directions) in aligned.items():
        own, shape = reference.factors[name], reference.factors[name].p.shape
        ranks = int(own.rank), int(factors[name].rank)
        agreements[name] = agreement(own.p, p.reshape(shape), ranks)._replace(
            leading=along_leading(directions.reshape(shape), own.u, own.v),
            outlier=outlier(own.sigma, shape),
        )
    return agreements, shares


def _align_heads(a: Layer, b: Layer) -> tuple[Apply, dict[str, float]]:
    """The map from heads of `b` to those of `a`, found for each projection from others alone."""
    by_values = matching.match_heads(matching.value_output_similarity(a, b))
    by_queries = matching.match_heads(matching.query_key_similarity(a, b))
    # [K, A + rest]: phases of q are found from k, those of k from q.
    q_phases = matching.phases(by_values.of_keys(b.k), a.k, a.planes)[:, None]
    k_phases = matching.phases(by_values.of_queries(b.q), a.q, a.planes)
    # [K, H, H]: bases of v are found from o, those of o from v.
    o = by_queries.of_outputs(b.o)
    v_bases = nearest_rotation(np.einsum("kghd,kged->khe", o, a.o, optimize=True))
    v = by_queries.of_keys(b.v)
    o_bases = nearest_rotation(np.einsum("dkh,dke->khe", v, a.v, optimize=True))

    def apply(w: Layer) -> dict[str, np.ndarray]:
        v, o = by_queries.of_keys(w.v), by_queries.of_outputs(w.o)
        return {
            "q_proj": matching.rotate_planes(by_values.of_queries(w.q), q_phases, a.planes),
            "k_proj": matching.rotate_planes(by_values.of_keys(w.k), k_phases, a.planes),
            "v_proj": np.einsum("dkh,khe->dke", v, v_bases, optimize=True),
            "o_proj": np.einsum("khe,kghd->kged", o_bases, o, optimize=True),
        }

    kv, group = by_values.within.shape
    same = (by_values.groups == by_queries.groups)[:, None]
    return apply, {
        "kv_heads_moved": float(np.mean(by_values.groups != np.arange(kv))),
        "heads_moved": float(np.mean(by_values.within != np.arange(group)[None, :])),
        "heads_agree": float(np.mean(same & (by_values.within == by_queries.within))),
    }


def _align_neurons(a: Layer, b: Layer) -> tuple[Apply, dict[str, float]]:
    """The map from neurons of `b` to those of `a`, for each projection from others alone."""
    gate, up, down = matching.match_neurons(a, b)

    def apply(w: Layer) -> dict[str, np.ndarray]:
        return {
            "gate_proj": w.gate[:, gate.order],
            "up_proj": w.up[:, up.order] * up.signs,
            "down_proj": w.down[down.order] * down.signs[:, None],
        }

    same = (gate.order == up.order) & (gate.order == down.order)
    return apply, {
        "neurons_moved": float(np.mean(gate.order != np.arange(len(gate.order)))),
        "neurons_agree": float(np.mean(same)),
        "neurons_flipped": float(np.mean(up.signs < 0)),
    }
