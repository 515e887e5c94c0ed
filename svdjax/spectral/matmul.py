"""Matrix products, Gram matrices and symmetric eigenproblems, without float64 copies of matrices.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

A stored matrix is read along its long side in slices, each brought to the working dtype as it is
needed: what is held beside the stored matrix are [R, R] sums and a slice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import blas
from svdjax.spectral.stored import Stored, bits_of, to_floats

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
    return blas.product("ab", _matmul, a, b)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a^T b``, the products of all columns."""
    return blas.product("atb", lambda a, b: _matmul(transposed(a), b), a, b)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b^T``, the products of all rows."""
    return blas.product("abt", lambda a, b: _matmul(a, b.T), a, b)


def gram(rows: jax.Array) -> jax.Array:
    """``rows rows^T``, at towards half of the work of a product."""
    return blas.product("aat", _gram, rows)


def inner_gram(columns: jax.Array) -> jax.Array:
    """``columns^T columns``; see `gram`."""
    return blas.product("ata", lambda columns: _gram(transposed(columns)), columns)


def add_outer(total: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """``total + a b^T``, in place where that is possible."""
    return blas.product("add_abt", lambda total, a, b: total + _matmul(a, b.T), total, a, b)


def add_gram(total: jax.Array, rows: jax.Array) -> jax.Array:
    """``total + rows rows^T``, of which only the upper triangle counts; see `add_outer`."""
    return blas.product("add_aat", lambda total, rows: total + _gram(rows), total, rows)


_matmul = functools.partial(jnp.matmul, precision=PRECISION)


def _gram(rows: jax.Array) -> jax.Array:
    """``rows rows^T``, each block off the diagonal once."""
    cut = rows.shape[0] // 2
    if cut < _LEAST:
        return _matmul(rows, rows.T)
    upper, lower = rows[:cut], rows[cut:]
    side = _matmul(upper, lower.T)
    return jnp.block([[_gram(upper), side], [side.T, _gram(lower)]])


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [R], ascending, and eigenvectors [R, R] of a symmetric matrix.

    Its upper triangle is read. NaN where an entry is not finite, of which LAPACK makes anything.
    """
    result = jnp.linalg.eigh(matrix, UPLO="U", symmetrize_input=False)
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = (jnp.where(finite, array, jnp.nan) for array in result)
    return values, vectors


def eigvalsh(matrix: jax.Array) -> jax.Array:
    """Eigenvalues [R] alone, as `eigh`: on CPU from the tridiagonal form, in half of the time."""

    def on_cpu(matrix: jax.Array) -> jax.Array:
        _, diagonal, off_diagonal, _ = jax.lax.linalg.tridiagonal(matrix, lower=False)
        by_xla = functools.partial(jax.scipy.linalg.eigh_tridiagonal, eigvals_only=True)
        values = blas.tridiagonal_eigenvalues(by_xla, diagonal, off_diagonal)
        finite = jnp.all(jnp.isfinite(diagonal)) & jnp.all(jnp.isfinite(off_diagonal))
        return jnp.where(finite, values, jnp.nan)

    return jax.lax.platform_dependent(matrix, cpu=on_cpu, default=lambda matrix: eigh(matrix)[0])


def transposed(a: jax.Array) -> jax.Array:
    """``a^T``, laid out anew: a product that reads an operand across is twice as slow on CPU."""
    return jax.lax.optimization_barrier(a.T)


def products_fit(stored: np.dtype, dtype: str) -> bool:
    """Whether sums of products of `stored` numbers neither overflow nor underflow in `dtype`."""
    return 2 * jnp.finfo(stored).maxexp + 64 < jnp.finfo(dtype).maxexp


def scale(w: Stored, dtype: str) -> jax.Array:
    """1 / max |w|, so that no product of ``scale * w`` overflows or underflows; 1 for zeros.

    1 as well where none of w does.
    """
    if products_fit(w.dtype, dtype):
        return jnp.ones((), dtype)
    top = jnp.max(jnp.abs(to_floats(w))).astype(dtype)
    return 1 / jnp.where(top > 0, top, 1)


def _slice(w: Stored, start: jax.Array | int, size: int, axis: int, dtype: str) -> jax.Array:
    """A slice of a matrix in another dtype; nothing else of it is converted."""
    part = jax.lax.dynamic_slice_in_dim(bits_of(w), start, size, axis)
    return to_floats(part, w.dtype).astype(dtype)


def sum_terms(terms: Callable[..., jax.Array], matrices: Sequence[Stored], dtype: str) -> jax.Array:
    """Sum of ``terms(*matrices)``, an array like the matrices, over all entries.

    By slices of rows: left to itself, XLA makes copies in `dtype` of whole matrices.
    """
    rows, columns = matrices[0].shape
    size = min(rows, max(1, _TERMS_BYTES // (columns * np.dtype(dtype).itemsize)))

    def part(start: jax.Array | int, size: int) -> jax.Array:
        return jnp.sum(terms(*(_slice(w, start, size, 0, dtype) for w in matrices)))

    total = jax.lax.fori_loop(
        1, rows // size, lambda i, total: total + part(i * size, size), part(0, size)
    )
    if rows % size:
        total += part(rows - rows % size, rows % size)
    return total


def slice_length(rows: int, length: int, itemsize: int) -> int:
    """How much of a long side `gram_of` and `cross_of` bring to the working dtype at once.

    Args:
        rows: The short side.
        length: The long side.
        itemsize: Of the working dtype, in bytes.
    """
    most = max(_SLICE, _SLICE_BYTES // (rows * itemsize))
    return math.ceil(length / math.ceil(length / most))


def gram_of(w: Stored, dtype: str) -> jax.Array:
    """``W W^T`` of ``scale(w) * w`` [I, O] seen with its short side as rows, [R, R].

    Only its upper triangle is sure to be filled in: `eigh` reads no more.
    """
    return _sum_products((w,), dtype, gram, add_gram)


def cross_of(base: Stored, post: Stored, dtype: str) -> jax.Array:
    """``W_base W_post^T`` of both as scaled and seen by `gram_of`, [R, R]."""
    return _sum_products((base, post), dtype, outer, add_outer)


def _sum_products(
    matrices: Sequence[Stored],
    dtype: str,
    product: Callable[..., jax.Array],
    add_product: Callable[..., jax.Array],
) -> jax.Array:
    """``product(*matrices)`` of the matrices as rows, summed over slices of their long side."""
    scales = [scale(w, dtype) for w in matrices]
    axis = int(matrices[0].shape[0] < matrices[0].shape[1])
    length = matrices[0].shape[axis]
    size = slice_length(matrices[0].shape[1 - axis], length, np.dtype(dtype).itemsize)
    count = math.ceil(length / size)
    rest = length - (count - 1) * size

    def rows(start: jax.Array | int, size: int) -> list[jax.Array]:
        slices = (_slice(w, start, size, axis, dtype) * by for w, by in zip(matrices, scales))
        # Laid out once, here, and not by every product.
        return [jax.lax.optimization_barrier(w) if axis else transposed(w) for w in slices]

    total = product(*rows(0, rest))
    if count == 1:
        return total
    return jax.lax.fori_loop(
        0, count - 1, lambda i, total: add_product(total, *rows(rest + i * size, size)), total
    )
