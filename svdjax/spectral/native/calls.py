"""BLAS and LAPACK within jitted programs on CPU, where they are quicker than what XLA has there.

Two cores of an AMD EPYC (AVX2), one thread each, float64, order 1536: the products of two long
matrices 1.3 to 1.5 times as fast as by XLA, others up to 1.2 times; an eigenproblem 1.2 times,
without vectors 2.5 to 2.9 times, as jax works them out all the same
(docs/benchmarks/native-epyc-2026-11-27.json, and the same tool an hour before). Other devices,
small matrices, and machines where XLA or scipy have another interface than the one expected, are
left to XLA: the same numbers but for rounding. So are products where most cores would have nothing
to do (`work_of`), as XLA spreads one product over all of them. None of this can be differentiated.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.native import foreign

_DTYPES = (np.dtype("float32"), np.dtype("float64"))

_LEAST = 400**3
"""Multiplications of a product; with fewer XLA is as quick."""

_LEAST_VECTORS, _LEAST_VALUES = 640, 128
"""Orders of eigenproblems; below them XLA is as quick."""

_MOST_ORDER = 46_000
"""LAPACK counts the square of it in 32 bits."""


_devices: contextvars.ContextVar[int] = contextvars.ContextVar("devices", default=1)


@contextlib.contextmanager
def work_of(devices: int) -> Iterator[None]:
    """What is traced within will run on so many devices of this process at once."""
    token = _devices.set(devices)
    try:
        yield
    finally:
        _devices.reset(token)


def _busy() -> bool:
    """Whether BLAS, called by each device by itself, has work for half of the cores.

    What was traced for other devices may be used again: either way gives the same numbers, but for
    rounding.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    each = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return 2 * _devices.get() * (int(each) if each.isdecimal() else cores) >= cores


def product(
    a: jax.Array, b: jax.Array, turn: str, otherwise: Callable[..., jax.Array]
) -> jax.Array:
    """``a b``; with t in `turn`, ``nn``, ``tn`` or ``nt``, of the transpose of a or b.

    Args:
      a: matrix.
      b: matrix.
      turn: which of them is transposed.
      otherwise: does the same by XLA.
    """
    rows, inner = a.shape if turn[0] == "n" else a.shape[::-1]
    columns = b.shape[1] if turn[1] == "n" else b.shape[0]
    if a.dtype != b.dtype or not _multiplied_here(a.dtype, rows * inner * columns):
        return otherwise(a, b)
    return _on_cpu(f"product_{turn}", ((rows, columns),), otherwise, a, b)


def gram(a: jax.Array, turn: str, otherwise: Callable[..., jax.Array]) -> jax.Array:
    """``a a^T``, or with t as `turn` ``a^T a``; see `product`."""
    order, inner = a.shape if turn == "n" else a.shape[::-1]
    if not _multiplied_here(a.dtype, order * order * inner):
        return otherwise(a)
    return _on_cpu(f"gram_{turn}", ((order, order),), otherwise, a)


def add_product(
    sum: jax.Array, a: jax.Array, b: jax.Array, otherwise: Callable[..., jax.Array]
) -> jax.Array:
    """``sum + a b^T``, in place where that is possible; see `product`."""
    (rows, inner), columns = a.shape, len(b)
    if not _multiplied_here(a.dtype, rows * inner * columns):
        return otherwise(sum, a, b)
    return _on_cpu("add_product", (sum.shape,), otherwise, sum, a, b, over=0)


def add_gram(sum: jax.Array, a: jax.Array, otherwise: Callable[..., jax.Array]) -> jax.Array:
    """The upper triangle of ``sum + a a^T``, likewise; what is below it stays as it was."""
    order, inner = a.shape
    if not _multiplied_here(a.dtype, order * order * inner):
        return otherwise(sum, a)
    return _on_cpu("add_gram", (sum.shape,), otherwise, sum, a, over=0)


def _multiplied_here(dtype: np.dtype, multiplications: int) -> bool:
    return dtype in _DTYPES and multiplications >= _LEAST and _busy()


