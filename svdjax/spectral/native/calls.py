"""BLAS and LAPACK within jitted programs on CPU, where they are quicker than what XLA has there.

Two cores of an AMD EPYC (AVX2), one thread each, float64: products at 40 Gflop/s a core where
XLA's reach 30, symmetric ones at half the work and 36; an eigenproblem of order 1536 in 0.75 s
where jax's eigh takes 0.95 s (docs/benchmarks). Other devices, small matrices, and machines where
XLA or scipy have another interface than the one expected, are left to XLA: the same numbers but
for rounding.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.native import foreign

_LEAST = 128**3
"""Multiplications for which the interpreter is worth asking (some ten microseconds)."""


def product(
    a: jax.Array, b: jax.Array, turn: str, otherwise: Callable[..., jax.Array]
) -> jax.Array:
    """``a b``; with t in `turn`, ``nn``, ``tn`` or ``nt``, of the transpose of a or b.

    Args:
      a: matrix, float32 or float64.
      b: matrix of the same dtype.
      turn: which of them is transposed.
      otherwise: does the same by XLA.
    """
    rows, inner = a.shape if turn[0] == "n" else a.shape[::-1]
    columns = b.shape[1] if turn[1] == "n" else b.shape[0]
    if rows * inner * columns < _LEAST:
        return otherwise(a, b)
    return _on_cpu(f"product_{turn}", ((rows, columns),), otherwise, a, b)


def gram(a: jax.Array, turn: str, otherwise: Callable[..., jax.Array]) -> jax.Array:
    """``a a^T``, or with t as `turn` ``a^T a``; see `product`."""
    order, inner = a.shape if turn == "n" else a.shape[::-1]
    if order * order * inner < _LEAST:
        return otherwise(a)
    return _on_cpu(f"gram_{turn}", ((order, order),), otherwise, a)


def eigh(
    matrix: jax.Array, otherwise: Callable[..., tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [N], ascending, and eigenvectors, as columns [N, N], of a symmetric matrix.

    NaN where LAPACK finds none. See `product`.
    """
    order = len(matrix)
    if order**3 < _LEAST or matrix.dtype != np.float64:
        return otherwise(matrix)
    return _on_cpu(
        "eigh", ((order,), (order, order)), otherwise, matrix, after=lambda s, rows: (s, rows.T)
    )


def _on_cpu(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    otherwise: Callable[..., Any],
    *given: jax.Array,
    after: Callable[..., Any] = lambda result: result,
) -> Any:
    if not available():
        return otherwise(*given)

    def native(*given: jax.Array) -> Any:
        # Within shard_map what is computed belongs to each device by itself, as what is given does.
        results = [jax.eval_shape(lambda a: jnp.broadcast_to(a[0, 0], s), given[0]) for s in shapes]
        return after(*jax.ffi.ffi_call(_PREFIX + name, results, vmap_method="sequential")(*given))

    return jax.lax.platform_dependent(*given, cpu=native, default=otherwise)


_PREFIX = "svdjax_"


@functools.cache
def available() -> bool:
    """Whether the routines are there; made known to XLA at the first call."""
    try:
        from svdjax.spectral.native import routines

        for turn in ("nn", "tn", "nt"):
            foreign.register(f"{_PREFIX}product_{turn}", functools.partial(_product, routines, turn))
        for turn in ("n", "t"):
            foreign.register(f"{_PREFIX}gram_{turn}", functools.partial(_gram, routines, turn))
        foreign.register(f"{_PREFIX}eigh", functools.partial(_eigh, routines))
    except Exception as error:  # of whatever kind: XLA can do without
        logging.getLogger(__name__).info("BLAS is left to XLA: %s", error)
        return False
    return True


def _product(
    routines: Any, turn: str, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> None:
    routines.product(*given, *wanted, turn=turn)


def _gram(
    routines: Any, turn: str, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> None:
    routines.gram(*given, *wanted, turn=turn)
    routines.mirror(*wanted)


def _eigh(routines: Any, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    try:
        routines.eigh(given[0].copy(), *wanted)
    except routines.ConvergenceError:
        for array in wanted:
            array[:] = math.nan
