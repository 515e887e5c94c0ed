"""Two blocks held against each other: the suspect's polar factors in the place of the reference's.

Axes: `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim.

All that is applied here is orthogonal (a rotation of the residual stream, orders, signs, phases,
bases of value heads), so it is applied to the polar factors themselves: P(A W B) = A P(W) B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from svdjax.fingerprint import matching
from svdjax.fingerprint.layer import Layer
from svdjax.fingerprint.matching import Heads, rotated
from svdjax.fingerprint.neurons import Neurons, match_neurons
from svdjax.fingerprint.statistic import Agreement, agreement, along_leading, outlier


class Factored(NamedTuple):
    """A block in canonical form and the polar factors of what is compared of it.

    Attributes:
      layer: the matrices.
      polar: their polar factors in the same layout.
      ranks: numerical rank by projection.
      sigma: singular values by projection, descending.
      directions: leading singular vectors U [in, k] and V [out, k] by projection.
      leading: U V^T of these, in the layer's layout.
    """

    layer: Layer
    polar: Layer
    ranks: Mapping[str, int]
    sigma: Mapping[str, np.ndarray]
    directions: Mapping[str, tuple[np.ndarray, np.ndarray]]
    leading: Layer


def compare_layers(
    reference: Factored, suspect: Factored, rotation: np.ndarray | None
) -> tuple[dict[str, Agreement], dict[str, float]]:
    """Align a block and measure every projection that has been factorised.

    Args:
      reference: the block of the reference.
      suspect: that of the suspect.
      rotation: R [D, D] that takes the suspect's residual stream to the reference's; None is I.

    Returns:
      Agreement by projection, and shares of heads and neurons that had to be moved.
    """
    here, there = reference.layer, rotated(suspect.layer, rotation)
    heads = neurons = None
    shares: dict[str, float] = {}
    if "q_proj" in suspect.ranks:
        by_values = matching.match_heads(matching.value_output_similarity(here, there))
        by_queries = matching.match_heads(matching.query_key_similarity(here, there))
        heads = by_values, by_queries
        shares |= _heads_moved(*heads)
    if "gate_proj" in suspect.ranks:
        neurons = tuple(match_neurons(here, there).values())
        shares |= _neurons_moved(*neurons)
    own = reference.polar.matrices()
    agreements = {}
    for name, q in _moved(here, there, rotated(suspect.polar, rotation), heads, neurons).items():
        ranks = reference.ranks[name], suspect.ranks[name]
        agreements[name] = agreement(own[name], q.reshape(own[name].shape), ranks)
    for name, q in _moved(here, there, rotated(suspect.leading, rotation), heads, neurons).items():
        shape = own[name].shape
        agreements[name] = agreements[name]._replace(
            leading=along_leading(q.reshape(shape), *reference.directions[name]),
            outlier=outlier(reference.sigma[name], shape),
        )
    return agreements, shares


def _moved(
    here: Layer,
    there: Layer,
    source: Layer,
    heads: tuple[Heads, Heads] | None,
    neurons: tuple[Neurons, ...] | None,
) -> dict[str, np.ndarray]:
    """Matrices of the suspect's polar factors in the place of the reference's, by projection.

    Args:
      here: the reference.
      there: the suspect in the reference's residual basis; where orders and bases are found.
      source: what is moved, of the suspect and in the same basis.
      heads: as found from v and o, and from q and k; None leaves attention out.
      neurons: for gate, up and down; None leaves the feed-forward part out.
    """
    moved: dict[str, np.ndarray] = {}
    if heads is not None:
        by_values, by_queries = heads
        moved |= {
            "q_proj": _queries(here, there, source, by_values),
            "k_proj": _keys(here, there, source, by_values),
            "v_proj": _values(here, there, source, by_queries),
            "o_proj": _outputs(here, there, source, by_queries),
        }
    if neurons is not None:
        gate, up, down = neurons
        moved |= {
            "gate_proj": source.gate[:, gate.order],
            "up_proj": source.up[:, up.order] * up.signs,
            "down_proj": source.down[down.order] * down.signs[:, None],
        }
    return moved


def _queries(here: Layer, there: Layer, polar: Layer, heads: Heads) -> np.ndarray:
    """The suspect's q with heads in order, and phases as k has them."""
    keys = there.k[:, heads.groups]
    turn = matching.phases(keys, here.k, here.planes)  # [K, A + rest]
    q = _ordered(polar.q, heads)
    return matching.turned(q, turn[:, None], here.planes)


def _keys(here: Layer, there: Layer, polar: Layer, heads: Heads) -> np.ndarray:
    """The suspect's k with heads in order, and phases as the queries have them."""
    turn = matching.phases(_ordered(there.q, heads), here.q, here.planes)
    return matching.turned(polar.k[:, heads.groups], turn, here.planes)


def _values(here: Layer, there: Layer, polar: Layer, heads: Heads) -> np.ndarray:
    """The suspect's v with heads in order, in the bases that fit o."""
    o = _ordered_outputs(there.o, heads)
    bases = matching.nearest_rotation(np.einsum("kghd,kged->khe", o, here.o, optimize=True))
    return np.einsum("dkh,khe->dke", polar.v[:, heads.groups], bases, optimize=True)


def _outputs(here: Layer, there: Layer, polar: Layer, heads: Heads) -> np.ndarray:
    """The suspect's o with heads in order, in the bases that fit v."""
    v = there.v[:, heads.groups]
    bases = matching.nearest_rotation(np.einsum("dkh,dke->khe", v, here.v, optimize=True))
    o = _ordered_outputs(polar.o, heads)
    return np.einsum("khe,kghd->kged", bases, o, optimize=True)


def _ordered(q: np.ndarray, heads: Heads) -> np.ndarray:
    return q[:, heads.groups[:, None], heads.within]


def _ordered_outputs(o: np.ndarray, heads: Heads) -> np.ndarray:
    return o[heads.groups[:, None], heads.within]


def _heads_moved(by_values: Heads, by_queries: Heads) -> dict[str, float]:
    """Shares of heads; moved as found from v and o, agree: found from q and k just so."""
    kv, group = by_values.within.shape
    same = (by_values.groups == by_queries.groups)[:, None]
    return {
        "kv_heads_moved": float(np.mean(by_values.groups != np.arange(kv))),
        "heads_moved": float(np.mean(by_values.within != np.arange(group)[None, :])),
        "heads_agree": float(np.mean(same & (by_values.within == by_queries.within))),
    }


def _neurons_moved(gate: Neurons, up: Neurons, down: Neurons) -> dict[str, float]:
    """Shares of neurons; moved as found from up and down, agree: found from all pairs just so."""
    same = (gate.order == up.order) & (gate.order == down.order)
    return {
        "neurons_moved": float(np.mean(gate.order != np.arange(len(gate.order)))),
        "neurons_agree": float(np.mean(same)),
        "neurons_flipped": float(np.mean(up.signs < 0)),
    }
