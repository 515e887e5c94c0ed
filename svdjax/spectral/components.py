"""Singular components taken out of a matrix, as a low-rank initialisation (appendix F).

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `K` rank of what is taken out.

``W = residual + A B`` with ``A = U[:, k0:k0+K] sqrt(S)`` and ``B = sqrt(S) V[:, k0:k0+K]^T``: the
top components as in PiSSA (arXiv 2404.02948), or the middle ones, as the paper suggests.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from svdjax.errors import InputError
from svdjax.spectral.factors import Factorisation, get_factorisation
from svdjax.spectral.kernels import Array, over_layers, spread
from svdjax.spectral.metrics import PRECISION

PLACES = ("top", "middle", "bottom")


class Split(NamedTuple):
    """A matrix in two parts, float32; stacked, every field has a leading `L`.

    Attributes:
      residual: W - A B, formed with the rounded A and B, [I, O].
      a: [I, K].
      b: [K, O].
    """

    residual: jax.Array
    a: jax.Array
    b: jax.Array


def start_of(where: str | int, rank: int, r: int, what: str = "the matrix") -> int:
    """Index of the first component that is taken out.

    Args:
      where: ``top``, ``middle``, ``bottom``, or the index itself.
      rank: how many are taken.
      r: how many there are.
      what: the matrix's name, for errors.

    Raises:
      InputError: they are not there.
    """
    if not 1 <= rank <= r:
        raise InputError(f"rank {rank}: {what} has {r} singular components, expected 1 to {r}")
    if isinstance(where, str) and where in PLACES:
        return {"top": 0, "middle": (r - rank) // 2, "bottom": r - rank}[where]
    try:
        start = int(where)
    except ValueError:
        raise InputError(
            f"components {where!r}: expected top, middle, bottom or the number of the first one"
        ) from None
    if not 0 <= start <= r - rank:
        raise InputError(
            f"components {start} to {start + rank - 1}: {what} has {r}, expected a first one from "
            f"0 to {r - rank}"
        )
    return start


def split_stack(
    w: Array,
    *,
    start: int,
    rank: int,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> Split:
    """Take components [start, start + rank) out of every matrix of a stack [L, I, O].

    Raises:
      RuntimeError: the factorisation works in float64 and 64-bit types are off; enter
        `working_precision` first.
    """
    route = get_factorisation(factorisation)
    layers = w.shape[0]
    stack, mesh = spread(w, mesh)
    return _split(stack, route=route, start=start, rank=rank, mesh=mesh, layers=layers)


@functools.partial(jax.jit, static_argnames=("route", "start", "rank", "mesh", "layers"))
def _split(stack, *, route, start, rank, mesh, layers):
    def one(w: jax.Array) -> Split:
        u, s, v = route(w).factors
        chosen = slice(start, start + rank)
        root = jnp.sqrt(s[chosen])[None, :]
        a, b = ((side[:, chosen] * root).astype("float32") for side in (u, v))
        work: Any = s.dtype
        product = jnp.einsum("ik,ok->io", a.astype(work), b.astype(work), precision=PRECISION)
        return Split((route.upcast(w) - product).astype("float32"), a, b.T)

    return over_layers(one, stack, mesh=mesh, layers=layers)