def eigh(
    matrix: jax.Array, otherwise: Callable[..., tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues [N], ascending, and eigenvectors, as columns [N, N], of a symmetric matrix.

    Its upper triangle is read. NaN where LAPACK finds none. See `product`.
    """
    order = len(matrix)
    if not _solved_here(matrix, _LEAST_VECTORS):
        return otherwise(matrix)
    shapes = (order,), (order, order), matrix.shape
    return _on_cpu("eigh", shapes, otherwise, matrix, over=2, after=lambda s, rows, _: (s, rows.T))


def eigvalsh(matrix: jax.Array, otherwise: Callable[..., jax.Array]) -> jax.Array:
    """The eigenvalues alone, in less than half of the time."""
    if not _solved_here(matrix, _LEAST_VALUES):
        return otherwise(matrix)
    shapes = (len(matrix),), matrix.shape
    return _on_cpu("eigvalsh", shapes, otherwise, matrix, over=1, after=lambda s, _: s)


def _solved_here(matrix: jax.Array, least: int) -> bool:
    return matrix.dtype == np.float64 and least <= len(matrix) <= _MOST_ORDER


def _on_cpu(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    otherwise: Callable[..., Any],
    *given: jax.Array,
    after: Callable[..., Any] = lambda result: result,
    over: int | None = None,
) -> Any:
    """A handler's results, or what `otherwise` makes of the same.

    Args:
      name: of the handler.
      shapes: of what it fills in.
      otherwise: does without it.
      given: what it gets.
      after: makes one result of what it has filled in.
      over: which of that lies where the first of `given` was, and holds it at first.
    """
    if not available():
        return otherwise(*given)

    def native(*given: jax.Array) -> Any:
        # Within shard_map what is computed belongs to each device by itself, as what is given does.
        one = given[0][0, 0]
        results = [jax.eval_shape(functools.partial(jnp.full, shape), one) for shape in shapes]
        call = jax.ffi.ffi_call(
            _PREFIX + name,
            results,
            vmap_method="sequential",
            input_output_aliases=None if over is None else {0: over},
        )
        return after(*call(*given))

    return jax.lax.platform_dependent(*given, cpu=native, default=otherwise)


_PREFIX = "svdjax_"
_found = threading.Lock()


def available() -> bool:
    """Whether the routines are there; made known to XLA at the first call."""
    with _found:
        return _register()


@functools.cache
def _register() -> bool:
    try:
        from svdjax.spectral.native import routines

        handlers = {"eigh": _eigh, "eigvalsh": _eigvalsh}
        handlers |= {"add_gram": _add_gram, "add_product": _add_product}
        handlers |= {f"gram_{turn}": functools.partial(_gram, turn) for turn in ("n", "t")}
        handlers |= {
            f"product_{turn}": functools.partial(_product, turn) for turn in ("nn", "tn", "nt")
        }
        for name, handler in handlers.items():
            foreign.register(_PREFIX + name, functools.partial(handler, routines))
    except Exception as error:  # of whatever kind: XLA can do without
        logging.getLogger(__name__).info("products are left to XLA: %s", error)
        return False
    return True


Arrays = Sequence[np.ndarray]


def _product(turn: str, routines: Any, given: Arrays, wanted: Arrays) -> None:
    routines.product(*given, *wanted, turn=turn)


def _gram(turn: str, routines: Any, given: Arrays, wanted: Arrays) -> None:
    routines.gram(*given, *wanted, turn=turn)
    routines.mirror(*wanted)


def _add_product(routines: Any, given: Arrays, wanted: Arrays) -> None:
    _, a, b = given
    routines.product(a, b, *wanted, turn="nt", keep=1.0)


def _add_gram(routines: Any, given: Arrays, wanted: Arrays) -> None:
    routines.gram(given[1], *wanted, keep=1.0)


def _eigh(routines: Any, _: Arrays, wanted: Arrays) -> None:
    _or_nan(routines.eigh, *wanted)


def _eigvalsh(routines: Any, _: Arrays, wanted: Arrays) -> None:
    _or_nan(routines.eigvalsh, *wanted)


def _or_nan(solve: Callable[..., None], *wanted: np.ndarray) -> None:
    """As jax does where LAPACK gives up; the last of them holds the matrix."""
    *found, matrix = wanted
    try:
        solve(matrix, *found)
    except np.linalg.LinAlgError:
        for array in found:
            array[:] = np.nan
