"""Singular components taken out of a matrix, as a low-rank initialisation (appendix F).

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `K` rank of what is taken out.

``W = residual + A B`` with ``A = U[:, k0:k0+K] sqrt(S)`` and ``B = sqrt(S) V[:, k0:k0+K]^T``: the
top components as in PiSSA (arXiv 2404.02948), or the middle ones, as the paper suggests.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from svdjax.errors import InputError
from svdjax.spectral.factorisation import Factorisation, get_factorisation
from svdjax.spectral.lift import Array, lift
from svdjax.spectral.matmul import outer

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
        where: ``top``, ``middle`` (as many before as after, or one fewer), ``bottom``, or the index
            itself, as a number or its digits.
        rank: How many are taken.
        r: How many there are.
        what: The matrix's name, for errors.

    Raises:
        InputError: They are not there.
    """
    if not 1 <= _whole(rank, "rank {!r}: expected a whole number") <= r:
        raise InputError(f"rank {rank}: {what} has {r} singular components, expected 1 to {r}")
    if isinstance(where, str) and where in PLACES:
        return {"top": 0, "middle": (r - rank) // 2, "bottom": r - rank}[where]
    wanted = "components {!r}: expected top, middle, bottom or the number of the first one"
    start = _whole(where, wanted)
    if not 0 <= start <= r - rank:
        raise InputError(
            f"components {start} to {start + rank - 1}: {what} has {r}, expected a first one from "
            f"0 to {r - rank}"
        )
    return start


def _whole(value: Any, wanted: str) -> int:
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        raise InputError(wanted.format(value)) from None


def split_matrix(
    w: Array, *, start: int, rank: int, factorisation: str | Factorisation = "svd_f64"
) -> Split:
    """One matrix [I, O] without its components [start, start + rank), and those.

    ``residual = fl(W - fl(A) fl(B))``, fl the rounding to float32: the product and the difference
    are formed in the working dtype of the factorisation, so that residual and A B together are W
    but for the rounding of the residual, however small that is beside A B.

    Raises:
        InputError: There are no such components, or no such factorisation.
        RuntimeError: The factorisation works in float64 and 64-bit types are off; enter
            `working_precision` first.
    """
    start = start_of(start, rank, min(w.shape))
    factor = get_factorisation(factorisation)
    u, s, v = factor(w).factors
    chosen = slice(start, start + rank)
    root = jnp.sqrt(s[chosen])[None, :]
    # A conversion to float32 and back may be optimised away, a reduction to its bits may not.
    a, b = (jax.lax.reduce_precision(side[:, chosen] * root, 8, 23) for side in (u, v))
    product = outer(a, b)
    residual = factor.upcast(w) - product
    return Split(residual.astype("float32"), a.astype("float32"), b.T.astype("float32"))


def split_stack(
    w: Array,
    *,
    start: int,
    rank: int,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> Split:
    """Every matrix of a stack [L, I, O] without its components [start, start + rank), and those.

    One matrix at a time on each device; traced once per shape, dtype, start and rank.

    Args:
        w: The stack, any floating dtype.
        start: The first component, see `start_of`.
        rank: How many.
        factorisation: Name in `FACTORISATIONS`, or one of one's own.
        mesh: Has an axis ``layers`` over which `L` is divided, padded where it does not divide;
            None for one device.

    Returns:
        `Split`, every field with a leading `L`.

    Raises:
        InputError: As `split_matrix`, or this is no stack of matrices.
        RuntimeError: As `split_matrix`.
    """
    factorisation = get_factorisation(factorisation)
    if len(w.shape) != 3 or 0 in w.shape:
        raise InputError(
            "stack of matrices: expected a shape [layers, in, out], none of them 0, found "
            f"{list(w.shape)}"
        )
    start = start_of(start, rank, min(w.shape[1:]))
    return _split(w, factorisation=factorisation, start=start, rank=int(rank), mesh=mesh)


_split = lift(split_matrix)
