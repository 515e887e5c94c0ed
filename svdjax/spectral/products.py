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
from svdjax.spectral.stored import Stored, bits_of, to_floats

Products = Callable[..., tuple[jax.Array, ...]]

PRECISION = jax.lax.Precision.HIGHEST
"""Of every product: recent GPUs would otherwise round float32 inputs to TF32."""

_SLICE = 1024
"""Length of a slice. The sums are read and written once for each: with fewer that takes its time.
"""

_SLICE_BYTES = 2**23
"""Of a slice in the working dtype, however short its rows."""

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
    """Eigenvalues [R], ascending, and eigenvectors [R, R] of a symmetric matrix.

    Its upper triangle is read.
    """
    return native.eigh(matrix, _eigh)


def eigvalsh(matrix: jax.Array) -> jax.Array:
    """The eigenvalues alone."""
    return native.eigvalsh(matrix, lambda a: _eigh(a)[0])


_matmul = functools.partial(jnp.matmul, precision=PRECISION)


def _eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = jnp.linalg.eigh(matrix, UPLO="U", symmetrize_input=False)
    return found.eigenvalues, found.eigenvectors


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


def scale(w: Stored, dtype: str) -> jax.Array:
    """1 / max |w|, so that no product of ``scale * w`` overflows or underflows; 1 for zeros.

    1 as well where none of w does.
    """
    if roomy(w.dtype, dtype):
        return jnp.ones((), dtype)
    top = jnp.max(jnp.abs(to_floats(w))).astype(dtype)
    return 1 / jnp.where(top > 0, top, 1)


class _Slices:
    """Slices of a matrix in another dtype; nothing else of it is converted."""

    def __init__(self, w: Stored):
        self._dtype = w.dtype
        self._bits = bits_of(w)

    def part(self, start: jax.Array | int, size: int, axis: int, dtype: str) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(self._bits, start, size, axis)
        return to_floats(part, self._dtype).astype(dtype)


def total(terms: Products, matrices: Sequence[Stored], dtype: str) -> tuple[jax.Array, ...]:
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


def slice_length(rows: int, length: int, itemsize: int) -> int:
    """How much of a long side of so much `gram_of` and `all_of` bring to the working dtype at once.

    Args:
      rows: the short side.
      length: the long side.
      itemsize: of the working dtype, in bytes.
    """
    most = max(_SLICE, _SLICE_BYTES // (rows * itemsize))
    return math.ceil(length / math.ceil(length / most))


def gram_of(w: Stored, dtype: str) -> jax.Array:
    """``W W^T`` of ``scale(w) * w`` [I, O] seen with its short side as rows, [R, R].

    Only its upper triangle is sure to be filled in, like that of every Gram matrix here that is a
    sum: `eigh` reads no more.
    """
    return _sums((w,), ((0, 0),), dtype)[0]


def all_of(
    base: Stored, post: Stored, dtype: str, *, grams: Sequence[int] = (0, 1)
) -> tuple[jax.Array, ...]:
    """Gram matrices (see `gram_of`) and the cross product, out of one reading of both.

    Args:
      base: W_base [I, O], as stored.
      post: W_post.
      dtype: of the products.
      grams: of which of them, 0 for base.

    Returns:
      The Gram matrices in that order, and ``W_base W_post^T`` likewise, [R, R] each.
    """
    return _sums((base, post), [*((side, side) for side in grams), (0, 1)], dtype)


def _sums(
    matrices: Sequence[Stored], pairs: Sequence[tuple[int, int]], dtype: str
) -> tuple[jax.Array, ...]:
    """``W_i W_j^T`` for each of the `pairs` of matrices, given as rows; a slice at a time."""
    scales = [scale(w, dtype) for w in matrices]
    axis = int(matrices[0].shape[0] < matrices[0].shape[1])
    length = matrices[0].shape[axis]
    size = slice_length(matrices[0].shape[1 - axis], length, np.dtype(dtype).itemsize)
    count = math.ceil(length / size)
    rest = length - (count - 1) * size
    slices = [_Slices(w) for w in matrices]

    def rows(start: jax.Array | int, size: int) -> list[jax.Array]:
        parts = []
        for one, by in zip(slices, scales):
            part = one.part(start, size, axis, dtype) * by
            # Turned once, here, and not by every product.
            parts.append(jax.lax.optimization_barrier(part) if axis else turned(part))
        return parts

    def more(number: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        parts = rows(rest + number * size, size)
        return tuple(_added(sum, parts[i], parts[j]) for sum, (i, j) in zip(sums, pairs))

    first = rows(0, rest)
    sums = tuple(gram(first[i]) if i == j else outer(first[i], first[j]) for i, j in pairs)
    if count == 1:
        return sums
    return jax.lax.fori_loop(0, count - 1, more, sums)


def _added(sum: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """``sum + a b^T``; of a Gram matrix, where b is a, perhaps only the upper triangle."""
    if a is b:
        return native.add_gram(sum, a, lambda sum, a: sum + _gram(a))
    return native.add_product(sum, a, b, lambda sum, a, b: sum + _matmul(a, b.T))
