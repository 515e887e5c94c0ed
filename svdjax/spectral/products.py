"""Products of long matrices in float64, without a float64 copy of the matrix.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

A matrix is read along its long side in slices, each brought to the working dtype as it is needed:
what is held beside the stored matrix are [R, R] sums and a slice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.native import calls as native

Products = Callable[..., tuple[jax.Array, ...]]

PRECISION = jax.lax.Precision.HIGHEST
"""Of every product: recent GPUs would otherwise round float32 inputs to TF32."""

SLICE_BYTES = 2**25
"""Of a slice in the working dtype. Smaller ones add the sums up more often."""

_TERMS_BYTES = 2**20
"""Of a slice that is only added up: it stays within a core's cache."""

_LEAST = 192
"""Rows below which a symmetric product is not divided: on CPU smaller ones are slower whole."""


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b``."""
    return native.product(a, b, "nn", _matmul)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a^T b``, the products of all columns."""
    return native.product(a, b, "tn", lambda a, b: _matmul(turned(a), b))


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b^T``, the products of all rows."""
    return native.product(a, b, "nt", lambda a, b: _matmul(a, b.T))


def gram(rows: jax.Array) -> jax.Array:
    """``rows rows^T``, at towards half of the work of a product."""
    return native.gram(rows, "n", _gram)


def inner_gram(columns: jax.Array) -> jax.Array:
    """``columns^T columns``, likewise."""
    return native.gram(columns, "t", lambda columns: _gram(turned(columns)))


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [R], ascending, and eigenvectors [R, R] of a matrix that is symmetric."""
    return native.eigh(matrix, lambda a: tuple(jnp.linalg.eigh(a, symmetrize_input=False)))


def eigvalsh(matrix: jax.Array) -> jax.Array:
    """The eigenvalues alone."""
    return native.eigvalsh(matrix, lambda a: jnp.linalg.eigh(a, symmetrize_input=False)[0])


_matmul = functools.partial(jnp.matmul, precision=PRECISION)


def turned(a: jax.Array) -> jax.Array:
    """``a^T``, laid out anew: a product that reads an operand across is twice as slow on CPU."""
    return jax.lax.optimization_barrier(a.T)


def _gram(rows: jax.Array) -> jax.Array:
    """Each block off the diagonal once."""
    cut = rows.shape[0] // 2
    if cut < _LEAST:
        return _matmul(rows, rows.T)
    upper, lower = rows[:cut], rows[cut:]
    side = _matmul(upper, lower.T)
    return jnp.block([[_gram(upper), side], [side.T, _gram(lower)]])


def roomy(stored: np.dtype, dtype: str) -> bool:
    """Whether sums of products of `stored` numbers neither overflow nor underflow in `dtype`."""
    return 2 * jnp.finfo(stored).maxexp + 64 < jnp.finfo(dtype).maxexp


def scale(w: jax.Array, dtype: str) -> jax.Array:
    """1 / max |w|, so that no product of ``scale * w`` overflows or underflows; 1 for zeros.

    1 as well where none of w does.
    """
    if roomy(w.dtype, dtype):
        return jnp.ones((), dtype)
    top = jnp.max(jnp.abs(w)).astype(dtype)
    return 1 / jnp.where(top > 0, top, 1)


class _Slices:
    """Slices of a matrix in another dtype; nothing else of it is converted.

    XLA on CPU computes nothing in 16-bit floats, not even slices: it converts whole matrices first,
    and keeps them. Of their bits it takes slices as they are.
    """

    def __init__(self, w: jax.Array):
        self._dtype = w.dtype
        self._narrow = w.dtype.itemsize == 2
        self._w = jax.lax.bitcast_convert_type(w, jnp.uint16) if self._narrow else w

    def part(self, start: jax.Array | int, size: int, axis: int, dtype: str) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(self._w, start, size, axis)
        if self._narrow:
            part = jax.lax.bitcast_convert_type(part, self._dtype)
        return part.astype(dtype)


def total(terms: Products, matrices: Sequence[jax.Array], dtype: str) -> tuple[jax.Array, ...]:
    """Sums of ``terms(*matrices)``, arrays like the matrices, over all entries.

    By slices of rows: left to itself, XLA makes copies in `dtype` of whole matrices.
    """
    rows, columns = matrices[0].shape
    size = min(rows, max(1, _TERMS_BYTES // (columns * np.dtype(dtype).itemsize)))
    slices = [_Slices(w) for w in matrices]

    def of(start: jax.Array | int, size: int) -> tuple[jax.Array, ...]:
        parts = (one.part(start, size, 0, dtype) for one in slices)
        return tuple(jnp.sum(one) for one in terms(*parts))

    sums = of(0, size)
    sums = jax.lax.fori_loop(
        1, rows // size, lambda i, sums: jax.tree.map(jnp.add, sums, of(i * size, size)), sums
    )
    if rows % size:
        sums = jax.tree.map(jnp.add, sums, of(rows - rows % size, rows % size))
    return sums


def gram_of(w: jax.Array, dtype: str) -> jax.Array:
    """``W W^T`` of ``scale(w) * w`` [I, O] seen with its short side as rows, [R, R]."""
    return _sums(lambda rows: (gram(rows),), (w,), dtype)[0]


def cross_of(base: jax.Array, post: jax.Array, dtype: str) -> jax.Array:
    """``W_base W_post^T`` likewise, [R, R]."""
    return _sums(lambda b, p: (outer(b, p),), (base, post), dtype)[0]


def all_of(base: jax.Array, post: jax.Array, dtype: str) -> tuple[jax.Array, ...]:
    """Both Gram matrices and the cross product, out of one reading of each matrix."""
    return _sums(lambda b, p: (gram(b), gram(p), outer(b, p)), (base, post), dtype)


def _sums(products: Products, matrices: Sequence[jax.Array], dtype: str) -> tuple[jax.Array, ...]:
    """Sums of `products` over slices of the matrices, given as rows [R, slice]."""
    scales = [scale(w, dtype) for w in matrices]
    axis = int(matrices[0].shape[0] < matrices[0].shape[1])
    count = math.ceil(matrices[0].size * np.dtype(dtype).itemsize / SLICE_BYTES)
    size = math.ceil(matrices[0].shape[axis] / count)

    def of(start: jax.Array | int) -> tuple[jax.Array, ...]:
        parts = []
        for one, by in zip(slices, scales):
            part = one.part(start, size, axis, dtype) * by
            # Turned once, here, and not by every product.
            parts.append(jax.lax.optimization_barrier(part) if axis else turned(part))
        return products(*parts)

    missing = size * count - matrices[0].shape[axis]
    if missing:
        padding = [(0, missing if side == axis else 0) for side in range(2)]
        matrices = [jnp.pad(w, padding) for w in matrices]
    slices = [_Slices(w) for w in matrices]
    first = of(0)
    if count == 1:
        return first
    return jax.lax.fori_loop(
        1, count, lambda i, sums: jax.tree.map(jnp.add, sums, of(i * size)), first
    )
